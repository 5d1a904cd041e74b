"""Homographies: points moved by them, and how far two of them are apart."""

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


def corner_error(estimated: Tensor, true: Tensor, size: tuple[int, int]) -> Tensor:
    """Mean distance (pixels of the second image) of the first image's four corners under two homographies.

    Args:
        estimated: 3×3.
        true: 3×3.
        size: (width, height) of the first image. Its corners are those of its outermost pixels: as pixel centres are
            integers, they lie at −0.5 and at width − 0.5 and height − 0.5.
    """
    right, bottom = size[0] - 0.5, size[1] - 0.5
    corners = true.new_tensor([[-0.5, -0.5], [right, -0.5], [right, bottom], [-0.5, bottom]])
    return mean_transfer_error(estimated, corners, apply_homography(true, corners))
