"""The published helper functions: image size, and results as OpenCV's types. Our own interface does not need them."""

from collections.abc import Sequence

import cv2
from torch import Tensor

from ripe.images import fit_long_side
from ripe.images import resize as resize_to
from ripe.integrations import opencv


def resize_image(image: Tensor, min_size: int = 512, max_size: int = 768) -> Tensor:
    """Bring the longer side of a C×H×W float image into [`min_size`, `max_size`]; ratio kept, antialiased."""
    height, width = image.shape[-2:]
    long_side = min(max(height, width, min_size), max_size)
    return image if long_side == max(height, width) else resize_to(image, fit_long_side((height, width), long_side))


def to_cv_kpts(kpts: Tensor, scores: Tensor) -> list[cv2.KeyPoint]:
    """N×2 (x, y) keypoints and their N scores as OpenCV keypoints; the score is the `response`."""
    return opencv.keypoints_of(kpts, scores)


def cv2_matches_from_kornia(match_dists: Tensor, match_idxs: Tensor) -> Sequence[cv2.DMatch]:
    """kornia's matches, distances K×1 (or K) and indices K×2, as OpenCV matches."""
    return opencv.matches_of(match_dists, match_idxs)
