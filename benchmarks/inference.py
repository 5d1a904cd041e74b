"""Time and memory of extraction on a CPU, ours beside named rivals in one run; prints a Markdown table.

    python benchmarks/inference.py --threads 2 --repeats 7

Times are medians of calls taken in turn, so that all meet the same machine; ratios are medians of the ratios of each
round. Peak memory is that of a fresh process which extracts once. The weights of `vgg_hyper` are random (the released
ones may not be at hand): they change neither its time nor its memory.
"""

import argparse
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import torch
from plain_vgg import PlainVgg
from skimage import data

from ripe.model import RIPE
from ripe.pretrained import build

KEYPOINTS = 2048
SMALL, LARGE = (480, 640), (1200, 1600)
THRESHOLD = -1e9  # all local maxima count, so that random weights, too, fill the list of keypoints


def photo(size: tuple[int, int]) -> np.ndarray:
    """A real photo of (height, width), RGB uint8."""
    return cv2.resize(data.astronaut(), size[::-1], interpolation=cv2.INTER_AREA)


def as_tensor(image: np.ndarray) -> torch.Tensor:
    """3×H×W float in 0..1."""
    return torch.from_numpy(image).permute(2, 0, 1).contiguous().float() / 255


def seeded(name: str) -> RIPE:
    """Our model with random weights."""
    torch.manual_seed(0)
    return build(name).eval()


def plain() -> PlainVgg:
    """The plain model with the same weights as ours."""
    model = PlainVgg().eval()
    model.load_state_dict(seeded("vgg_hyper").state_dict())
    return model


def in_bfloat16(model: RIPE) -> RIPE:
    """The model, computing in bfloat16."""
    model.compute_dtype = torch.bfloat16
    return model


def contestants(size: tuple[int, int]) -> dict[str, Callable[[], Callable[[], object]]]:
    """Per name, what makes the model and returns the call to be measured."""
    image = photo(size)
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)

    def ours(model: RIPE) -> Callable[[], object]:
        return lambda: model.extract(image, max_keypoints=KEYPOINTS, threshold=THRESHOLD)

    def published() -> Callable[[], object]:
        model, tensor = plain(), as_tensor(image)
        return lambda: model.detect_and_compute(tensor, THRESHOLD, KEYPOINTS)

    def opencv(feature: cv2.Feature2D) -> Callable[[], object]:
        return lambda: feature.detectAndCompute(grey, None)

    return {
        "vgg_hyper, plain": published,
        "vgg_hyper": lambda: ours(seeded("vgg_hyper")),
        "vgg_hyper, bfloat16": lambda: ours(in_bfloat16(seeded("vgg_hyper"))),
        "compact": lambda: ours(seeded("compact")),
        "compact, bfloat16": lambda: ours(in_bfloat16(seeded("compact"))),
        "OpenCV SIFT": lambda: opencv(cv2.SIFT_create(KEYPOINTS)),
        "OpenCV ORB": lambda: opencv(cv2.ORB_create(KEYPOINTS)),
    }


def times(names: list[str], size: tuple[int, int], repeats: int) -> dict[str, list[float]]:
    """Seconds per call, the contestants in turn, after one call of each that does not count."""
    made = contestants(size)
    calls = {name: made[name]() for name in names}
    for call in calls.values():
        call()
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for _ in range(repeats):
        for name, call in calls.items():
            start = time.perf_counter()
            call()
            seconds[name].append(time.perf_counter() - start)
    return seconds


def peak_memory(name: str, threads: int) -> float:
    """Megabytes that a fresh process holds at most while it makes the model and extracts once from a large image."""
    command = [sys.executable, __file__, "--threads", str(threads), "--memory-of", name]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def print_own_peak(name: str) -> None:
    """The subprocess of `peak_memory`."""
    contestants(LARGE)[name]()()
    status = Path("/proc/self/status")
    if status.exists():  # Linux's getrusage counts the parent's memory, too
        print(int(status.read_text().split("VmHWM:")[1].split()[0]) / 1e3)
    else:
        per_megabyte = 1e6 if sys.platform == "darwin" else 1e3  # bytes there, kilobytes elsewhere
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / per_megabyte)


def print_table(seconds: dict[str, list[float]], rivals: list[tuple[str, str]]) -> None:
    """Times, then ratios of ours to the rival's."""
    print("| extractor | median, ms | range, ms |\n|---|---|---|")
    for name, values in seconds.items():
        print(f"| {name} | {1e3 * statistics.median(values):.1f} | {1e3 * min(values):.1f}–{1e3 * max(values):.1f} |")
    print("\n| time of | relative to | ratio |\n|---|---|---|")
    for ours, rival in rivals:
        ratio = statistics.median(a / b for a, b in zip(seconds[ours], seconds[rival], strict=True))
        print(f"| {ours} | {rival} | {ratio:.3f} |")
    print()


def machine(threads: int) -> str:
    """Hardware and versions."""
    cpuinfo = Path("/proc/cpuinfo")
    names = [line for line in cpuinfo.read_text().splitlines() if "model name" in line] if cpuinfo.exists() else []
    processor = names[0].split(":")[1].strip() if names else platform.processor()
    return (
        f"{processor}, {threads} threads; {platform.system()}, Python {platform.python_version()}, "
        f"PyTorch {torch.__version__}, OpenCV {cv2.__version__}"
    )


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--memory-of", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    cv2.setNumThreads(arguments.threads)
    if arguments.memory_of:
        print_own_peak(arguments.memory_of)
        return
    print(f"{machine(arguments.threads)}\n\n{SMALL[1]}×{SMALL[0]} pixels, {KEYPOINTS} keypoints at most:\n")
    slow = ["vgg_hyper, plain", "vgg_hyper", "vgg_hyper, bfloat16", "compact"]
    print_table(
        times(slow, SMALL, arguments.repeats),
        [("vgg_hyper", "vgg_hyper, plain"), ("vgg_hyper, bfloat16", "vgg_hyper, plain"), ("compact", "vgg_hyper")],
    )
    fast = ["compact", "compact, bfloat16", "OpenCV SIFT", "OpenCV ORB"]
    print_table(times(fast, SMALL, 10 * arguments.repeats), [(ours, rival) for ours in fast[:2] for rival in fast[2:]])
    print(f"{LARGE[1]}×{LARGE[0]} pixels:\n\n| extractor | peak memory, MB |\n|---|---|")
    for name in ("vgg_hyper, plain", "vgg_hyper", "compact", "OpenCV SIFT"):
        print(f"| {name} | {peak_memory(name, arguments.threads):.0f} |")


if __name__ == "__main__":
    main()
