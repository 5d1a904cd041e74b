"""Time of matching two images' features on a CPU, the learned matcher beside its rivals in one run.

    python benchmarks/matching.py --threads 2 --repeats 7

The features are those of two photos of one place, so that early stops and pruning happen as they do in use. LightGlue
of the published size (9 layers of width 256, 4 heads) is kornia's, with random weights, and without early stops, which
random weights would make happen at random. Times are medians of calls taken in turn; ratios are medians of the ratios
of each round.
"""

import argparse
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from kornia.feature import LightGlue

import ripe
from ripe.features import Features
from ripe.tables import markdown_table

ASSETS = Path(ripe.__file__).parent / "assets"
COUNTS = (512, 1024, 2048)


def published(first: Features, second: Features) -> Callable[[], object]:
    """kornia's LightGlue of the published size, on these features."""
    torch.manual_seed(0)
    options = {"input_dim": first.descriptors.shape[1], "depth_confidence": -1, "width_confidence": -1, "flash": False}
    network = LightGlue(None, **options).eval()
    names = ("image0", "image1")
    images = {
        name: {
            "keypoints": side.keypoints[None],
            "descriptors": side.descriptors[None],
            "image_size": torch.tensor([side.image_size]),
        }
        for name, side in zip(names, (first, second), strict=True)
    }

    def call() -> object:
        with torch.no_grad():
            return network(images)

    return call


def contestants(first: Features, second: Features) -> dict[str, Callable[[], object]]:
    """What is measured, by name; the first one is what the others are compared with."""
    matcher = ripe.load_matcher("compact", device="cpu")
    return {
        "mutual nearest neighbours": lambda: ripe.match(first, second),
        "ratio test, 0.9": lambda: ripe.match(first, second, ratio=0.9),
        "AdaLAM (kornia)": lambda: ripe.match(first, second, method="adalam"),
        "lightglue": lambda: matcher(first, second),
        "LightGlue of the published size": published(first, second),
    }


def seconds(calls: dict[str, Callable[[], object]], repeats: int) -> dict[str, list[float]]:
    """Seconds of each call, taken in turn, after one that does not count."""
    for call in calls.values():
        call()
    found: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(repeats):
        for name, call in calls.items():
            start = time.perf_counter()
            call()
            found[name].append(time.perf_counter() - start)
    return found


def rows(images: Sequence[Path], repeats: int) -> list[list[str]]:
    """A row of the table for each contestant: milliseconds, and times what the first one takes."""
    model = ripe.load("compact", device="cpu")
    sides = model.extract([str(image) for image in images], max_keypoints=max(COUNTS), threshold=-1e9)
    cells: dict[str, list[str]] = {}
    for count in COUNTS:
        found = seconds(contestants(*(side[:count] for side in sides)), repeats)
        first = next(iter(found.values()))
        for name, values in found.items():
            ratio = statistics.median(value / base for value, base in zip(values, first, strict=True))
            cells.setdefault(name, [name]).append(f"{1000 * statistics.median(values):.0f} ms (×{ratio:.1f})")
    return list(cells.values())


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images", nargs="*", type=Path, help="two photos (the bundled ones)")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=7)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    images = arguments.images or [ASSETS / "motorcycle_left.jpg", ASSETS / "motorcycle_right.jpg"]
    header = ["matcher", *(f"{count} keypoints" for count in COUNTS)]
    print(markdown_table(header, rows(images, arguments.repeats)))


if __name__ == "__main__":
    main()
