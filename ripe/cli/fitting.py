"""What the options of a geometry amount to for two photos: the threshold of inliers, and cameras."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ripe import two_views

if TYPE_CHECKING:
    from torch import Tensor


def inlier_threshold(
    arguments: argparse.Namespace, seen_side: int | None, sizes: Sequence[tuple[int, int]] = ()
) -> float | None:
    """--inlier-threshold in pixels of the photos; by default it grows as the photo that was shrunk more was shrunk.

    Args:
        arguments: of the command.
        seen_side: longer side to which longer photos were shrunk; None if they were not.
        sizes: (width, height) of both photos.
    """
    given = arguments.inlier_threshold
    if given is not None and not given > 0:
        raise ValueError(f"--inlier-threshold is {given}; it must be more than 0 pixels")
    return given if given is not None else two_views.inlier_threshold(arguments.geometry, sizes, seen_side)


def cameras(arguments: argparse.Namespace, sizes: Sequence[tuple[int, int]]) -> tuple[Tensor, Tensor] | None:
    """Camera matrices of both photos, of (width, height) `sizes`, from --intrinsics or EXIF; None if not needed."""
    if arguments.geometry != "essential":
        return None
    from ripe.geometry.intrinsics import camera_matrix

    given = arguments.intrinsics or [_exif_camera(path) for path in (arguments.image0, arguments.image1)]
    return camera_matrix(given[0], sizes[0]), camera_matrix(given[-1], sizes[1])


def _exif_camera(path: Path) -> tuple[float]:
    from ripe.geometry.intrinsics import exif_focal_length

    focal = exif_focal_length(path)
    if focal is None:
        raise ValueError(
            f"{path}: EXIF has no 35 mm focal length; give --intrinsics, such as its focal length in pixels"
        )
    return (focal,)
