"""Faults on purpose: commands are killed, run out of disk, lose their folders, and run again must give the same files.

`python tests/faults.py --kills 50 --seed 7` takes an hour or so; `tests/test_faults.py` runs some of it each time. A
seed repeats the moments that are counted in changes of files, and those by the clock as far as the clock does.

Every command first runs undisturbed. Then, again and again, it runs with a fault, and once more without: that run must
succeed and leave what the undisturbed one left, file by file, with nothing besides. Compared are bytes, but of
HDF5 files, databases and checkpoints what is in them, as their layout hangs on the order of writing, and of tables
and checkpoints not the times. A run with a fault may fail by one line on the standard error, and in no other way.
"""

import argparse
import csv
import hashlib
import multiprocessing
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import h5py
import made_scene
import torch

from ripe.cli import main

# Forked processes find everything imported, so that a run takes the time of its work alone. This process computes
# nothing itself, as PyTorch's threads do not survive a fork.
FORK = multiprocessing.get_context("fork")
LIMIT_SECONDS = 600
PAGE = 4096
SPARE = 1 << 28
CHANGES = {"os.rename", "os.remove", "os.mkdir", "os.rmdir"}

Act = Callable[[], object]


@dataclass(frozen=True)
class Job:
    """A command whose files all lie in one folder.

    Attributes:
        name: of the command.
        words: of the command line, given the inputs' folder and that one.
        read: which of its files a later run reads.
    """

    name: str
    words: Callable[[Path, Path], list[str]]
    read: str


def _train(inputs: Path, output: Path) -> list[str]:
    run = [f"data.scenes={inputs / 'scenes'}", f"output={output}", "resume=auto", "steps=4", "accelerator=cpu"]
    run += ["precision=32-true", "checkpoint_interval=1", "keep_checkpoints=2", "log_interval=1", "val_interval=2"]
    data = ["data.size=64", "data.pairs_per_step=2", "data.self_share=0.5", "data.negative_share=0.25"]
    data += ["data.hold_back=0", "data.workers=0"]
    return ["train", *run, *data, "objective.min_keypoints=4", "objective.border=8", "optimizer.warmup_steps=2"]


def _match(inputs: Path, output: Path) -> list[str]:
    return [
        "match",
        "--pairs",
        f"{inputs / 'pairs.txt'}",
        "--features",
        f"{inputs / 'f.h5'}",
        "-o",
        f"{output / 'm.h5'}",
    ]


def _reconstruct(inputs: Path, output: Path) -> list[str]:
    alike = ["--single-threaded", "--single-camera", "--rotations", "none"]
    return ["reconstruct", f"{inputs / 'photos'}", "-o", f"{output}", *alike, *FEW]


FEW = ["--max-keypoints", "300", "--device", "cpu"]
JOBS = [
    Job(
        "extract", lambda inputs, output: ["extract", f"{inputs / 'photos'}", "-o", f"{output / 'f.h5'}", *FEW], "*.h5"
    ),
    Job("match", _match, "*.h5"),
    Job("reconstruct", _reconstruct, "*.h5"),
    Job("train", _train, "*.pt"),
    Job("export", lambda inputs, output: ["export", "compact", "-o", f"{output / 'compact.onnx'}"], "*.onnx"),
]


def make_inputs(folder: Path) -> None:
    """Photos, the same in two scenes, a list of pairs, and features."""
    *photos, fifth, sixth = sorted(made_scene.write(folder / "photos").iterdir())
    fifth.unlink()
    sixth.unlink()
    for index, photo in enumerate(photos):
        scene = folder / "scenes" / str(index % 2)
        scene.mkdir(parents=True, exist_ok=True)
        shutil.copy(photo, scene)
    pairs = [f"{first.name} {second.name}\n" for first in photos for second in photos if first.name < second.name]
    (folder / "pairs.txt").write_text("".join(pairs))
    main(["extract", f"{folder / 'photos'}", "-o", f"{folder / 'f.h5'}", *FEW])


