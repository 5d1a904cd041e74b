"""Run the fuzz targets: `python -m fuzz [--seconds 60] [--jobs 2] [target …]`; status 1 if one has found a fault.

With `--runs N` in place of a time the inputs are the same each time, so that only a change of the code can fail.

What is found stands under build/fuzz: logs, new inputs, and the input of a fault, which `python fuzz/TARGET.py INPUT`
runs again. Each target starts from the inputs of fuzz/corpus/TARGET.
"""

import argparse
import importlib.util
import os
import random
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from pathlib import Path

HERE = Path(__file__).parent
FOUND = HERE.parent / "build" / "fuzz"
SEEDS = 40
GRACE = 120
"""Seconds beyond its time after which a target hangs; libFuzzer's own alarm hangs where memory is being allocated."""
TRIES = 2
TARGETS = sorted(path.stem for path in HERE.glob("*.py") if path.stem not in ("__main__", "harness"))


def main(words: Sequence[str] | None = None) -> int:
    """Run them and say what came of each."""
    parser = argparse.ArgumentParser(prog="python -m fuzz", description="Run the fuzz targets.")
    parser.add_argument("targets", nargs="*", metavar="target", help=f"{', '.join(TARGETS)} (all)")
    parser.add_argument("--seconds", type=int, default=60, help="for each target (%(default)s)")
    parser.add_argument("--runs", type=int, help="so many inputs for each target, the same ones each time, not a time")
    parser.add_argument("--jobs", type=int, default=1, help="targets at a time (%(default)s)")
    arguments = parser.parse_args(words)
    if unknown := sorted(set(arguments.targets) - set(TARGETS)):
        parser.error(f"no target {', '.join(unknown)}; there are {', '.join(TARGETS)}")
    if importlib.util.find_spec("atheris") is None:
        print("fuzz: left out, as there is no atheris for this Python here")
        return 0
    length = [f"-max_total_time={arguments.seconds}"]
    if arguments.runs is not None:
        length = [f"-runs={arguments.runs}", "-seed=1"]
    with ThreadPoolExecutor(arguments.jobs) as pool:
        ended = list(pool.map(partial(run, length=length, seconds=arguments.seconds), arguments.targets or TARGETS))
    return max(ended)


def run(target: str, length: Sequence[str], seconds: int) -> int:
    """Run one target, so long as libFuzzer's options say; 1 if it has found a fault."""
    folder = FOUND / target
    sow(folder / "corpus")
    kept = HERE / "corpus" / target
    corpora = [folder / "corpus", kept] if kept.is_dir() else [folder / "corpus"]
    command = [sys.executable, HERE / f"{target}.py", *corpora]
    options = [*length, f"-artifact_prefix={folder}/"]
    status = _ended([*command, *options], folder / "log.txt", seconds + GRACE)
    lines = (folder / "log.txt").read_text(errors="replace").splitlines()
    if status == 0:
        print(f"{target}: {next((line for line in reversed(lines) if line.startswith('Done')), 'ended')}", flush=True)
        return 0
    print("\n".join([f"{target}: found a fault, see {folder}", *lines[-30:]]), flush=True)
    return 1


def _ended(command: Sequence[str | Path], log: Path, limit: int) -> int:
    """The exit status of a target; 1 if it hung, and again when it was started anew."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    for _ in range(TRIES):
        with log.open("w") as written, suppress(subprocess.TimeoutExpired):
            run_once = partial(subprocess.run, env=environment, stdout=written, stderr=written, check=False)
            return run_once(command, timeout=limit).returncode
    return 1


def sow(folder: Path) -> None:
    """Inputs to start from: random ones, as targets make something of any bytes, if only there are enough."""
    folder.mkdir(parents=True, exist_ok=True)
    generator = random.Random(0)
    for number in range(SEEDS):
        (folder / f"seed{number:02}").write_bytes(generator.randbytes(generator.choice((20, 60, 200, 600, 2000))))


if __name__ == "__main__":
    sys.exit(main())
