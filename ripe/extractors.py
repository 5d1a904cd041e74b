"""What gives features: functions from an image, and how photos become such images."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from ripe import runtime
from ripe.extract_many import Extract, Extraction, Masks
from ripe.features import Features
from ripe.images import MAX_MEGAPIXELS, rescale_keypoints, resize, unit_range
from ripe.inference import READ_AHEAD, Failed, inside, prepare
from ripe.model import RIPE
from ripe.resizing import ONE_SCALE, Resizing

Describer = Callable[[Tensor], Features]
"""Gives the features of a 3×H×W RGB image in 0..1 as it is; keypoints are in its pixels."""


class MaskedDescriber(Protocol):
    """A `Describer` that also takes an H×W bool mask; no keypoint lies where it is False."""

    def __call__(self, image: Tensor, mask: Tensor | None = None) -> Features: ...


def describer(
    model: RIPE, *, max_keypoints: int = 2048, threshold: float | None = None, scales: Sequence[float] = ONE_SCALE
) -> MaskedDescriber:
    """A RIPE model as a describer, with the model's own threshold if None is given."""

    def describe(image: Tensor, mask: Tensor | None = None) -> Features:
        found = model.extract(image, max_keypoints=max_keypoints, threshold=threshold, scales=scales, masks=[mask])
        return found[0]

    return describe


def runtime_describer(
    extractor: runtime.Extractor, *, max_keypoints: int = 2048, threshold: float | None = None
) -> Describer:
    """A file of `ripe export` as a describer, with the file's own threshold if None is given."""

    def describe(image: Tensor) -> Features:
        pixels = image.permute(1, 2, 0).cpu().numpy()
        [found] = extractor.extract(pixels, max_keypoints=max_keypoints, threshold=threshold)
        keypoints, scores, descriptors = map(torch.from_numpy, (found.keypoints, found.scores, found.descriptors))
        return Features(keypoints, scores, descriptors, found.image_size)

    return describe


def shrinking(describe: MaskedDescriber, max_side: int | None, max_megapixels: float = MAX_MEGAPIXELS) -> Extract:
    """A describer for `extract_many`; photos whose longer side exceeds `max_side` pixels are shrunk, none enlarged."""

    def extract(original: Tensor, mask: Tensor | None) -> Extraction:
        image = original if max_side is None else resized(original, Resizing("long", max_side, enlarge=False))
        found = to_original(describe(image, None if mask is None else _shrunk(mask, image)), original)
        if mask is not None:
            found = found[inside(mask.to(found.keypoints.device), found.keypoints)]
        return Extraction(found, max(image.shape[1:]))

    return one_by_one(extract, max_megapixels=max_megapixels)


def one_by_one(
    extract: Callable[[Tensor, Tensor | None], Extraction],
    *,
    max_megapixels: float = MAX_MEGAPIXELS,
    ahead: int = READ_AHEAD,
) -> Extract:
    """What extracts one photo, for `extract_many`.

    Args:
        extract: given a 3×H×W photo in 0..1 of original size, and its H×W bool mask or None; a `ValueError` of its is
            reported, as of a bad file.
        max_megapixels: photos of more million pixels are refused.
        ahead: how many photos are read before their turn; with 0, none is while the extractor works.
    """

    def extract_each(paths: Sequence[Path], masks: Masks, failed: Failed) -> Iterator[tuple[int, Extraction]]:
        photos = prepare(
            zip(paths, masks, strict=True),
            long_side=None,
            enlarge=False,
            max_megapixels=max_megapixels,
            failed=failed,
            ahead=ahead,
        )
        for photo in photos:
            try:
                extraction = extract(unit_range(photo.pixels), photo.mask)
            except ValueError as error:
                failed(photo.index, error)
            else:
                yield photo.index, extraction

    return extract_each


def _shrunk(mask: Tensor, image: Tensor) -> Tensor:
    """A mask of the image's size, True where all pixels are that fell on one of the image's."""
    return F.interpolate(mask[None, None].float(), size=image.shape[1:], mode="area")[0, 0] == 1


def resized(image: Tensor, resizing: Resizing) -> Tensor:
    """A C×H×W image as an extractor shall see it: bilinear, antialiased."""
    height, width = image.shape[1:]
    size = resizing.apply((width, height))
    if size == (width, height):
        return image
    return _resize_blurred(image, size[::-1]) if resizing.blur else resize(image, size[::-1])


def to_original(features: Features, original: Tensor) -> Features:
    """Features of a resized image, with keypoints, scales and size of the original C×H×W one."""
    height, width = original.shape[1:]
    keypoints = rescale_keypoints(features.keypoints, features.image_size[::-1], (height, width))
    scales = features.scales * (max(height, width) / max(features.image_size))
    return Features(keypoints, features.scores, features.descriptors, (width, height), scales)


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
