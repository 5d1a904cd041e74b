"""What is evaluated: functions from an image, or from a photo's file, to features."""

from collections.abc import Callable
from pathlib import Path

from torch import Tensor

from ripe.evaluation.protocol import Resizing
from ripe.features import Features
from ripe.images import as_rgb, rescale_keypoints, resize
from ripe.model import RIPE

Describer = Callable[[Tensor], Features]
"""Gives the features of a 3×H×W RGB image in 0..1 as it is; keypoints are in its pixels."""

Extractor = Callable[[Path], Features]
"""Gives a photo's features; keypoints are in pixels of the stored photo."""


def describer(model: RIPE, *, max_keypoints: int = 2048, threshold: float | None = None) -> Describer:
    """A RIPE model as a describer, with the model's own threshold if None is given."""
    return lambda image: model.extract(image, max_keypoints=max_keypoints, threshold=threshold)[0]


def model_extractor(model: RIPE, *, max_keypoints: int = 2048, max_side: int = 1024) -> Extractor:
    """Extractor of a RIPE model; photos whose longer side exceeds `max_side` pixels are shrunk to it, none enlarged."""
    return from_file(describer(model, max_keypoints=max_keypoints), Resizing("long", max_side, enlarge=False))


def from_file(describe: Describer, resizing: Resizing) -> Extractor:
    """An extractor that reads a photo, resizes it and describes it."""

    def extract(path: Path) -> Features:
        image = as_rgb(path)
        return to_original(describe(resized(image, resizing)), image)

    return extract


def resized(image: Tensor, resizing: Resizing) -> Tensor:
    """A C×H×W image as an extractor shall see it: bilinear, antialiased."""
    height, width = image.shape[1:]
    size = resizing.apply((width, height))
    return image if size == (width, height) else resize(image, size[::-1])


def to_original(features: Features, original: Tensor) -> Features:
    """Features of a resized image, with keypoints and size of the original C×H×W one."""
    height, width = original.shape[1:]
    keypoints = rescale_keypoints(features.keypoints, features.image_size[::-1], (height, width))
    return Features(keypoints, features.scores, features.descriptors, (width, height))
