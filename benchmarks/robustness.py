"""How far a photo may be turned, enlarged, tilted, relit, blurred … before matching fails: a Markdown table and curves.

    python benchmarks/robustness.py photos/ --model compact --baseline sift orb --plot curves.png --pictures failures/
    python benchmarks/robustness.py photos/ --scales 1 1,0.5,0.25 --kind zoom
    python benchmarks/robustness.py photos/ --baseline --filter mutual lightglue

Every photo of the folder is shown twice: as it is (its middle, 448×448 pixels), and changed in one way. The truth is
known, so no annotation is needed. A cell of the table says in how many percent of the photos a homography fitted to the
matches (PoseLib, 2 px) moves the view's corners by less than 5 px on average, and how many percent of the matches
are right (within 3 px). `--plot` draws both over the strength of the change. `--pictures` saves, for each change, the
pair with fewest right matches of the first extractor.
"""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import cv2
import numpy as np
import torch
from real_pairs import match_filter
from torch import Tensor

from ripe.data.light import change_light
from ripe.data.warps import perspective, render, similarity
from ripe.drawing import draw_matches, save_picture
from ripe.evaluation.baselines import baseline
from ripe.extractors import Describer, describer
from ripe.filters import MUTUAL, MatchFilter
from ripe.folders import photos_below
from ripe.geometry.homography import apply_homography, mean_transfer_error, outer_corners
from ripe.geometry.robust import estimate_geometry
from ripe.images import as_rgb
from ripe.matching import filtered_match
from ripe.pretrained import load
from ripe.tables import markdown_table

SIZE = 448
KEYPOINTS = 2048
RIGHT_MATCH, RIGHT_HOMOGRAPHY = 3.0, 5.0  # pixels


@dataclass(frozen=True)
class Change:
    """What is done to the second view: one kind of change, at one strength."""

    kind: str
    strength: float

    def __str__(self) -> str:
        return KINDS[self.kind][0].format(self.strength)


# How each kind is said, and its strengths.
KINDS: dict[str, tuple[str, tuple[float, ...]]] = {
    "rotation": ("turned by {:g}°", (15, 30, 45, 60, 90, 135, 180)),
    "zoom": ("enlarged ×{:g}", (1.5, 2.0, 2.5, 3.0, 4.0, 5.0)),
    "tilt": ("corners moved by up to {:.0%}", (0.15, 0.3, 0.4)),
    "dark": ("darkened, gamma {:g}, with noise", (2.0, 4.0, 6.0)),
    "light": ("light, weather and camera changed, strength {:g}", (0.5, 1.0, 1.5)),
    "blur": ("blurred by {:g} px", (1.0, 2.0, 3.0)),
    "noise": ("noise of {:g} grey levels", (10, 25, 50)),
    "jpeg": ("JPEG of quality {:g}", (40, 20, 8)),
}
CHANGES = [Change(kind, strength) for kind, (_, strengths) in KINDS.items() for strength in strengths]


@dataclass(frozen=True)
class Outcome:
    """Of one photo: share of right matches, whether the homography is right, and what is needed to draw it."""

    share: float
    success: bool
    views: tuple[Tensor, Tensor]
    points: tuple[Tensor, Tensor]
    right: Tensor


