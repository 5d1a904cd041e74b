"""Robust estimation by PoseLib: fundamental matrices, homographies and relative poses from matches with outliers.

Every function takes K×2 (x, y) points of both images in pixels and is seeded, so equal input gives equal output.
"""

from typing import Any, Literal

import numpy as np
import poselib
import torch
from torch import Tensor

from ripe.features import TwoViewGeometry
from ripe.geometry.pose import RelativePose

MIN_MATCHES = {"fundamental": 8, "homography": 4, "pose": 5}


def estimate_geometry(
    kind: Literal["fundamental", "homography"],
    points0: Tensor,
    points1: Tensor,
    *,
    max_error: float,
    max_iterations: int = 10_000,
    min_iterations: int = 100,
    seed: int = 0,
) -> TwoViewGeometry:
    """Fit a fundamental matrix or a homography to matches.

    Args:
        kind: which model.
        points0: K×2 in the first image.
        points1: K×2 in the second image.
        max_error: inlier threshold in pixels: epipolar error, or transfer error of a homography.
        max_iterations: bound on RANSAC's iterations. PoseLib's own bound of 100 000 costs most where matches are bad.
        min_iterations: RANSAC does at least as many, however good the matches are; PoseLib's own figure is 1000.
        seed: of RANSAC's sampling.

    Returns:
        The model and its inliers; no model where there are too few matches or the fit fails.
    """
    count = len(points0)
    if count < MIN_MATCHES[kind]:
        return TwoViewGeometry.failed(count)
    options: dict[str, Any] = {"max_iterations": max_iterations, "seed": seed}
    options["min_iterations"] = min(min_iterations, max_iterations)
    if kind == "fundamental":
        estimate, options["max_epipolar_error"] = poselib.estimate_fundamental, max_error
    else:
        estimate, options["max_reproj_error"] = poselib.estimate_homography, max_error
    model, info = estimate(_as_array(points0), _as_array(points1), options, {})
    inliers = torch.as_tensor(np.asarray(info["inliers"], dtype=bool))
    if model is None or not np.isfinite(model).all() or not inliers.any():
        return TwoViewGeometry.failed(count)
    return TwoViewGeometry(torch.as_tensor(np.asarray(model, dtype=np.float64)), inliers)


def estimate_relative_pose(
    points0: Tensor,
    points1: Tensor,
    intrinsics0: Tensor,
    intrinsics1: Tensor,
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
    """
    if len(points0) < MIN_MATCHES["pose"]:
        return None
    options = {"max_iterations": max_iterations, "max_epipolar_error": max_epipolar_error, "seed": seed}
    options["min_iterations"] = min(min_iterations, max_iterations)
    cameras = _as_camera(intrinsics0), _as_camera(intrinsics1)
    pose, info = poselib.estimate_relative_pose(_as_array(points0), _as_array(points1), *cameras, options, {})
    inliers = torch.as_tensor(np.asarray(info["inliers"], dtype=bool))
    rotation, translation = torch.tensor(pose.R), torch.tensor(pose.t)
    length = torch.linalg.vector_norm(translation)
    if not inliers.any() or not torch.isfinite(rotation).all() or not 0 < length < torch.inf:
        return None
    return RelativePose(rotation, translation / length, inliers)


def _as_camera(intrinsics: Tensor) -> dict[str, Any]:
    matrix = _as_array(intrinsics)
    # PoseLib asks for a size but does not use it: a pinhole camera has no need of one.
    parameters = [matrix[0, 0], matrix[1, 1], matrix[0, 2], matrix[1, 2]]
    return {"model": "PINHOLE", "width": 0, "height": 0, "params": parameters}


def _as_array(points: Tensor) -> np.ndarray:
    return points.detach().cpu().double().numpy()
