"""Photos per second and processor time of `ripe extract` by one process, by a pool, and by Ray; and Ray's memory.

    python benchmarks/scale.py --photos 400 --workers 1 2
    python benchmarks/scale.py --memory 20000

All read the same photos of noise and write tables, but for the first, which is `ripe extract -o FILE.h5`. Processor
time is that of the whole tree of processes, without Ray's start; it is surer than seconds where the machine does other
things, too. Each way is taken in turn, `--repeats` times; the table has medians. What the engine itself costs is
measured with blocks that do nothing.
"""

import argparse
import multiprocessing
import os
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import ray
import torch
from PIL import Image

import ripe
from ripe.extract_many import Extract, extract_many, model_extract
from ripe.pretrained import model_settings
from ripe.scale.engines import Engine, Work, in_process, on_ray
from ripe.scale.extraction import extract_table
from ripe.scale.places import Place
from ripe.storage import FeatureFile
from ripe.tables import markdown_table

LIMITS: dict[str, Any] = {"max_keypoints": 512, "threshold": None, "max_side": None}
EMPTY_BLOCKS = 200


def make_photos(folder: Path, count: int, side: int) -> None:
    """Photos of coarse noise, `side` pixels wide."""
    random_numbers = np.random.default_rng(0)
    folder.mkdir()
    for number in range(count):
        noise = random_numbers.integers(0, 256, (side // 16, side // 12, 3), dtype=np.uint8)
        Image.fromarray(noise).resize((side, side * 3 // 4)).save(folder / f"{number:06}.jpg")


def make_extract() -> Extract:
    """The shipped network on the CPU, in one thread."""
    torch.set_num_threads(1)
    return model_extract(ripe.load("compact", device="cpu"), **LIMITS)


def single(folder: Path, output: Path) -> None:
    """As `ripe extract -o FILE.h5`."""
    with FeatureFile(output, {"model": "compact"}) as store:
        extract_many({path.name: path for path in folder.iterdir()}, make_extract(), store)


def table(engine: Engine, folder: Path, output: Path) -> None:
    """As `ripe extract -o TABLE`."""
    place = Place(str(folder))
    settings = {**LIMITS, **model_settings(ripe.load("compact", device="cpu"))}
    extract_table(place, place.photos(), make_extract, str(output), settings, engine=engine)


def on_pool(blocks: Sequence[Any], fetch: Work, make_worker: Callable[[], Work], *, workers: int) -> Iterator[Any]:
    """An engine that is Python's own pool of processes."""
    with multiprocessing.get_context("spawn").Pool(workers, _begin, (fetch, make_worker)) as pool:
        yield from pool.imap_unordered(_fetch_and_work, blocks)


def _begin(fetch: Work, make_worker: Callable[[], Work]) -> None:
    global _fetch, _work
    _fetch, _work = fetch, make_worker()


def _fetch_and_work(block: Any) -> Any:
    return _work(_fetch(block))


class Watch:
    """Processor seconds and memory of this process and its descendants, looked at some times a second."""

    def __init__(self) -> None:
        self.peaks: list[int] = []
        self._seconds: dict[tuple[int, float], float] = {}
        self._stop = threading.Event()

    def __enter__(self) -> "Watch":
        self._look()
        self._before = sum(self._seconds.values())
        self._began = time.perf_counter()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._stop.set()
        self._thread.join()
        self._look()
        self.wall = time.perf_counter() - self._began
        self.processor = sum(self._seconds.values()) - self._before

    def _run(self) -> None:
        while not self._stop.wait(0.25):
            self._look()

    def _look(self) -> None:
        memory = 0
        own = psutil.Process()
        for process in (own, *own.children(recursive=True)):
            try:
                times = process.cpu_times()
                self._seconds[process.pid, process.create_time()] = times.user + times.system
                memory += process.memory_info().rss - process.memory_info().shared
            except psutil.Error:
                continue
        self.peaks.append(memory)


def compare(folder: Path, count: int, workers: Sequence[int], repeats: int) -> str:
    """A table of all ways."""
    ways: dict[str, Callable[[Path, Path], None]] = {
        "ripe extract, HDF5": single,
        "one process, table": partial(table, in_process),
    }
    for number in workers:
        ways[f"pool of {number}, table"] = partial(table, partial(on_pool, workers=number))
        ways[f"Ray, {number} workers, table"] = partial(table, on_ray(number, gpu=False))
    found: dict[str, list[Watch]] = {name: [] for name in ways}
    with tempfile.TemporaryDirectory() as scratch:
        for repeat in range(repeats):
            for name, way in ways.items():
                with Watch() as watch:
                    way(folder, Path(scratch) / f"{repeat} {name}")
                found[name].append(watch)
    first = found["ripe extract, HDF5"]
    rows = []
    for name, watches in found.items():
        speed = statistics.median(base.wall / watch.wall for base, watch in zip(first, watches, strict=True))
        processor = statistics.median(
            base.processor / watch.processor for base, watch in zip(first, watches, strict=True)
        )
        milliseconds = statistics.median(watch.processor for watch in watches) / count * 1000
        rows.append([name, f"{speed:.2f}", f"{milliseconds:.1f} ms", f"{1 / processor:.2f}"])
    return markdown_table(["", "photos/s, ratio", "processor time a photo", "ratio"], rows)


def nothing(block: int) -> int:
    """The block itself."""
    return block


def make_nothing() -> Work:
    """A worker that does nothing."""
    return nothing


def overhead(workers: int) -> str:
    """What a block costs in Ray that does nothing."""
    engine = on_ray(workers, gpu=False)
    list(engine(range(10), nothing, make_nothing))
    with Watch() as few:
        list(engine(range(10), nothing, make_nothing))
    with Watch() as many:
        list(engine(range(10 + EMPTY_BLOCKS), nothing, make_nothing))
    return f"an empty block costs {(many.processor - few.processor) / EMPTY_BLOCKS * 1000:.1f} ms of processor time"


def memory(folder: Path, workers: int) -> str:
    """Memory of the first and the last tenth of a run."""
    with tempfile.TemporaryDirectory() as scratch, Watch() as watch:
        table(on_ray(workers, gpu=False), folder, Path(scratch) / "table")
    length = max(1, len(watch.peaks) // 10)
    tenths = [max(watch.peaks[start : start + length]) / 1e9 for start in range(0, len(watch.peaks), length)]
    return "GB in each tenth of the run: " + ", ".join(f"{tenth:.2f}" for tenth in tenths)


def main() -> None:
    """Print what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--photos", type=int, default=0, help="of the comparison")
    parser.add_argument("--side", type=int, default=320, help="of these photos in pixels")
    parser.add_argument("--memory", type=int, default=0, help="small photos of the run whose memory is watched")
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    os.environ.setdefault("RAY_worker_niceness", "0")  # its workers would step back for whatever else runs
    ray.init(
        "local",
        num_cpus=max(options.workers),
        include_dashboard=False,
        log_to_driver=False,
        object_store_memory=5 * 10**8,
    )
    with tempfile.TemporaryDirectory() as scratch:
        if options.photos:
            make_photos(Path(scratch) / "photos", options.photos, options.side)
            print(compare(Path(scratch) / "photos", options.photos, options.workers, options.repeats), flush=True)
            print(overhead(max(options.workers)), flush=True)
        if options.memory:
            make_photos(Path(scratch) / "many", options.memory, 64)
            print(memory(Path(scratch) / "many", max(options.workers)))


if __name__ == "__main__":
    main()
