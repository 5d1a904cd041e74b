"""OpenCV's SIFT and ORB as extractors: the rivals that every user has at hand."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

from ripe.evaluation.extractors import Extractor
from ripe.features import Features
from ripe.images import as_rgb, fit_long_side, read_image, rescale_keypoints, resize

Detector = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray, np.ndarray]]
"""Keypoints N×2, scores N and unit descriptors N×D, all float32, of an H×W uint8 grey image."""


def sift(max_keypoints: int) -> Detector:
    """OpenCV's SIFT with its default settings and RootSIFT descriptors (square roots of L1-normalised histograms)."""
    detector = cv2.SIFT.create(nfeatures=max_keypoints)

    def detect(image: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        keypoints, scores, descriptors = _detect(detector, image, 128)
        total = descriptors.sum(axis=1, keepdims=True)
        return keypoints, scores, np.sqrt(descriptors / np.maximum(total, 1e-12))

    return detect


def orb(max_keypoints: int) -> Detector:
    """OpenCV's ORB with its default settings.

    Each of the 256 bits becomes ±1/16. Such descriptors have unit length and a dot product of 1 − 2·distance/256, exact
    in float32, so that nearest neighbours by cosine are those by Hamming distance.
    """
    detector = cv2.ORB.create(nfeatures=max_keypoints)

    def detect(image: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        keypoints, scores, descriptors = _detect(detector, image, 32)
        bits = np.unpackbits(descriptors.astype(np.uint8), axis=1).astype(np.float32)
        return keypoints, scores, (2 * bits - 1) / 16

    return detect


BASELINES: dict[str, Callable[[int], Detector]] = {"sift": sift, "orb": orb}


def baseline_extractor(name: str, *, max_keypoints: int = 2048, max_side: int = 1024) -> Extractor:
    """Extractor of a baseline; photos whose longer side exceeds `max_side` pixels are shrunk to it, none enlarged.

    Args:
        name: a key of `BASELINES`.
        max_keypoints: how many keypoints a photo keeps at most, those of strongest response.
        max_side: in pixels.
    """
    if name not in BASELINES:
        raise ValueError(f"no baseline {name!r}; there are {', '.join(BASELINES)}")
    detector = BASELINES[name](max_keypoints)

    def extract(path: Path) -> Features:
        image, stored_size = _read_grey(path, max_side)
        keypoints, scores, descriptors = detector(image)
        order = np.argsort(-scores, kind="stable")[:max_keypoints]
        rescaled = rescale_keypoints(torch.from_numpy(keypoints[order]), image.shape, stored_size)
        return Features(
            rescaled, torch.from_numpy(scores[order]), torch.from_numpy(descriptors[order]), stored_size[::-1]
        )

    return extract


def _read_grey(path: Path, max_side: int) -> tuple[np.ndarray, tuple[int, int]]:
    """The photo as H×W uint8 grey, shrunk to `max_side`, and its stored (height, width)."""
    image = as_rgb(read_image(path))
    height, width = image.shape[1:]
    if max(height, width) > max_side:
        image = resize(image, fit_long_side((height, width), max_side))
    rgb = (image * 255).round().byte().permute(1, 2, 0).numpy()
    return cv2.cvtColor(np.ascontiguousarray(rgb), cv2.COLOR_RGB2GRAY), (height, width)


def _detect(detector: Any, image: np.ndarray, length: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    found, descriptors = detector.detectAndCompute(image, None)
    keypoints = np.array([keypoint.pt for keypoint in found], dtype=np.float32).reshape(-1, 2)
    scores = np.array([keypoint.response for keypoint in found], dtype=np.float32)
    empty = np.zeros((0, length), dtype=np.float32)
    return keypoints, scores, empty if descriptors is None else descriptors.astype(np.float32)
