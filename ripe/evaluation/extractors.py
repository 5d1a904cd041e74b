"""What is evaluated: functions from a photo's file to its features."""

from collections.abc import Callable
from pathlib import Path

from ripe.features import Features
from ripe.images import as_rgb
from ripe.model import RIPE

Extractor = Callable[[Path], Features]
"""Gives a photo's features; keypoints are in pixels of the stored photo."""


def model_extractor(model: RIPE, *, max_keypoints: int = 2048, max_side: int = 1024) -> Extractor:
    """Extractor of a RIPE model; photos whose longer side exceeds `max_side` pixels are shrunk to it, none enlarged."""

    def extract(path: Path) -> Features:
        image = as_rgb(path)
        shrunk = max_side if max(image.shape[1:]) > max_side else None
        return model.extract(image, max_keypoints=max_keypoints, resize=shrunk)[0]

    return extract
