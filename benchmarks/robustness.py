"""How far a photo may be turned, enlarged, tilted or darkened before matching fails; prints a Markdown table.

    python benchmarks/robustness.py photos/ --model compact --baseline sift orb --pictures failures/

Every photo of the folder is shown twice: as it is (its middle, 448×448 pixels), and changed in one way. The truth is
known, so no annotation is needed. A cell of the table says in how many percent of the photos a homography fitted to the
matches (PoseLib, 2 px) moves the view's corners by less than 5 px on average, and how many percent of the matches
are right (within 3 px). `--pictures` saves, for each change, the pair with fewest right matches of the first extractor.
"""

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ripe.data.warps import perspective, render, similarity
from ripe.drawing import draw_matches, save_picture
from ripe.evaluation.baselines import baseline
from ripe.extractors import Describer, describer
from ripe.folders import photos_below
from ripe.geometry.homography import apply_homography, mean_transfer_error, outer_corners
from ripe.geometry.robust import estimate_geometry
from ripe.images import as_rgb
from ripe.matching import match
from ripe.pretrained import load

SIZE = 448
KEYPOINTS = 2048
RIGHT_MATCH, RIGHT_HOMOGRAPHY = 3.0, 5.0  # pixels


@dataclass(frozen=True)
class Change:
    """What is done to the second view: turned, enlarged, tilted, and its light raised to a power."""

    name: str
    rotation_deg: float = 0.0
    scale: float = 1.0
    tilt: float = 0.0
    gamma: float = 1.0


CHANGES = [
    *(Change(f"turned by {angle}°", rotation_deg=angle) for angle in (15, 30, 45, 60, 90, 180)),
    *(Change(f"enlarged ×{scale:g}", scale=scale) for scale in (1.5, 2.0, 3.0, 4.0)),
    *(Change(f"corners moved by up to {tilt / 2:.0%}", tilt=tilt) for tilt in (0.3, 0.6)),
    *(Change(f"darkened, gamma {gamma:g}, with noise", gamma=gamma) for gamma in (2.0, 4.0)),
]


@dataclass(frozen=True)
class Outcome:
    """Of one photo: share of right matches, whether the homography is right, and what is needed to draw it."""

    share: float
    success: bool
    views: tuple[Tensor, Tensor]
    points: tuple[Tensor, Tensor]
    right: Tensor


def make_views(photo: np.ndarray, change: Change, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, Tensor]:
    """Both views, S×S×3 uint8, and the homography from the first to the second."""
    height, width = photo.shape[:2]
    middle = np.array([width - 1, height - 1]) / 2
    fit = max(1.0, SIZE / min(height, width))
    first = similarity(SIZE, middle, fit, 0.0)
    turned = similarity(SIZE, middle, fit * change.scale, change.rotation_deg)
    second = perspective(SIZE, change.tilt, rng) @ turned
    view0, view1 = (render(photo, homography, SIZE).image for homography in (first, second))
    if change.gamma != 1:
        dark = 255 * (view1 / 255) ** change.gamma + rng.normal(0, 3, view1.shape)
        view1 = np.clip(dark, 0, 255).astype(np.uint8)
    return view0, view1, torch.from_numpy(second @ np.linalg.inv(first))


def try_photo(describe: Describer, photo: np.ndarray, change: Change, seed: int) -> Outcome:
    """Match a photo with its changed self."""
    view0, view1, homography = make_views(photo, change, np.random.default_rng(seed))
    views = as_rgb(view0), as_rgb(view1)
    features0, features1 = (describe(view).to("cpu") for view in views)
    points0, points1 = match(features0, features1).points(features0, features1)
    right = (apply_homography(homography, points0.double()) - points1).norm(dim=-1) <= RIGHT_MATCH
    fitted = estimate_geometry("homography", points0, points1, max_error=2.0, max_iterations=20_000)
    success = False
    if fitted.model is not None:
        corners = outer_corners((SIZE, SIZE))
        error = mean_transfer_error(fitted.model, corners, apply_homography(homography, corners))
        success = bool(error < RIGHT_HOMOGRAPHY)
    return Outcome(float(right.float().mean()) if len(right) else 0.0, success, views, (points0, points1), right)


def read_photos(folder: Path, count: int) -> list[np.ndarray]:
    """At most `count` photos of a folder and its sub-folders, spread evenly, as H×W×3 uint8."""
    paths = [folder / name for name in photos_below(folder)]
    if not paths:
        raise SystemExit(f"{folder}: holds no photo")
    chosen = np.linspace(0, len(paths) - 1, min(count, len(paths))).round().astype(int)
    return [(as_rgb(paths[i]) * 255).round().byte().permute(1, 2, 0).numpy() for i in chosen]


def extractors(models: Sequence[str], baselines: Sequence[str]) -> dict[str, Describer]:
    """The extractors by name."""
    ours = {Path(name).stem: describer(load(name), max_keypoints=KEYPOINTS) for name in models}
    return ours | {name: baseline(name, KEYPOINTS) for name in baselines}


def print_table(names: Sequence[str], cell: Callable[[str, Change], str]) -> None:
    """One row a change, one column an extractor."""
    print(f"| second view | {' | '.join(names)} |\n|---|{'---|' * len(names)}")
    for change in CHANGES:
        print(f"| {change.name} | {' | '.join(cell(name, change) for name in names)} |", flush=True)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", type=Path)
    parser.add_argument("--model", nargs="*", default=["compact"])
    parser.add_argument("--baseline", nargs="*", default=["sift", "orb"])
    parser.add_argument("--count", type=int, default=40, help="photos (%(default)s)")
    parser.add_argument("--pictures", type=Path, help="folder for the worst pairs")
    arguments = parser.parse_args()
    photos = read_photos(arguments.photos, arguments.count)
    describers = extractors(arguments.model, arguments.baseline)
    first = next(iter(describers))

    def cell(name: str, change: Change) -> str:
        outcomes = [try_photo(describers[name], photo, change, seed) for seed, photo in enumerate(photos)]
        if name == first and arguments.pictures is not None:
            worst = min(outcomes, key=lambda outcome: outcome.share)
            arguments.pictures.mkdir(parents=True, exist_ok=True)
            picture = draw_matches(worst.views, worst.points, wrong=~worst.right)
            save_picture(picture, arguments.pictures / f"{CHANGES.index(change):02d}.jpg")
        success, share = (np.mean([getattr(o, part) for o in outcomes]) for part in ("success", "share"))
        return f"{success:.0%} ({share:.0%})"

    print(f"{len(photos)} photos, at most {KEYPOINTS} keypoints; right homographies (right matches):\n")
    print_table(list(describers), cell)


if __name__ == "__main__":
    main()
