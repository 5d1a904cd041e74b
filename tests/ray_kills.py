"""Kill workers, actors and drivers of `ripe extract --engine ray` at random moments, and see that nothing is lost.

    python tests/ray_kills.py --kills 20 --seed 1

A local cluster of several processes runs the command on made photos. At random moments one of its processes, or the
command itself, is killed with SIGKILL; a killed command is started again, as its user would. In the end the table must
hold each photo once, with the features that a run without kills gives.
"""

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import numpy as np
import psutil
from PIL import Image

from ripe.scale.feature_tables import FeatureTable, feature_shards

KINDS = {"worker": "ray::MapBatches", "actor": "ray::MapWorker", "driver": ""}
LONGEST_WAIT = 2.0  # seconds between two kills
SHARD = 2
FINISHED = 1  # exit status, as one photo cannot be read


def start_cluster() -> None:
    """A cluster of two cores, which RAY_ADDRESS names to other processes; it bears a machine that does other things."""
    import ray

    os.environ |= {"RAY_worker_niceness": "0", "RAY_USAGE_STATS_ENABLED": "0"}
    for tries_left in reversed(range(5)):
        try:
            ray.init("local", num_cpus=2, object_store_memory=2 * 10**8, include_dashboard=False, log_to_driver=False)
            break
        except Exception as error:  # Ray gives itself 30 seconds to start
            if "timed out during startup" not in str(error) or tries_left == 0:
                raise
            ray.shutdown()
    os.environ["RAY_ADDRESS"] = ray.get_runtime_context().gcs_address


def make_photos(folder: Path, count: int, seed: int) -> None:
    """Small photos of noise that is coarse enough for keypoints, and one file that is none."""
    random_numbers = np.random.default_rng(seed)
    folder.mkdir(parents=True)
    for number in range(count):
        noise = random_numbers.integers(0, 256, (12, 16, 3), dtype=np.uint8)
        Image.fromarray(noise).resize((160, 120)).save(folder / f"{number:05}.png")
    (folder / "bad.jpg").write_text("no image")


def start_command(folder: Path, output: Path) -> subprocess.Popen[bytes]:
    """The command on the cluster that RAY_ADDRESS names; what it says goes to a file beside the table."""
    words = ["extract", str(folder), "-o", str(output), "--engine", "ray", "--workers", "2"]
    words += ["--shard-size", str(SHARD), "--max-keypoints", "50", "--device", "cpu"]
    with output.with_suffix(".log").open("w") as log:
        return subprocess.Popen([sys.executable, "-m", "ripe.cli", *words], stdout=log, stderr=log)


def run_killed(folder: Path, output: Path, kills: int, seed: int) -> Counter[str]:
    """Run the command to its end with so many kills; how many of each kind there were is returned."""
    chance = random.Random(seed)
    done: Counter[str] = Counter()
    command = start_command(folder, output)
    before: set[Path] = set()
    while True:
        ended = command.poll()
        shards = set(output.glob("*.parquet"))
        if ended == FINISHED and done.total() >= kills:
            return done
        if ended == FINISHED:  # before it could be killed as often as it should: there must be more to do
            for shard in chance.sample(sorted(shards), len(shards) // 2):
                shard.unlink()
            before = set(output.glob("*.parquet"))
        if ended is not None:
            assert ended in (FINISHED, -signal.SIGKILL), output.with_suffix(".log").read_text()
            command = start_command(folder, output)
        elif done.total() < kills and not shards <= before:  # it is at work again since the last kill
            time.sleep(chance.uniform(0, LONGEST_WAIT))
            kind = chance.choice(sorted(KINDS))
            if (victim := _victim(kind, command, chance)) is not None:
                os.kill(victim, signal.SIGKILL)
                done[kind] += 1
                before = set(output.glob("*.parquet"))
                print(f"killed {kind}, {len(before)} shards", flush=True)
                if kind == "driver":
                    command.wait()
        time.sleep(0.05)


def _victim(kind: str, command: subprocess.Popen[bytes], chance: random.Random) -> int | None:
    """A process of that kind; None if there is none at the moment."""
    if kind == "driver":
        return command.pid if command.poll() is None else None
    found = []
    for process in psutil.Process().children(recursive=True):
        try:
            if " ".join(process.cmdline()).startswith(KINDS[kind]):
                found.append(process.pid)
        except psutil.Error:
            continue
    return chance.choice(found) if found else None


def check_whole(output: Path, expected: FeatureTable) -> None:
    """That a table holds what another one does, and each photo once."""
    shards = feature_shards(str(output))
    names = Counter(name for _, _, name in shards.index(["name"])[0])
    assert names == Counter(expected.rows.keys()), names - Counter(expected.rows.keys())
    table = FeatureTable(str(output))
    assert table.errors() == expected.errors()
    for name, found in table.items():
        for key, values in expected.read(name).numpy().items():
            np.testing.assert_allclose(found.numpy()[key], values, atol=1e-4, err_msg=f"{name}: {key}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--photos", type=int, default=200)
    parser.add_argument("--seed", type=int, default=random.randrange(2**31))
    options = parser.parse_args()
    print(f"seed {options.seed}", flush=True)
    start_cluster()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "photos"
        make_photos(folder, options.photos, options.seed)
        words = ["-o", f"file://{scratch}/expected", "--max-keypoints", "50", "--device", "cpu"]
        subprocess.run([sys.executable, "-m", "ripe.cli", "extract", str(folder), *words], check=False)
        done = run_killed(folder, Path(scratch) / "features", options.kills, options.seed)
        check_whole(Path(scratch) / "features", FeatureTable(f"{scratch}/expected"))
    print(f"{options.photos} photos are there once, after {dict(done)}")


if __name__ == "__main__":
    main()
