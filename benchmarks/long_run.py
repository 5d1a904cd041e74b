"""Whether a process that extracts for long keeps its memory, file handles and threads; prints a Markdown table.

    python benchmarks/long_run.py --count 50000
    python benchmarks/long_run.py --seconds 600

Photos are files of some 320×240 pixels in several sizes, so that allocations differ from one to the next, read and
extracted one by one. The slope is that of a straight line through the resident sets after the first tenth, in which
PyTorch and the C library take what they keep. Linux only.
"""

import argparse
import os
import tempfile
import threading
import time
from pathlib import Path

import cv2
import numpy as np
import torch

import ripe
from ripe.images import read_image
from ripe.tables import markdown_table

PHOTO = Path(ripe.__file__).parent / "assets" / "motorcycle_left.jpg"
SIZES = ((320, 240), (240, 320), (300, 200), (333, 251), (280, 210))


def resident() -> float:
    """The resident set in MB."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


def handles() -> int:
    """How many files are open."""
    return len(list(Path("/proc/self/fd").iterdir()))


def native_threads() -> int:
    """Threads of the process, PyTorch's among them."""
    return len(list(Path("/proc/self/task").iterdir()))


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=50_000, help="extractions at most (%(default)s)")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="after which it ends")
    parser.add_argument("--max-memory", help="extract below a ceiling, such as 1G")
    parser.add_argument("--every", type=int, default=50, help="extractions between two readings (%(default)s)")
    arguments = parser.parse_args()
    model = ripe.load(device="cpu")
    readings: list[tuple[int, float]] = []
    begun = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder) / f"{width}x{height}.jpg" for width, height in SIZES]
        for path, size in zip(paths, SIZES, strict=True):
            cv2.imwrite(str(path), cv2.resize(read_image(PHOTO), size, interpolation=cv2.INTER_AREA))
        done, start = 0, (0, 0)
        while done < arguments.count and time.monotonic() - begun < arguments.seconds:
            model.extract(paths[done % len(paths)], max_memory=arguments.max_memory)
            done += 1
            if done % arguments.every == 0:
                readings.append((done, resident()))
                start = start if len(readings) > 1 else (handles(), native_threads())
    counts, sizes = np.array(readings)[len(readings) // 10 :].T
    slope = np.polyfit(counts, sizes, 1)[0] * 1000
    row = [str(done), f"{sizes[0]:.0f} → {sizes[-1]:.0f}", f"{slope:.2f}"]
    row += [f"{start[0]} → {handles()}", f"{start[1]} → {native_threads()}", str(threading.active_count())]
    header = ["extractions", "resident set, MB", "slope, MB per 1000", "open files", "threads", "of these Python's"]
    print(f"{torch.get_num_threads()} PyTorch threads")
    print(markdown_table(header, [row]))


if __name__ == "__main__":
    main()
