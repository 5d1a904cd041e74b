"""Pairs to validate with, made of photos that training never sees, without any label.

Views of one photo through known homographies become a folder of annotated pairs, as `ripe eval pairs` reads it. Real
pairs are two photos of one scene: of those only epipolar geometry says anything.
"""

import itertools
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ripe.data.light import change_light
from ripe.data.warps import self_pair
from ripe.drawing import save_picture
from ripe.evaluation.benchmarks.annotated import PAIRS_FILE, read_annotated
from ripe.evaluation.pair_sets import PairSet
from ripe.evaluation.protocol import Protocol
from ripe.files import write_json
from ripe.geometry.homography import apply_homography
from ripe.images import as_rgb, shrink
from ripe.recipe.config import WarpConfig
from ripe.resizing import Resizing

VIEW_SIZE = 320
PHOTO_SIDE = 1024
PROTOCOL = Protocol(
    kind="homography",
    resizing=Resizing("long", VIEW_SIZE, enlarge=False),
    estimator_threshold=1.0,
    limits=(1.0, 3.0, 5.0),
    correct_match=3.0,
    in_resized_pixels=True,
    error="mean distance of a grid of points that both views show",
    max_keypoints=512,
    repeats=1,
)

# Training's changes of light are meant to be harder than what cameras do.
LIGHT = 0.5
GRID = 8
FEWEST_POINTS = 8

logger = logging.getLogger(__name__)


def write_view_pairs(photos: Sequence[Path], folder: Path, *, count: int, warp: WarpConfig, seed: int) -> PairSet:
    """Make `count` pairs of views of VIEW_SIZE² pixels, taking the photos in turn, and write them to `folder`.

    Equal arguments give equal files. Photos are shrunk to a longer side of PHOTO_SIDE pixels first, as large ones would
    show little in a view. Those that cannot be read are left out, with a warning.

    Raises:
        ValueError: no pair could be made.
        OSError: the folder cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / PAIRS_FILE).unlink(missing_ok=True)
    entries = []
    for index, photo in zip(range(count), itertools.cycle(photos)):
        try:
            made = _make_pair(photo, warp, np.random.default_rng([seed, index]))
        except (OSError, ValueError) as error:
            logger.warning("%s; it is left out of the validation", error)
            continue
        names = [f"{index:03}_{side}.png" for side in (0, 1)]
        for name, view in zip(names, made.views, strict=True):
            save_picture(view, folder / name)
        points = {"points0": made.points0.tolist(), "points1": made.points1.tolist()}
        entries.append({"name": f"{index:03}", "image0": names[0], "image1": names[1], "photo": photo.name, **points})
    if not entries:
        raise ValueError(f"none of {len(photos)} held-back photos could be made a pair of views of")
    write_json(folder / PAIRS_FILE, {"model": "homography", "pairs": entries}, indent=1)
    return read_annotated(folder)


def choose_real_pairs(scenes: Sequence[Sequence[Path]], count: int, seed: int) -> list[tuple[Path, Path]]:
    """At most `count` different pairs of photos of one scene each, the scenes in turn.

    Args:
        scenes: of each the photos that show the same part of it.
        count: of pairs.
        seed: of the choice.
    """
    rng = np.random.default_rng(seed)
    by_scene = []
    for photos in scenes:
        # count + 1 photos have pairs enough.
        some = [photos[index] for index in sorted(rng.permutation(len(photos))[: count + 1])]
        pairs = list(itertools.combinations(some, 2))
        by_scene.append([pairs[index] for index in rng.permutation(len(pairs))])
    in_turn = itertools.chain.from_iterable(itertools.zip_longest(*by_scene))
    return [pair for pair in in_turn if pair is not None][:count]


class _ViewPair(NamedTuple):
    """Two views, S×S×3 uint8, and K×2 corresponding points."""

    views: tuple[np.ndarray, np.ndarray]
    points0: Tensor
    points1: Tensor


def _make_pair(photo: Path, warp: WarpConfig, rng: np.random.Generator) -> _ViewPair:
    image = shrink(as_rgb(photo), PHOTO_SIDE)
    pixels = (image * 255).round().byte().permute(1, 2, 0).contiguous().numpy()
    first, second = self_pair(pixels, VIEW_SIZE, warp, rng)
    relative = torch.from_numpy(second.homography @ np.linalg.inv(first.homography))
    points = _shared_points(relative, first.valid, second.valid)
    if len(points[0]) < FEWEST_POINTS:
        raise ValueError(f"{photo}: two views of it hardly overlap")
    light = LIGHT * warp.photometric
    return _ViewPair((change_light(first.image, light, rng), change_light(second.image, light, rng)), *points)


def _shared_points(homography: Tensor, valid0: np.ndarray, valid1: np.ndarray) -> tuple[Tensor, Tensor]:
    """Points of a grid on the first view, and where they are in the second, if both views show them."""
    places = (torch.arange(GRID, dtype=torch.float64) + 0.5) * VIEW_SIZE / GRID - 0.5
    points0 = torch.stack(torch.meshgrid(places, places, indexing="xy"), dim=-1).reshape(-1, 2)
    points1 = apply_homography(homography, points0)
    nearest0, nearest1 = points0.round().long(), points1.round().long()
    shown = ((nearest1 >= 0) & (nearest1 < VIEW_SIZE)).all(dim=-1)
    points0, points1, nearest0, nearest1 = (p[shown] for p in (points0, points1, nearest0, nearest1))
    both = torch.from_numpy(
        valid0[nearest0[:, 1].numpy(), nearest0[:, 0].numpy()] & valid1[nearest1[:, 1].numpy(), nearest1[:, 0].numpy()]
    )
    return points0[both], points1[both]
