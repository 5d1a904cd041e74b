"""One pair of photos from features to figures: fitting by name, the times of the stages, and the document that is kept.

Shared by `ripe match` and the web demo.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Literal, get_args

if TYPE_CHECKING:
    from torch import Tensor

    from ripe.features import Features, Matches, TwoViewGeometry
    from ripe.geometry.verdict import Verdict

LONG_SIDE = 1600
"""Detector and descriptor are made for photos of about one megapixel: beyond, little is found and nothing matches."""
Rotations = Literal["auto", "all", "none"]
"""Whether one of two photos is also tried in quarter turns: where the verdict is chance otherwise, always, never."""
ROTATIONS: tuple[Rotations, ...] = get_args(Rotations)
INLIER_THRESHOLDS = {"fundamental": 1.0, "homography": 2.0, "essential": 1.0, "none": None}


def inlier_threshold(kind: Any, sizes: Sequence[tuple[int, int]], seen_side: int | None) -> float | None:
    """The default in pixels of the photos; it grows as the photo that was shrunk more was shrunk. None for "none".

    Args:
        kind: a key of `INLIER_THRESHOLDS`.
        sizes: (width, height) of both photos.
        seen_side: longer side to which longer photos were shrunk; None if they were not.
    """
    usual = INLIER_THRESHOLDS[kind]
    return None if usual is None else usual * shrinking(sizes, seen_side)


class Stopwatch:
    """Times of named stages in milliseconds; `begun` is told which one begins."""

    def __init__(self, begun: Callable[[str], object] = lambda name: None) -> None:
        self.milliseconds: dict[str, float] = {}
        self._begun = begun

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time the body of a `with` statement; the times of one name add up."""
        self._begun(name)
        start = time.perf_counter()
        yield
        elapsed = (time.perf_counter() - start) * 1000
        self.milliseconds[name] = round(self.milliseconds.get(name, 0.0) + elapsed, 1)


def fit(
    kind: Any,
    points: Sequence[Tensor],
    threshold: float | None,
    intrinsics: tuple[Tensor, Tensor] | None = None,
    evidence: tuple[Tensor, Tensor] | None = None,
) -> tuple[TwoViewGeometry, Verdict] | tuple[None, None]:
    """Fit what is asked for to matched points, and judge it; None if that is "none".

    Args:
        kind: a key of `INLIER_THRESHOLDS`.
        points: K×2 of both images.
        threshold: inlier threshold in pixels.
        intrinsics: 3×3 camera matrices of both images, for "essential".
        evidence: see `ripe.judge`.
    """
    if kind == "none" or threshold is None:
        return None, None
    from ripe.geometry.robust import estimate_geometry
    from ripe.geometry.verdict import judge

    geometry = estimate_geometry(kind, *points, max_error=threshold, intrinsics=intrinsics)
    return geometry, judge(geometry, *points, evidence=evidence)


def shrinking(sizes: Sequence[tuple[int, int]], seen_side: int | None) -> float:
    """By how much thresholds in pixels of photos grow: as the photo that was shrunk more was shrunk, 1 or more.

    Args:
        sizes: (width, height) of the photos.
        seen_side: longer side to which longer ones were shrunk to find keypoints; None if they were not.
    """
    return max([1.0, *(max(size) / seen_side for size in sizes)]) if seen_side else 1.0


def document(
    settings: dict[str, Any],
    features: Sequence[Features],
    matches: Matches,
    geometry: TwoViewGeometry | None,
    verdict: Verdict | None,
    milliseconds: dict[str, float],
) -> dict[str, Any]:
    """Everything about a matched pair, ready for JSON: lists of numbers, keypoints in pixels of the photos."""
    from ripe.geometry.pose import CalibratedGeometry, rotation_angle, view_of_second

    found: dict[str, Any] = {"settings": settings, "milliseconds": milliseconds}
    for number, side in enumerate(features):
        found[f"image_size{number}"] = side.image_size
        found[f"keypoints{number}"] = side.keypoints.tolist()
        found[f"scores{number}"] = side.scores.tolist()
        found[f"scales{number}"] = side.scales.tolist()
    found["matches"] = matches.indices.tolist()
    found["matching_scores"] = matches.scores.tolist()
    found["verdict"] = None if verdict is None else asdict(verdict)
    found["inliers"] = None if geometry is None else geometry.inliers.tolist()
    found["model"] = None if geometry is None or geometry.model is None else geometry.model.tolist()
    if isinstance(geometry, CalibratedGeometry):
        for name in ("rotation", "translation"):
            value = getattr(geometry, name)
            found[name] = None if value is None else value.tolist()
        if geometry.rotation is not None and geometry.translation is not None:
            right, up = view_of_second(geometry.rotation, geometry.translation)
            turned = float(rotation_angle(geometry.rotation.new_ones(3).diag(), geometry.rotation))
            found["degrees"] = {"rotation": turned, "right": right, "up": up}
    return found
