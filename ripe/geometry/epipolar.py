"""Fundamental matrices of known cameras, and distances of matches from epipolar geometry.

A fundamental matrix F relates homogeneous pixels of two images by x1ᵀ·F·x0 = 0.
"""

import torch
from torch import Tensor


def essential_from_pose(rotation: Tensor, translation: Tensor) -> Tensor:
    """Essential matrix [t]×·R, 3×3, of `rotation` R (3×3) and `translation` t (3), first camera's frame to second's."""
    x, y, z = translation.unbind()
    zero = torch.zeros_like(x)
    return torch.stack([zero, -z, y, z, zero, -x, -y, x, zero]).reshape(3, 3) @ rotation


def fundamental_from_pose(intrinsics0: Tensor, intrinsics1: Tensor, rotation: Tensor, translation: Tensor) -> Tensor:
    """Fundamental matrix, 3×3 of norm 1, of two calibrated cameras.

    Args:
        intrinsics0: 3×3 camera matrix of the first image.
        intrinsics1: 3×3 camera matrix of the second image.
        rotation: 3×3, first camera's frame to second's.
        translation: 3, not 0; its scale does not matter.
    """
    essential = essential_from_pose(rotation, translation)
    fundamental = torch.linalg.inv(intrinsics1).mT @ essential @ torch.linalg.inv(intrinsics0)
    return fundamental / torch.linalg.matrix_norm(fundamental)


def epipolar_distance(fundamental: Tensor, points0: Tensor, points1: Tensor) -> Tensor:
    """Distance, in pixels, of each match's points from the lines that the other point has in their image; mean of both.

    Args:
        fundamental: 3×3.
        points0: K×2 in the first image.
        points1: K×2 in the second image.

    Returns:
        K distances; infinite or NaN where a point lies in an epipole and has no line.
    """
    lines1 = points0 @ fundamental[:, :2].mT + fundamental[:, 2]
    lines0 = points1 @ fundamental[:2] + fundamental[2]
    residual = (lines1[:, :2] * points1).sum(-1) + lines1[:, 2]
    return residual.abs() * (1 / lines0[:, :2].norm(dim=-1) + 1 / lines1[:, :2].norm(dim=-1)) / 2


def sampson_distance(fundamental: Tensor, points0: Tensor, points1: Tensor) -> Tensor:
    """First-order distance, in pixels, of each match to the nearest one that obeys the epipolar constraint.

    Args:
        fundamental: 3×3.
        points0: K×2 in the first image.
        points1: K×2 in the second image.

    Returns:
        K distances, not squared; the unit that PoseLib's `max_epipolar_error` has.
    """
    lines1 = points0 @ fundamental[:, :2].mT + fundamental[:, 2]
    normals0 = points1 @ fundamental[:2, :2] + fundamental[2, :2]
    residual = (lines1[:, :2] * points1).sum(-1) + lines1[:, 2]
    return residual.abs() / torch.cat([lines1[:, :2], normals0], dim=-1).norm(dim=-1)


def epipolar_distances(fundamental: Tensor, points0: Tensor, points1: Tensor) -> Tensor:
    """How far each two points are from agreeing: N0×N1 pixels, the larger of the distances from each other's line.

    Args:
        fundamental: 3×3.
        points0: N0×2 in the first image.
        points1: N1×2 in the second image.
    """
    lines1 = points0 @ fundamental[:, :2].mT + fundamental[:, 2]
    lines0 = points1 @ fundamental[:2] + fundamental[2]
    residuals = (lines1[:, :2] @ points1.mT + lines1[:, 2:]).abs()
    return residuals / torch.minimum(lines1[:, :2].norm(dim=-1)[:, None], lines0[:, :2].norm(dim=-1))
