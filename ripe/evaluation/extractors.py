"""What is evaluated: functions from an image to features, and how photos become such images."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ripe.evaluation.protocol import Resizing
from ripe.extract_many import Extract, Extraction
from ripe.features import Features
from ripe.images import as_rgb, rescale_keypoints, resize
from ripe.model import RIPE

Describer = Callable[[Tensor], Features]
"""Gives the features of a 3×H×W RGB image in 0..1 as it is; keypoints are in its pixels."""


def describer(model: RIPE, *, max_keypoints: int = 2048, threshold: float | None = None) -> Describer:
    """A RIPE model as a describer, with the model's own threshold if None is given."""
    return lambda image: model.extract(image, max_keypoints=max_keypoints, threshold=threshold)[0]


def shrinking(describe: Describer, max_side: int) -> Extract:
    """A describer for `extract_many`; photos whose longer side exceeds `max_side` pixels are shrunk, none enlarged."""
    resizing = Resizing("long", max_side, enlarge=False)

    def extract(photo: np.ndarray) -> Extraction:
        original = as_rgb(photo)
        image = resized(original, resizing)
        return Extraction(to_original(describe(image), original), max(image.shape[1:]))

    return one_by_one(extract)


def one_by_one(extract: Callable[[np.ndarray], Extraction]) -> Extract:
    """What extracts one photo, for `extract_many`."""

    def extract_each(photos: Sequence[np.ndarray]) -> list[Extraction]:
        return [extract(photo) for photo in photos]

    return extract_each


def resized(image: Tensor, resizing: Resizing) -> Tensor:
    """A C×H×W image as an extractor shall see it: bilinear, antialiased."""
    height, width = image.shape[1:]
    size = resizing.apply((width, height))
    if size == (width, height):
        return image
    return _resize_blurred(image, size[::-1]) if resizing.blur else resize(image, size[::-1])


def to_original(features: Features, original: Tensor) -> Features:
    """Features of a resized image, with keypoints and size of the original C×H×W one."""
    height, width = original.shape[1:]
    keypoints = rescale_keypoints(features.keypoints, features.image_size[::-1], (height, width))
    return Features(keypoints, features.scores, features.descriptors, (width, height))


def _resize_blurred(image: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize a C×H×W image to (height, width) as kornia's `resize` does with `antialias=True`."""
    channels = image[:, None]
    factors = [before / after for before, after in zip(image.shape[1:], size, strict=True)]
    if max(factors) > 1:
        rows, columns = map(_blurring_kernel, factors)
        reach = (len(columns) // 2,) * 2 + (len(rows) // 2,) * 2
        channels = F.pad(channels, reach, mode="reflect")
        channels = F.conv2d(channels, columns.to(image)[None, None, None])
        channels = F.conv2d(channels, rows.to(image)[None, None, :, None])
    return F.interpolate(channels, size=size, mode="bilinear", align_corners=False)[:, 0]


def _blurring_kernel(factor: float) -> Tensor:
    """Gaussian weights, odd in number, against the aliasing of one axis that is shrunk by `factor`."""
    sigma = max((factor - 1) / 2, 0.001)
    reach = int(max(4 * sigma, 3)) // 2
    offsets = torch.arange(-reach, reach + 1, dtype=torch.float64)
    weights = torch.exp(-offsets.square() / (2 * sigma**2))
    return weights / weights.sum()
