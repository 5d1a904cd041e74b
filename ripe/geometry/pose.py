"""Relative poses of two cameras, and how far two of them are apart."""

from dataclasses import dataclass

import torch
from torch import Tensor

from ripe.features import TwoViewGeometry


@dataclass(frozen=True)
class RelativePose:
    """Where the second camera is: a point X of the first camera's frame is R·X + t in the second's.

    Attributes:
        rotation: R, 3×3 float64.
        translation: t, 3 float64, of length 1 where it was estimated from matches (they do not tell the scale).
        inliers: K bool, on the CPU, one per match.
    """

    rotation: Tensor
    translation: Tensor
    inliers: Tensor


@dataclass(eq=False, repr=False)
class CalibratedGeometry(TwoViewGeometry):
    """An essential matrix E = [t]×·R fitted to matches of calibrated cameras: x1ᵀ·E·x0 = 0 for rays x = K⁻¹·(x, y, 1).

    Attributes:
        rotation: R, 3×3 float64, first camera's frame to second's; None where the fit failed.
        translation: t, 3 float64 of length 1, as matches do not tell the scale; None where the fit failed.
        intrinsics: 3×3 camera matrices of both images; None where the fit failed.
    """

    rotation: Tensor | None = None
    translation: Tensor | None = None
    intrinsics: tuple[Tensor, Tensor] | None = None


def rotation_angle(rotation0: Tensor, rotation1: Tensor) -> Tensor:
    """Angle in degrees, 0..180, of the rotation between ...×3×3 rotations; accurate near 0 and 180, unlike arccos."""
    between = rotation0.mT @ rotation1
    twice_cosine = between.diagonal(dim1=-2, dim2=-1).sum(-1) - 1
    twice_sine = torch.linalg.matrix_norm(between - between.mT) / 2**0.5
    return torch.rad2deg(torch.atan2(twice_sine, twice_cosine))


def translation_angle(translation0: Tensor, translation1: Tensor, *, ignore_sign: bool = False) -> Tensor:
    """Angle in degrees between the directions of ...×3 translations.

    Args:
        translation0: of any length but 0.
        translation1: of any length but 0.
        ignore_sign: take t and −t for the same direction, so that the angle is 0..90 instead of 0..180, as benchmarks
            do whose poses come from an essential matrix.
    """
    sine = torch.linalg.vector_norm(torch.linalg.cross(translation0, translation1), dim=-1)
    cosine = (translation0 * translation1).sum(-1)
    return torch.rad2deg(torch.atan2(sine, cosine.abs() if ignore_sign else cosine))


def pose_errors(
    pose: RelativePose, rotation: Tensor, translation: Tensor, *, ignore_sign: bool = False
) -> tuple[Tensor, Tensor]:
    """Rotation and translation angle, in degrees, between a pose and the true R (3×3) and t (3)."""
    moved = translation_angle(pose.translation, translation, ignore_sign=ignore_sign)
    return rotation_angle(pose.rotation, rotation), moved


def pose_error(pose: RelativePose, rotation: Tensor, translation: Tensor, *, ignore_sign: bool = False) -> Tensor:
    """The larger of rotation and translation angle, in degrees, between a pose and the true R (3×3) and t (3)."""
    return torch.maximum(*pose_errors(pose, rotation, translation, ignore_sign=ignore_sign))


def view_of_second(rotation: Tensor, translation: Tensor) -> tuple[float, float]:
    """Where the first camera sees the second: degrees to the right of where it looks, −180..180, and upwards, −90..90.

    Args:
        rotation: R, 3×3, first camera's frame to second's.
        translation: t, 3, not 0; the second camera's centre is −Rᵀ·t in the first one's frame.
    """
    x, y, z = (-rotation.mT @ translation).unbind()
    return float(torch.rad2deg(torch.atan2(x, z))), float(torch.rad2deg(torch.atan2(-y, torch.hypot(x, z))))
