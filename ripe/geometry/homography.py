"""Homographies: points moved by them, how far two of them are apart, and what resizing makes of them."""

import torch
from torch import Tensor


def apply_homography(homography: Tensor, points: Tensor) -> Tensor:
    """Move points by a homography.

    Args:
        homography: ...×3×3, first image to second.
        points: ...×K×2 (x, y) in the first image.

    Returns:
        ...×K×2 in the second image, infinite or NaN where a point goes to infinity.
    """
    moved = points @ homography[..., :, :2].mT + homography[..., None, :, 2]
    return moved[..., :2] / moved[..., 2:]


def mean_transfer_error(homography: Tensor, points0: Tensor, points1: Tensor) -> Tensor:
    """Mean distance (pixels of the second image) of K×2 `points0`, moved by the homography, from K×2 `points1`."""
    return torch.linalg.vector_norm(apply_homography(homography, points0) - points1, dim=-1).mean(dim=-1)


def outer_corners(size: tuple[int, int]) -> Tensor:
    """The four corners, 4×2 float64, of an image of (width, height) `size`.

    They are those of its outermost pixels: as pixel centres are integers, they lie at −0.5 and at width − 0.5 and
    height − 0.5.
    """
    right, bottom = size[0] - 0.5, size[1] - 0.5
    return torch.tensor([[-0.5, -0.5], [right, -0.5], [right, bottom], [-0.5, bottom]], dtype=torch.float64)


def resizing_matrix(from_size: tuple[int, int], to_size: tuple[int, int]) -> Tensor:
    """3×3 float64 matrix that moves pixels with an image resized from (width, height) `from_size` to `to_size`.

    Pixel centres are integers: p goes to (p + 0.5)·s − 0.5. A homography H between two images is S1·H·S0⁻¹ between the
    resized ones, a camera matrix K is S·K.
    """
    scale_x, scale_y = to_size[0] / from_size[0], to_size[1] / from_size[1]
    rows = [[scale_x, 0, (scale_x - 1) / 2], [0, scale_y, (scale_y - 1) / 2], [0, 0, 1]]
    return torch.tensor(rows, dtype=torch.float64)


def homography_from_corner_origin(homography: Tensor) -> Tensor:
    """A 3×3 homography between images whose top-left pixel centres are at (0.5, 0.5), in our convention."""
    shift = _shift(homography)
    return shift @ homography @ torch.linalg.inv(shift)


def intrinsics_from_corner_origin(intrinsics: Tensor) -> Tensor:
    """A 3×3 camera matrix for pixels whose top-left centre is at (0.5, 0.5), in our convention."""
    return _shift(intrinsics) @ intrinsics


def _shift(like: Tensor) -> Tensor:
    return like.new_tensor([[1, 0, -0.5], [0, 1, -0.5], [0, 0, 1]])
