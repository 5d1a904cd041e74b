"""What gives features: functions from an image, and how photos become such images."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import repeat
from pathlib import Path
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from ripe.extract_many import Extract, Extraction
from ripe.features import Features
from ripe.images import MAX_MEGAPIXELS, rescale_keypoints, resize, unit_range
from ripe.inference import READ_AHEAD, Failed, prepare
from ripe.model import RIPE

Describer = Callable[[Tensor], Features]
"""Gives the features of a 3×H×W RGB image in 0..1 as it is; keypoints are in its pixels."""


@dataclass(frozen=True)
class Resizing:
    """What is done to a photo before an extractor sees it.

    Attributes:
        side: which side is brought to `pixels`; the other follows, rounded down as in Glue Factory.
        pixels: length of that side.
        enlarge: whether smaller photos are enlarged, too.
        blur: shrink by a Gaussian blur and bilinear sampling, as kornia and so Glue Factory do, instead of by PyTorch's
            antialiased interpolation.
    """

    side: Literal["long", "short"]
    pixels: int
    enlarge: bool
    blur: bool = False

    def apply(self, size: tuple[int, int]) -> tuple[int, int]:
        """(width, height) of a resized photo of (width, height) `size`."""
        given = max(size) if self.side == "long" else min(size)
        if given <= self.pixels and not self.enlarge:
            return size
        # Glue Factory's own expressions: others of the same value round differently for some sizes.
        ratio = size[0] / size[1]
        if (self.side == "short") != (ratio < 1):
            return max(1, int(self.pixels * ratio)), self.pixels
        return self.pixels, max(1, int(self.pixels / ratio))

    def __str__(self) -> str:
        return f"{self.side} side {'' if self.enlarge else 'at most '}{self.pixels} px"


def describer(model: RIPE, *, max_keypoints: int = 2048, threshold: float | None = None) -> Describer:
    """A RIPE model as a describer, with the model's own threshold if None is given."""
    return lambda image: model.extract(image, max_keypoints=max_keypoints, threshold=threshold)[0]


def shrinking(describe: Describer, max_side: int, max_megapixels: float = MAX_MEGAPIXELS) -> Extract:
    """A describer for `extract_many`; photos whose longer side exceeds `max_side` pixels are shrunk, none enlarged."""
    resizing = Resizing("long", max_side, enlarge=False)

    def extract(original: Tensor) -> Extraction:
        image = resized(original, resizing)
        return Extraction(to_original(describe(image), original), max(image.shape[1:]))

    return one_by_one(extract, max_megapixels=max_megapixels)


def one_by_one(
    extract: Callable[[Tensor], Extraction], *, max_megapixels: float = MAX_MEGAPIXELS, ahead: int = READ_AHEAD
) -> Extract:
    """What extracts one photo, for `extract_many`.

    Args:
        extract: given a 3×H×W photo in 0..1 of original size; a `ValueError` of its is reported, as of a bad file.
        max_megapixels: photos of more million pixels are refused.
        ahead: how many photos are read before their turn; with 0, none is while the extractor works.
    """

    def extract_each(paths: Sequence[Path], failed: Failed) -> Iterator[tuple[int, Extraction]]:
        unmasked = zip(paths, repeat(None))
        for photo in prepare(unmasked, long_side=None, max_megapixels=max_megapixels, failed=failed, ahead=ahead):
            try:
                extraction = extract(unit_range(photo.pixels))
            except ValueError as error:
                failed(photo.index, error)
            else:
                yield photo.index, extraction

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