def first_view(photo: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The middle of a photo, S×S×3 uint8, and the homography from the photo to it."""
    height, width = photo.shape[:2]
    middle = np.array([width - 1, height - 1]) / 2
    homography = similarity(SIZE, middle, max(1.0, SIZE / min(height, width)), 0.0)
    return render(photo, homography, SIZE).image, homography


def second_view(
    photo: np.ndarray, first: np.ndarray, change: Change, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """The changed view, S×S×3 uint8, and the homography from the first one to it."""
    relative = np.eye(3)
    middle = np.array([SIZE - 1, SIZE - 1]) / 2
    match change.kind:
        case "rotation":
            relative = similarity(SIZE, middle, 1.0, change.strength)
        case "zoom":
            relative = similarity(SIZE, middle, change.strength, 0.0)
        case "tilt":
            relative = perspective(SIZE, 2 * change.strength, rng)
    view = render(photo, relative @ first, SIZE).image
    return repaint(view, change, rng), relative


def repaint(view: np.ndarray, change: Change, rng: np.random.Generator) -> np.ndarray:
    """The view after a change that moves nothing."""
    match change.kind:
        case "dark":
            changed = 255 * (view / 255) ** change.strength + rng.normal(0, 3, view.shape)
        case "light":
            return change_light(view, change.strength, rng)
        case "blur":
            return cv2.GaussianBlur(view, (0, 0), change.strength)
        case "noise":
            changed = view + rng.normal(0, change.strength, view.shape)
        case "jpeg":
            encoded = cv2.imencode(".jpg", view, [cv2.IMWRITE_JPEG_QUALITY, int(change.strength)])[1]
            return np.asarray(cv2.imdecode(encoded, cv2.IMREAD_COLOR))
        case _:
            return view
    return np.clip(changed, 0, 255).astype(np.uint8)


def try_photo(
    describe: Describer, photo: np.ndarray, seed: int, changes: Sequence[Change] = CHANGES, how: MatchFilter = MUTUAL
) -> dict[Change, Outcome]:
    """Match a photo with its changed selves."""
    view, first = first_view(photo)
    features0 = describe(as_rgb(view)).to("cpu")
    outcomes = {}
    for change in changes:
        changed, relative = second_view(photo, first, change, np.random.default_rng(seed))
        features1 = describe(as_rgb(changed)).to("cpu")
        points = filtered_match(features0, features1, how).points(features0, features1)
        outcomes[change] = _outcome((view, changed), points, torch.from_numpy(relative))
    return outcomes


def _outcome(views: tuple[np.ndarray, np.ndarray], points: tuple[Tensor, Tensor], homography: Tensor) -> Outcome:
    points0, points1 = points
    right = (apply_homography(homography, points0.double()) - points1).norm(dim=-1) <= RIGHT_MATCH
    fitted = estimate_geometry("homography", points0, points1, max_error=2.0, max_iterations=20_000)
    success = False
    if fitted.model is not None:
        corners = outer_corners((SIZE, SIZE))
        error = mean_transfer_error(fitted.model, corners, apply_homography(homography, corners))
        success = bool(error < RIGHT_HOMOGRAPHY)
    share = float(right.float().mean()) if len(right) else 0.0
    return Outcome(share, success, (as_rgb(views[0]), as_rgb(views[1])), (points0, points1), right)


def read_photos(folder: Path, count: int) -> list[np.ndarray]:
    """At most `count` photos of a folder and its sub-folders, spread evenly, as H×W×3 uint8."""
    paths = [folder / name for name in photos_below(folder)]
    if not paths:
        raise SystemExit(f"{folder}: holds no photo")
    chosen = np.linspace(0, len(paths) - 1, min(count, len(paths))).round().astype(int)
    return [(as_rgb(paths[i]) * 255).round().byte().permute(1, 2, 0).numpy() for i in chosen]


def extractors(models: Sequence[str], scales: Sequence[str], baselines: Sequence[str]) -> dict[str, Describer]:
    """The extractors by name; models at each of the scales."""
    ours = {}
    for name, at in product(models, scales):
        factors = [float(factor) for factor in at.split(",")]
        shown = Path(name).stem if len(scales) == 1 else f"{Path(name).stem} at {at}"
        ours[shown] = describer(load(name), max_keypoints=KEYPOINTS, scales=factors)
    return ours | {name: baseline(name, KEYPOINTS) for name in baselines}


Means = dict[str, dict[Change, tuple[float, float]]]
"""By extractor and change: the share of right homographies, and of right matches."""


def print_table(means: Means) -> None:
    """One row a change, one column an extractor."""
    rows = []
    for change in next(iter(means.values())):
        cells = (f"{success:.0%} ({share:.0%})" for success, share in (each[change] for each in means.values()))
        rows.append([str(change), *cells])
    print(markdown_table(["second view", *means], rows))


def plot(means: Means, path: Path) -> None:
    """Curves: a panel for each kind of change, right homographies drawn through, right matches dashed."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(14, 6.5), layout="constrained")
    panels = figure.subplots(2, 4, sharey=True)
    tried = {change.kind for change in next(iter(means.values()))}
    for axes, (kind, (says, strengths)) in zip(panels.flat, KINDS.items(), strict=True):
        if kind not in tried:
            axes.set_visible(False)
            continue
        for number, (name, found) in enumerate(means.items()):
            for part, style in ((0, "-o"), (1, "--")):
                values = [100 * found[Change(kind, strength)][part] for strength in strengths]
                label = name if part == 0 else None
                axes.plot(range(len(strengths)), values, style, color=f"C{number}", label=label, markersize=4)
        axes.set_xticks(range(len(strengths)), [f"{strength:g}" for strength in strengths])
        axes.set_title(says.split("{")[0].strip(" ,×") if kind != "dark" else "darkened, with noise, gamma")
        axes.set_ylim(0, 102)
        axes.grid(alpha=0.3)
    next(axes for axes in panels.flat if axes.get_visible()).legend(loc="lower left")
    for row in panels:
        row[0].set_ylabel("right homographies (dashed: matches), %")
    figure.savefig(path, dpi=110)


def save_worst(outcomes: Sequence[dict[Change, Outcome]], folder: Path) -> None:
    """For each change the pair with fewest right matches, wrong ones red."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, change in enumerate(outcomes[0]):
        worst = min((each[change] for each in outcomes), key=lambda outcome: outcome.share)
        picture = draw_matches(worst.views, worst.points, wrong=~worst.right)
        save_picture(picture, folder / f"{number:02d}-{change.kind}.jpg")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", type=Path)
    parser.add_argument("--model", nargs="*", default=["compact"])
    parser.add_argument("--scales", nargs="+", default=["1"], metavar="S,S", help="of the models, one column each")
    parser.add_argument("--kind", nargs="+", default=list(KINDS), choices=KINDS, help="of change (all)")
    parser.add_argument("--baseline", nargs="*", default=["sift", "orb"])
    parser.add_argument(
        "--filter",
        nargs="+",
        type=match_filter,
        default=[MUTUAL],
        metavar="METHOD[,NAME=VALUE]",
        help="of the matches, one column each (mutual nearest neighbours)",
    )
    parser.add_argument("--count", type=int, default=40, help="photos (%(default)s)")
    parser.add_argument("--plot", type=Path, metavar="PNG", help="picture of the curves")
    parser.add_argument("--pictures", type=Path, help="folder for the worst pairs")
    arguments = parser.parse_args()
    photos = read_photos(arguments.photos, arguments.count)
    changes = [change for change in CHANGES if change.kind in arguments.kind]
    means: Means = {}
    described = extractors(arguments.model, arguments.scales, arguments.baseline)
    for (extractor, describe), how in product(described.items(), arguments.filter):
        name = extractor if len(arguments.filter) == 1 else f"{extractor}, {how}"
        outcomes = [try_photo(describe, photo, seed, changes, how) for seed, photo in enumerate(photos)]
        if not means and arguments.pictures is not None:
            save_worst(outcomes, arguments.pictures)
        means[name] = {
            change: (
                float(np.mean([each[change].success for each in outcomes])),
                float(np.mean([each[change].share for each in outcomes])),
            )
            for change in changes
        }
    pairs = len(photos) * len(changes)
    print(f"{len(photos)} photos, {pairs} pairs, at most {KEYPOINTS} keypoints; right homographies (right matches):\n")
    print_table(means)
    if arguments.plot is not None:
        plot(means, arguments.plot)


if __name__ == "__main__":
    main()
