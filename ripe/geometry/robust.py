"""Robust estimation by PoseLib: fundamental matrices, homographies and relative poses from matches with outliers.

Every function takes K×2 (x, y) points of both images in pixels, as tensors or NumPy arrays, and is seeded, so equal
input gives equal output. What PoseLib would read beyond, such as lists of unequal lengths, is a `ValueError`
(`ripe.checks`).
"""

from typing import Any, Literal, overload

import numpy as np
import poselib
import torch
from torch import Tensor

from ripe import checks
from ripe.features import GeometryKind, TwoViewGeometry
from ripe.geometry.epipolar import essential_from_pose
from ripe.geometry.pose import CalibratedGeometry, RelativePose

MIN_MATCHES: dict[GeometryKind, int] = {"fundamental": 8, "homography": 4, "essential": 5}

Array = Tensor | np.ndarray


@overload
def estimate_geometry(
    kind: Literal["essential"],
    points0: Array,
    points1: Array,
    *,
    max_error: float,
    intrinsics: tuple[Array, Array],
    max_iterations: int = ...,
    min_iterations: int = ...,
    seed: int = ...,
) -> CalibratedGeometry: ...


@overload
def estimate_geometry(
    kind: GeometryKind,
    points0: Array,
    points1: Array,
    *,
    max_error: float,
    intrinsics: tuple[Array, Array] | None = None,
    max_iterations: int = ...,
    min_iterations: int = ...,
    seed: int = ...,
) -> TwoViewGeometry: ...


def estimate_geometry(
    kind: GeometryKind,
    points0: Array,
    points1: Array,
    *,
    max_error: float,
    intrinsics: tuple[Array, Array] | None = None,
    max_iterations: int = 10_000,
    min_iterations: int = 100,
    seed: int = 0,
) -> TwoViewGeometry:
    """Fit a fundamental matrix, a homography or an essential matrix to matches.

    Args:
        kind: which model.
        points0: K×2 in the first image.
        points1: K×2 in the second image.
        max_error: inlier threshold in pixels: epipolar error, or transfer error of a homography.
        intrinsics: 3×3 camera matrices of both images, without skew; for "essential", and only for it.
        max_iterations: bound on RANSAC's iterations. PoseLib's own bound of 100 000 costs most where matches are bad.
        min_iterations: RANSAC does at least as many, however good the matches are; PoseLib's own figure is 1000.
        seed: of RANSAC's sampling.

    Returns:
        The model and its inliers, and for "essential" rotation and direction of translation
        (`ripe.geometry.pose.CalibratedGeometry`); no model where there are too few matches or the fit fails.

    Raises:
        ValueError: the kind is unknown, the points are not two equally long lists of finite (x, y), a camera matrix is
            missing or none, or a number is out of its range.
    """
    if kind not in MIN_MATCHES:
        raise ValueError(f"kind is {kind!r}; it must be one of {', '.join(MIN_MATCHES)}")
    max_error = checks.positive(max_error, "max_error")
    options = _ransac_options(max_iterations, min_iterations, seed)
    if kind == "essential":
        return _fit_essential(points0, points1, intrinsics, max_error, options)
    if intrinsics is not None:
        raise ValueError(f"intrinsics go with the kind essential; a {kind} needs none")
    matched = checks.matched_points(points0, points1)
    count = len(matched[0])
    if count < MIN_MATCHES[kind]:
        return TwoViewGeometry.failed(kind, max_error, count)
    if kind == "fundamental":
        estimate, options["max_epipolar_error"] = poselib.estimate_fundamental, max_error
    else:
        estimate, options["max_reproj_error"] = poselib.estimate_homography, max_error
    model, info = estimate(*matched, options, {})
    inliers = torch.as_tensor(np.asarray(info["inliers"], dtype=bool))
    if model is None or not np.isfinite(model).all() or not inliers.any():
        return TwoViewGeometry.failed(kind, max_error, count)
    return TwoViewGeometry(kind, max_error, torch.as_tensor(np.asarray(model, dtype=np.float64)), inliers)


def estimate_relative_pose(
    points0: Array,
    points1: Array,
    intrinsics0: Array,
    intrinsics1: Array,
    *,
    max_epipolar_error: float,
    max_iterations: int = 10_000,
    min_iterations: int = 100,
    seed: int = 0,
) -> RelativePose | None:
    """Fit the relative pose of two calibrated cameras to matches.

    Args:
        points0: K×2 in the first image.
        points1: K×2 in the second image.
        intrinsics0: 3×3 camera matrix (focal lengths and principal point; no skew) of the first image.
        intrinsics1: 3×3 camera matrix of the second image.
        max_epipolar_error: inlier threshold in pixels.
        max_iterations: bound on RANSAC's iterations.
        min_iterations: RANSAC does at least as many, however good the matches are; PoseLib's own figure is 1000.
        seed: of RANSAC's sampling.

    Returns:
        The pose, its translation of length 1; None where there are too few matches or the fit fails.

    Raises:
        ValueError: the points are not two equally long lists of finite (x, y), a camera matrix is none, or a number is
            out of its range.
    """
    matched = checks.matched_points(points0, points1)
    cameras = _as_camera(intrinsics0, "intrinsics0"), _as_camera(intrinsics1, "intrinsics1")
    options = _ransac_options(max_iterations, min_iterations, seed)
    options["max_epipolar_error"] = checks.positive(max_epipolar_error, "max_epipolar_error")
    if len(matched[0]) < MIN_MATCHES["essential"]:
        return None
    pose, info = poselib.estimate_relative_pose(*matched, *cameras, options, {})
    inliers = torch.as_tensor(np.asarray(info["inliers"], dtype=bool))
    rotation, translation = torch.tensor(pose.R), torch.tensor(pose.t)
    length = torch.linalg.vector_norm(translation)
    if not inliers.any() or not torch.isfinite(rotation).all() or not 0 < length < torch.inf:
        return None
    return RelativePose(rotation, translation / length, inliers)


def _fit_essential(
    points0: Array,
    points1: Array,
    intrinsics: tuple[Array, Array] | None,
    max_error: float,
    options: dict[str, Any],
) -> CalibratedGeometry:
    if intrinsics is None or len(intrinsics) != 2:
        raise ValueError("intrinsics must be the two images' camera matrices, as the kind is essential")
    pose = estimate_relative_pose(points0, points1, *intrinsics, max_epipolar_error=max_error, **options)
    if pose is None:
        return CalibratedGeometry.failed("essential", max_error, len(points0))
    essential = essential_from_pose(pose.rotation, pose.translation)
    cameras = torch.as_tensor(intrinsics[0]).double(), torch.as_tensor(intrinsics[1]).double()
    return CalibratedGeometry("essential", max_error, essential, pose.inliers, pose.rotation, pose.translation, cameras)


def _ransac_options(max_iterations: int, min_iterations: int, seed: int) -> dict[str, Any]:
    most = checks.whole_number(max_iterations, "max_iterations", least=1)
    least = checks.whole_number(min_iterations, "min_iterations", least=0)
    seed = checks.whole_number(seed, "seed", least=0, most=checks.LARGEST_SEED)
    return {"max_iterations": most, "min_iterations": min(least, most), "seed": seed}


def _as_camera(intrinsics: Tensor | np.ndarray, name: str) -> dict[str, Any]:
    matrix = checks.camera_matrix(intrinsics, name)
    # PoseLib asks for a size but does not use it: a pinhole camera has no need of one.
    parameters = [matrix[0, 0], matrix[1, 1], matrix[0, 2], matrix[1, 2]]
    return {"model": "PINHOLE", "width": 0, "height": 0, "params": parameters}