@dataclass(frozen=True)
class Ended:
    """How a run ended: its exit status, minus the number of the signal that ended it, and its standard error."""

    status: int
    text: str

    def in_order(self) -> bool:
        """Whether it succeeded, or failed as a user may see it fail."""
        errors = [line for line in self.text.splitlines() if line.startswith("ripe: ")]
        return "Traceback" not in self.text and (self.status == 0 or (self.status == 1 and len(errors) > 0))

    def __str__(self) -> str:
        return f"exit status {self.status}, {self.text[-2000:]!r}"


class Run:
    """A command in a process of its own, which does `act` before the change of files of that number under `output`."""

    def __init__(self, words: list[str], output: Path, number: int = 0, act: Act = lambda: None) -> None:
        self.changes = FORK.Value("i", 0)
        self._log = Path(tempfile.mkstemp(prefix="faults-", suffix=".log")[1])
        self.process: BaseProcess = FORK.Process(target=self._work, args=(words, output, number, act))
        self.process.start()

    def end(self) -> Ended:
        """Wait for it."""
        self.process.join(LIMIT_SECONDS)
        if self.process.exitcode is None:
            self.process.kill()
            self.process.join()
            raise TimeoutError(f"still running after {LIMIT_SECONDS} s")
        text = self._log.read_text(errors="replace")
        self._log.unlink()
        return Ended(self.process.exitcode, text)

    def _work(self, words: list[str], output: Path, number: int, act: Act) -> None:
        with self._log.open("w") as log:
            for stream in (1, 2):
                os.dup2(log.fileno(), stream)
        sys.stdout, sys.stderr = (os.fdopen(stream, "w", buffering=1, closefd=False) for stream in (1, 2))

        def look(event: str, arguments: tuple[Any, ...]) -> None:
            if _changes_files(event, arguments, str(output)):
                self.changes.value += 1
                if self.changes.value == number:
                    act()

        sys.addaudithook(look)
        sys.exit(main(words))


def _changes_files(event: str, arguments: tuple[Any, ...], folder: str) -> bool:
    if event == "open":
        path, _, flags = arguments
        return bool(flags & (os.O_WRONLY | os.O_RDWR)) and str(path).startswith(folder)
    # Whole folders are removed by names in folders that are open, which the last argument tells of.
    return event in CHANGES and (str(arguments[0]).startswith(folder) or arguments[-1] != -1)


def contents(folder: Path) -> dict[str, Any]:
    """What is in a folder: of every file, by its name, what can be compared."""
    return {
        str(path.relative_to(folder)): None if path.is_dir() else _content(path) for path in sorted(folder.rglob("*"))
    }


def _content(path: Path) -> Any:
    if path.suffix == ".h5":
        found: dict[str, Any] = {}
        with h5py.File(path) as file:
            file.visititems(lambda name, item: found.update({name: _hdf5_content(item)}))
            return dict(file.attrs), found
    if path.suffix == ".db":
        connection = sqlite3.connect(path)
        try:
            return [line for line in connection.iterdump() if "sqlite_sequence" not in line]
        finally:
            connection.close()
    if path.suffix == ".csv":
        with path.open(newline="") as file:
            return [_without_times(row) for row in csv.DictReader(file)]
    if path.suffix == ".pt":
        return _plain(torch.load(path, weights_only=True))
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _hdf5_content(item: h5py.Group | h5py.Dataset) -> Any:
    return dict(item.attrs), item[()].tobytes() if isinstance(item, h5py.Dataset) else None


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(each) for key, each in _without_times(value).items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    return value.tolist() if isinstance(value, torch.Tensor) else value


def _without_times(row: dict[Any, Any]) -> dict[Any, Any]:
    return {key: value for key, value in row.items() if "time/" not in str(key) and "second" not in str(key)}


@contextmanager
def disk(place: Path, size: int) -> Iterator[Path]:
    """A disk of `size` bytes at the empty folder `place`."""
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "faults", place], check=True, capture_output=True)
    try:
        yield place
    finally:
        subprocess.run(["umount", "--lazy", place], check=True)


