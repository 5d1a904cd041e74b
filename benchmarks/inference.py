"""Time and memory of extraction on a CPU, ours by every back end beside rivals in one run; prints Markdown tables.

    python benchmarks/inference.py
    python benchmarks/inference.py --busy                          # beside a process that computes all the time
    python benchmarks/inference.py --int8 compact_int8.onnx        # of: ripe export compact -o … --int8 photos/
    python benchmarks/inference.py --photos my_photos/ --threads 4

`compact` and `robust` are measured on photos of different texture, cut and resized to 640×480: twelve that come with
this package and scikit-image, or those of a folder. On each photo the contestants take turns, so that all meet the
same machine, and the ratio to OpenCV's SIFT is the median over the rounds. Of these ratios, the table has the median
over the photos, the least and the most; so it has of processor time, which shows what waiting threads burn.
`vgg_hyper` is slower by an order of magnitude: it is measured on one photo, with random weights (the released ones
may not be at hand), which changes neither its time nor its memory. Peak memory is that of a fresh process which
extracts once.

Back ends that are not installed, and bfloat16 where the processor has none, are left out.
"""

import argparse
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import torch
from plain_vgg import PlainVgg
from skimage import data

import ripe
from ripe import runtime
from ripe.folders import photos_below
from ripe.model import RIPE
from ripe.photos import read_image
from ripe.pretrained import build
from ripe.tables import markdown_table

KEYPOINTS = 2048
SMALL, LARGE = (480, 640), (1200, 1600)
THRESHOLD = -1e9  # all local maxima count, so that random weights, too, fill the list of keypoints
TEXTURES = ("astronaut", "brick", "camera", "chelsea", "coffee", "coins", "grass", "gravel", "moon", "retina", "rocket")
PAUSE = 0.05  # seconds, in which the waiting threads of the contestant before come to rest
SIFT = "OpenCV SIFT"

Call = Callable[[np.ndarray], object]
"""Extracts from an H×W×3 uint8 image."""


class Seconds(NamedTuple):
    """What a call took: time on the clock, and of all the process's threads together."""

    wall: float
    processor: float


def photos(folder: Path | None) -> dict[str, np.ndarray]:
    """RGB uint8 photos by name, of any size."""
    if folder is not None:
        return {name: read_image(folder / name) for name in photos_below(folder)}
    motorcycle = read_image(Path(ripe.__file__).parent / "assets" / "motorcycle_left.jpg")
    return {"motorcycle": motorcycle, **{name: as_rgb(getattr(data, name)()) for name in TEXTURES}}


def as_rgb(image: np.ndarray) -> np.ndarray:
    """A photo of scikit-image, which may be grey."""
    return cv2.cvtColor(image, cv2.COLOR_GRAY2RGB) if image.ndim == 2 else image


