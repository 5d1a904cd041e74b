"""Warping of whole pictures by homographies, with masks that say where they show something."""

import cv2
import numpy as np
import torch
from torch import Tensor

from ripe.geometry.homography import outer_corners, resizing_matrix
from ripe.images import unit_range

LARGEST_SIDE = 32_766  # of what OpenCV warps
SHARP = 1.2  # pixels of a reduced picture on one of the frame that it is shown in
LEAST_REDUCED = 0.8  # what would be reduced by less stays as it is


def picture_of(image: Tensor) -> np.ndarray:
    """H×W×3 uint8 of a 3×H×W image, uint8 or floating point in 0..1 (values outside are cut off)."""
    if image.dtype != torch.uint8:
        image = (unit_range(image).clamp(0, 1) * 255).round().byte()
    return np.ascontiguousarray(image.cpu().permute(1, 2, 0).numpy())


def warp(picture: np.ndarray, homography: Tensor, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Show a picture as it is seen in another frame.

    Args:
        picture: H×W×3 uint8.
        homography: 3×3, from pixels of the new frame to pixels of the picture.
        size: (width, height) of the new frame.

    Returns:
        height×width×3 uint8, black where the picture does not reach, and height×width bool, True where it does.

    Raises:
        ValueError: a side has more pixels than OpenCV can warp.
    """
    largest = max(*picture.shape[:2], *size)
    if largest > LARGEST_SIDE:
        raise ValueError(
            f"a side of {largest} pixels cannot be warped; {LARGEST_SIDE} is the most: make a smaller copy"
        )
    height, width = picture.shape[:2]
    homography = homography.detach().cpu().double()
    valid = _seen(homography, (width, height), size)
    # Sampling skips pixels where the picture is made smaller; so that is done before, by averaging.
    kept = SHARP / _reduction(homography, size)
    if kept < LEAST_REDUCED:
        small = (max(1, round(width * kept)), max(1, round(height * kept)))
        picture = cv2.resize(picture, small, interpolation=cv2.INTER_AREA)
        homography = resizing_matrix((width, height), small) @ homography
    warped = cv2.warpPerspective(
        picture,
        homography.numpy(),
        size,
        flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
        borderMode=cv2.BORDER_REPLICATE,
    )
    warped[~valid] = 0
    return warped, valid


def _seen(homography: Tensor, from_size: tuple[int, int], size: tuple[int, int]) -> np.ndarray:
    """Which pixels of the new frame lie in the picture, height×width bool."""
    whole = np.full(from_size[::-1], 255, dtype=np.uint8)
    flags = cv2.INTER_NEAREST | cv2.WARP_INVERSE_MAP
    seen = cv2.warpPerspective(whole, homography.numpy(), size, flags=flags) > 0
    depths = _depths(homography, size)
    if depths.min() < 0 < depths.max():  # what is behind the camera would be seen, too, mirrored
        last = homography[2].numpy()
        before = last[0] * np.arange(size[0]) + (last[1] * np.arange(size[1]) + last[2])[:, None] > 0
        seen &= before if (before & seen).sum() * 2 >= seen.sum() else ~before
    return seen


def _reduction(homography: Tensor, size: tuple[int, int]) -> float:
    """Pixels of the picture on one of the new frame's, by length, at that of its corners where they are fewest."""
    areas = torch.linalg.det(homography).abs() / _depths(homography, size).abs() ** 3
    return float(areas.min().sqrt())


def _depths(homography: Tensor, size: tuple[int, int]) -> Tensor:
    """What the homography divides by at the new frame's corners."""
    return outer_corners(size) @ homography[2, :2] + homography[2, 2]