def disks_can_be_made(place: Path) -> bool:
    """Whether this process may mount a disk, as root may."""
    with suppress(OSError, subprocess.CalledProcessError), disk(place, PAGE):
        return True
    return False


class Trial:
    """One command under faults."""

    def __init__(self, job: Job, inputs: Path, folder: Path, chance: random.Random) -> None:
        self.job, self.inputs, self.folder, self.chance = job, inputs, folder, chance
        self.output = folder / "output"
        self.failures: list[str] = []
        self.count = 0
        self.output.mkdir(parents=True)
        begun = time.monotonic()
        run = self._run()
        ended = run.end()
        self.seconds, self.changes = time.monotonic() - begun, run.changes.value
        assert ended.status == 0, ended
        self.wanted = contents(self.output)
        self.bytes = sum(path.stat().st_size for path in self.output.rglob("*") if path.is_file())

    def kill(self) -> None:
        """By SIGKILL, at a change of files and at a moment of the clock in turn."""
        self._anew()
        if self.count % 2:
            number = self.chance.randint(1, self.changes)
            ended = self._run(number=number, act=lambda: os.kill(os.getpid(), signal.SIGKILL)).end()
            what = f"killed before change {number} of {self.changes}"
        else:
            share = self.chance.random()
            run = self._run()
            time.sleep(share * self.seconds)
            run.process.kill()
            ended = run.end()
            what = f"killed after {share:.0%} of its time"
        self._expect(what, ended.status == -signal.SIGKILL or ended.in_order(), ended)
        self._again(what)

    def fill(self) -> None:
        """The disk is full after some bytes, and later has room."""
        self._anew()
        size = PAGE * self.chance.randint(1, self.bytes // PAGE + 1)
        what = f"a disk of {size} bytes for {self.bytes}"
        with disk(self.output, size):
            ended = self._run().end()
            self._expect(what, ended.in_order(), ended)
            subprocess.run(["mount", "-o", f"remount,size={SPARE}", self.output], check=True)
            self._again(what)

    def lose(self) -> None:
        """The folder of the output is removed."""
        self._anew()
        number = self.chance.randint(1, self.changes)
        what = f"without its folder from change {number} of {self.changes} on"
        ended = self._run(number=number, act=lambda: shutil.rmtree(self.output, ignore_errors=True)).end()
        self._expect(what, ended.in_order(), ended)
        self.output.mkdir(exist_ok=True)
        self._again(what)

    def hide(self) -> None:
        """The folder of the inputs is away for the rest of a run."""
        self._anew()
        number = self.chance.randint(1, self.changes)
        what = f"without its inputs from change {number} of {self.changes} on"
        away = self.inputs.with_name("away")
        ended = self._run(number=number, act=lambda: shutil.move(self.inputs, away)).end()
        if away.exists():
            away.rename(self.inputs)
        self._expect(what, ended.in_order(), ended)
        self._again(what)

    def forbid(self) -> None:
        """The disk may only be read."""
        self._anew()
        what = "a disk that may only be read"
        with disk(self.output, SPARE):
            subprocess.run(["mount", "-o", "remount,ro", self.output], check=True)
            ended = self._run().end()
            self._expect(what, ended.in_order() and ended.status == 1, ended)
            subprocess.run(["mount", "-o", "remount,rw", self.output], check=True)
            self._again(what)

    def cut(self) -> None:
        """A file of the output ends too early."""
        self._anew()
        number = self.chance.randint(1, self.changes)
        self._run(number=number, act=lambda: os.kill(os.getpid(), signal.SIGKILL)).end()
        files = sorted(path for path in self.output.rglob(self.job.read) if path.stat().st_size)
        if not files:
            return
        file = self.chance.choice(files)
        size = self.chance.randrange(file.stat().st_size)
        os.truncate(file, size)
        what = f"killed before change {number} of {self.changes}, {file.relative_to(self.folder)} cut to {size} bytes"
        ended = self._run().end()
        self._expect(what, ended.in_order(), ended)
        if ended.status:
            self._expect(what, file.name in ended.text, ended)
            file.unlink()
        self._again(what)

    def turn_back(self) -> None:
        """The clock goes back by an hour each time it is asked, and what is there was written tomorrow."""
        self._anew()
        number = self.chance.randint(1, self.changes)
        self._run(number=number, act=lambda: os.kill(os.getpid(), signal.SIGKILL)).end()
        for path in self.output.rglob("*"):
            os.utime(path, times=(time.time() + 86400,) * 2)
        hours = iter(range(1 << 30))
        what = "a clock that goes back"
        now, time.time = time.time(), lambda: now - 3600 * next(hours)
        try:
            ended = self._run().end()
        finally:
            time.time = _TIME
        self._expect(what, ended.status == 0, ended)
        self._again(what)

    def twice(self) -> None:
        """Two processes write the same output."""
        self._anew()
        first = self._run()
        time.sleep(self.chance.random() * self.seconds)
        second = self._run()
        for run in (first, second):
            ended = run.end()
            self._expect("two processes", ended.status == 0, ended)
        self._again("two processes")

    def _run(self, number: int = 0, act: Act = lambda: None) -> Run:
        return Run(self.job.words(self.inputs, self.output), self.output, number, act)

    def _anew(self) -> None:
        self.count += 1
        shutil.rmtree(self.output, ignore_errors=True)
        self.output.mkdir(exist_ok=True)

    def _again(self, what: str) -> None:
        ended = self._run().end()
        self._expect(f"{what}, then run again", ended.status == 0, ended)
        if ended.status == 0:
            found = contents(self.output)
            differing = [name for name in sorted({*found, *self.wanted}) if self._differs(name, found)]
            self._expect(f"{what}, then run again: other content of {differing}", not differing, ended)

    def _differs(self, name: str, found: dict[str, Any]) -> bool:
        if (name in found) != (name in self.wanted):
            return True
        return repr(found[name]) != repr(self.wanted[name])

    def _expect(self, what: str, fulfilled: bool, ended: Ended) -> None:
        if not fulfilled:
            self.failures.append(f"{self.job.name}: {what}: {ended}")
            sys.stdout.write(f"FAILED {self.failures[-1]}\n")


_TIME = time.time
COUNTS = {"kill": 50, "fill": 20, "lose": 10, "hide": 5, "cut": 10, "turn_back": 2, "twice": 3, "forbid": 1}
NEED_DISKS = {"fill", "forbid"}


def main_faults(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10**6), help="(drawn and shown)")
    parser.add_argument("--jobs", nargs="+", choices=[job.name for job in JOBS], default=[job.name for job in JOBS])
    for name, count in COUNTS.items():
        doc = str(getattr(Trial, name).__doc__).splitlines()[0]
        parser.add_argument(f"--{name.replace('_', '-')}s", type=int, default=count, metavar="N", dest=name, help=doc)
    arguments = parser.parse_args(argv)
    print(f"--seed {arguments.seed}", flush=True)
    failures = []
    with tempfile.TemporaryDirectory(prefix="faults-") as place:
        folder = Path(place)
        (folder / "disk").mkdir()
        can_mount = disks_can_be_made(folder / "disk")
        maker = FORK.Process(target=make_inputs, args=(folder / "inputs",))
        maker.start()
        maker.join()
        for job in (job for job in JOBS if job.name in arguments.jobs):
            trial = Trial(job, folder / "inputs", folder / job.name, random.Random(arguments.seed))
            print(
                f"{job.name}: undisturbed {trial.seconds:.1f} s, {trial.changes} changes, {trial.bytes} bytes",
                flush=True,
            )
            for name in COUNTS:
                count = getattr(arguments, name)
                if name in NEED_DISKS and not can_mount and count:
                    print(f"{job.name}: {name}: left out, as only root may mount a disk")
                    continue
                before, failed = trial.count, len(trial.failures)
                try:
                    for _ in range(count):
                        getattr(trial, name)()
                finally:  # where a person ends it, what was done is said, too
                    times = trial.count - before
                    print(f"{job.name}: {name}: {times} times, {len(trial.failures) - failed} failures", flush=True)
            failures += trial.failures
    print(f"{len(failures)} failures")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main_faults())