def fitted(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """The middle of an image, resized to (height, width)."""
    height, width = size
    scale = min(image.shape[0] / height, image.shape[1] / width)
    rows, columns = round(scale * height), round(scale * width)
    top, left = (image.shape[0] - rows) // 2, (image.shape[1] - columns) // 2
    return cv2.resize(image[top : top + rows, left : left + columns], size[::-1], interpolation=cv2.INTER_AREA)


def seeded(name: str) -> RIPE:
    """Our model with random weights."""
    torch.manual_seed(0)
    return build(name).eval()


def plain() -> Call:
    """The plain model with the same weights as ours."""
    model = PlainVgg().eval()
    model.load_state_dict(seeded("vgg_hyper").state_dict())
    return lambda image: model.detect_and_compute(
        torch.from_numpy(image).permute(2, 0, 1).contiguous().float() / 255, THRESHOLD, KEYPOINTS
    )


def pytorch(model: RIPE, dtype: torch.dtype = torch.float32, threshold: float | None = None) -> Call:
    """Our model, computing in `dtype`."""
    model.compute_dtype = dtype
    return lambda image: model.extract(image, max_keypoints=KEYPOINTS, threshold=threshold)


def onnx_runtime(path: Path) -> Call:
    """`ripe.runtime`."""
    model = runtime.load(path, threads=torch.get_num_threads())
    return lambda image: model.extract(image, max_keypoints=KEYPOINTS)


def onnx_runtime_spinning(path: Path) -> Call:
    """ONNX Runtime by its own defaults, whose threads wait for work by spinning."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return lambda image: session.run(None, {"image": image.transpose(2, 0, 1)[None].astype(np.float32) / 255})


def openvino(path: Path) -> Call:
    """OpenVINO, in the precision of the file."""
    from openvino import Core

    options = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": torch.get_num_threads()}
    compiled = Core().compile_model(path, "CPU", options)
    return lambda image: compiled([image.transpose(2, 0, 1)[None].astype(np.float32) / 255])


def opencv(feature: cv2.Feature2D) -> Call:
    """A rival."""
    return lambda image: feature.detectAndCompute(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), None)


def contestants(int8: Path | None) -> dict[str, Callable[[], Call]]:
    """Those of `compact` and `robust`, and rivals; per name, what makes the call to be measured."""
    found: dict[str, Callable[[], Call]] = {
        SIFT: lambda: opencv(cv2.SIFT_create(KEYPOINTS)),
        "OpenCV ORB": lambda: opencv(cv2.ORB_create(KEYPOINTS)),
        "PyTorch": lambda: pytorch(ripe.load(device="cpu")),
        "robust, PyTorch": lambda: pytorch(ripe.load("robust", device="cpu")),
    }
    if {"avx512_bf16", "amx_bf16"} & {name for name, there in torch.cpu.get_capabilities().items() if there is True}:
        found["PyTorch, bfloat16"] = lambda: pytorch(ripe.load(device="cpu"), torch.bfloat16)
        found["robust, PyTorch, bfloat16"] = lambda: pytorch(ripe.load("robust", device="cpu"), torch.bfloat16)
    if find_spec("onnxruntime"):
        found["ONNX Runtime"] = lambda: onnx_runtime(runtime.COMPACT)
        found["ONNX Runtime, spinning"] = lambda: onnx_runtime_spinning(runtime.COMPACT)
        if int8:
            found["ONNX Runtime, int8"] = lambda: onnx_runtime(int8)
    if find_spec("openvino"):
        found["OpenVINO"] = lambda: openvino(runtime.COMPACT)
        if int8:
            found["OpenVINO, int8"] = lambda: openvino(int8)
    return found


PUBLISHED: dict[str, Callable[[], Call]] = {
    "vgg_hyper, plain": plain,
    "vgg_hyper": lambda: pytorch(seeded("vgg_hyper"), threshold=THRESHOLD),
    "vgg_hyper, bfloat16": lambda: pytorch(seeded("vgg_hyper"), torch.bfloat16, THRESHOLD),
    "compact": lambda: pytorch(seeded("compact"), threshold=THRESHOLD),
}


def times(calls: dict[str, Call], image: np.ndarray, repeats: int) -> dict[str, list[Seconds]]:
    """Of each call, the contestants in turn, after one of each that does not count."""
    for call in calls.values():
        call(image)
    seconds: dict[str, list[Seconds]] = {name: [] for name in calls}
    for _ in range(repeats):
        for name, call in calls.items():
            time.sleep(PAUSE)
            start = Seconds(time.perf_counter(), time.process_time())
            call(image)
            end = Seconds(time.perf_counter(), time.process_time())
            seconds[name].append(Seconds(*(after - before for before, after in zip(start, end, strict=True))))
    return seconds


def ratios(seconds: dict[str, list[Seconds]], rival: str) -> dict[str, Seconds]:
    """Of each contestant, the median ratio to the rival of the same round."""

    def ratio(name: str, field: int) -> float:
        return statistics.median(a[field] / b[field] for a, b in zip(seconds[name], seconds[rival], strict=True))

    return {name: Seconds(ratio(name, 0), ratio(name, 1)) for name in seconds}


@contextmanager
def beside_busy_processes(count: int) -> Iterator[None]:
    """Others that compute all the time meanwhile."""
    others = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        yield
    finally:
        for other in others:
            other.kill()
            other.wait()


def spread(values: list[float]) -> str:
    """Median, least and most."""
    return f"{statistics.median(values):.2f} ({min(values):.2f}–{max(values):.2f})"


def compare_back_ends(images: dict[str, np.ndarray], int8: Path | None, repeats: int) -> str:
    """The table of `compact` and `robust`."""
    calls = {name: make() for name, make in contestants(int8).items()}
    medians: dict[str, list[float]] = {name: [] for name in calls}
    found: dict[str, list[Seconds]] = {name: [] for name in calls}
    for image in images.values():
        seconds = times(calls, fitted(image, SMALL), repeats)
        for name, ratio in ratios(seconds, SIFT).items():
            medians[name].append(1e3 * statistics.median(each.wall for each in seconds[name]))
            found[name].append(ratio)
    rows = []
    for name, values in found.items():
        shares = [spread(list(field)) for field in zip(*values, strict=True)]
        rows.append([name, f"{statistics.median(medians[name]):.1f}", *shares])
    return markdown_table(["extractor", "median, ms", "time / SIFT's", "processor time / SIFT's"], rows)


def compare_published(image: np.ndarray, repeats: int) -> str:
    """The table of `vgg_hyper`."""
    seconds = times({name: make() for name, make in PUBLISHED.items()}, fitted(image, SMALL), repeats)
    plains, ours = (ratios(seconds, rival) for rival in ("vgg_hyper, plain", "vgg_hyper"))
    rows = []
    for name, values in seconds.items():
        walls = [1e3 * each.wall for each in values]
        spread_ms = f"{min(walls):.1f}–{max(walls):.1f}"
        shares = [f"{ratio[name].wall:.3f}" for ratio in (plains, ours)]
        rows.append([name, f"{statistics.median(walls):.1f}", spread_ms, *shares])
    return markdown_table(["extractor", "median, ms", "range, ms", "time / plain's", "time / vgg_hyper's"], rows)


def peak_memory(name: str, threads: int) -> float:
    """Megabytes that a fresh process holds at most while it makes the model and extracts once from a large image."""
    command = [sys.executable, __file__, "--threads", str(threads), "--memory-of", name]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def print_own_peak(name: str) -> None:
    """The subprocess of `peak_memory`."""
    {**PUBLISHED, **contestants(None)}[name]()(fitted(data.astronaut(), LARGE))
    status = Path("/proc/self/status")
    if status.exists():  # Linux's getrusage counts the parent's memory, too
        print(int(status.read_text().split("VmHWM:")[1].split()[0]) / 1e3)
    else:
        per_megabyte = 1e6 if sys.platform == "darwin" else 1e3  # bytes there, kilobytes elsewhere
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / per_megabyte)


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
    parser.add_argument("--repeats", type=int, default=7, help="rounds on each photo (%(default)s)")
    parser.add_argument("--photos", type=Path, metavar="FOLDER", help="in place of those that are installed")
    parser.add_argument("--int8", type=Path, metavar="ONNX", help="compact in eight bits, to be measured, too")
    parser.add_argument(
        "--busy", type=int, nargs="?", const=1, default=0, metavar="N", help="beside so many busy processes (1)"
    )
    parser.add_argument("--compact-only", action="store_true", help="leave out vgg_hyper and the memory")
    parser.add_argument("--memory-of", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    cv2.setNumThreads(arguments.threads)
    if arguments.memory_of:
        print_own_peak(arguments.memory_of)
        return
    images = photos(arguments.photos)
    beside = f", beside {arguments.busy} busy" if arguments.busy else ""
    print(f"{machine(arguments.threads)}{beside}\n\n{SMALL[1]}×{SMALL[0]} pixels, {KEYPOINTS} keypoints at most.\n")
    print(f"Median (least–most) of {len(images)} photos:\n")
    with beside_busy_processes(arguments.busy):
        print(compare_back_ends(images, arguments.int8, arguments.repeats))
        if arguments.compact_only:
            return
        print(f"\nOne photo:\n\n{compare_published(data.astronaut(), arguments.repeats)}")
    names = ("vgg_hyper, plain", "vgg_hyper", "compact", SIFT)
    rows = [[name, f"{peak_memory(name, arguments.threads):.0f}"] for name in names]
    print(f"\n{LARGE[1]}×{LARGE[0]} pixels:\n\n{markdown_table(['extractor', 'peak memory, MB'], rows)}")


if __name__ == "__main__":
    main()
