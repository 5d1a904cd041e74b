"""The rivals: OpenCV's SIFT and ORB, which every user has, and kornia's networks where their weights are at hand."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor

from ripe.extractors import Describer, MaskedDescriber
from ripe.features import Features
from ripe.stored_weights import unpickled

Detected = tuple[np.ndarray, np.ndarray, np.ndarray]
"""Keypoints N×2, scores N and descriptors N×D, all float32."""


def sift(max_keypoints: int) -> MaskedDescriber:
    """OpenCV's SIFT with its default settings and RootSIFT descriptors (square roots of L1-normalised histograms)."""
    detector = cv2.SIFT.create(nfeatures=max_keypoints)
    unlimited = cv2.SIFT.create()  # OpenCV chooses the best before it looks at the mask

    def describe(image: Tensor, mask: Tensor | None = None) -> Features:
        keypoints, scores, descriptors = _detect(detector if mask is None else unlimited, image, mask, 128)
        total = descriptors.sum(axis=1, keepdims=True)
        return _features((keypoints, scores, np.sqrt(descriptors / np.maximum(total, 1e-12))), image, max_keypoints)

    return describe


def orb(max_keypoints: int) -> MaskedDescriber:
    """OpenCV's ORB with its default settings.

    Each of the 256 bits becomes ±1/16. Such descriptors have unit length and a dot product of 1 − 2·distance/256, exact
    in float32, so that nearest neighbours by cosine are those by Hamming distance.
    """
    detector = cv2.ORB.create(nfeatures=max_keypoints)

    def describe(image: Tensor, mask: Tensor | None = None) -> Features:
        keypoints, scores, descriptors = _detect(detector, image, mask, 32)
        bits = np.unpackbits(descriptors.astype(np.uint8), axis=1).astype(np.float32)
        return _features((keypoints, scores, (2 * bits - 1) / 16), image, max_keypoints)

    return describe


def disk(max_keypoints: int, weights: Path, device: torch.device | None = None) -> Describer:
    """kornia's DISK (Tyszkiewicz et al., NeurIPS 2020) with weights such as `depth-save.pth`."""
    from kornia.feature import DISK

    network = DISK()
    network.load_state_dict(_read_weights(weights)["extractor"])
    network = network.to(device).eval()

    def describe(image: Tensor) -> Features:
        with torch.no_grad():
            found = network(image[None].to(device), n=max_keypoints, pad_if_not_divisible=True)[0]
        return _sorted(found.keypoints, found.detection_scores, found.descriptors, image)

    return describe


def aliked(max_keypoints: int, weights: Path, device: torch.device | None = None) -> Describer:
    """kornia's ALIKED (Zhao et al., 2023), the best keypoints whatever their score; weights as `aliked-n16.pth`.

    The file's name says which of the four networks it is.
    """
    from kornia.feature import ALIKED

    network = ALIKED(weights.stem, max_num_keypoints=max_keypoints, detection_threshold=0.0)
    # The published files lack buffers that the network computes itself.
    if network.load_state_dict(_read_weights(weights), strict=False).unexpected_keys:
        raise ValueError(f"{weights}: not weights of {weights.stem}")
    network = network.to(device).eval()

    def describe(image: Tensor) -> Features:
        with torch.no_grad():
            found = network(image[None].to(device))[0]
        return _sorted(found.keypoints, found.keypoint_scores, found.descriptors, image)

    return describe


def xfeat(max_keypoints: int, weights: Path, device: torch.device | None = None) -> Describer:
    """kornia's XFeat (Potje et al., CVPR 2024), sparse, with its published detection threshold; weights `xfeat.pt`."""
    from kornia.feature import XFeat

    network = XFeat(top_k=max_keypoints)
    network.net.load_state_dict(_read_weights(weights))
    network = network.to(device).eval()

    def describe(image: Tensor) -> Features:
        found = network.detectAndCompute(image[None].to(device))[0]
        return _sorted(found["keypoints"], found["scores"], found["descriptors"], image)

    return describe


BASELINES: dict[str, Callable[[int], MaskedDescriber]] = {"sift": sift, "orb": orb}
LEARNED: dict[str, tuple[Callable[..., Describer], str]] = {
    "disk": (disk, "depth-save.pth"),
    "aliked": (aliked, "aliked-n16.pth"),
    "xfeat": (xfeat, "xfeat.pt"),
}
"""Networks of kornia, with the name under which PyTorch's cache would hold the published weights."""


def baseline(name: str, max_keypoints: int, device: torch.device | None = None) -> Describer:
    """A baseline as a describer.

    Args:
        name: a key of `BASELINES` or `LEARNED`; the latter also with a weights file, as in `disk=depth-save.pth`.
        max_keypoints: how many keypoints an image keeps at most, those of strongest response.
        device: of networks; the CPU if None.

    Raises:
        ValueError: there is no such baseline, its weights do not fit, or kornia is not installed.
        FileNotFoundError: its weights are not at hand; they are never downloaded.
    """
    word, _, given = name.partition("=")
    if word in BASELINES and not given:
        return BASELINES[word](max_keypoints)
    if word not in LEARNED:
        raise ValueError(f"no baseline {name!r}; there are {', '.join([*BASELINES, *LEARNED])}")
    weights = learned_weights(name)
    try:
        return LEARNED[word][0](max_keypoints, weights, device)
    except ImportError as error:
        raise ValueError(f"{word} needs a recent kornia: pip install 'ripe-keypoints[eval]' ({error})") from error
    except (KeyError, RuntimeError) as error:
        raise ValueError(f"{weights}: not weights of {word} ({' '.join(str(error).split())[:100]}…)") from error


def learned_weights(name: str) -> Path:
    """The weights file of a learned baseline: the one after `=`, otherwise the one in PyTorch's cache.

    Raises:
        FileNotFoundError: it is not there.
    """
    word, _, given = name.partition("=")
    path = Path(given) if given else Path(torch.hub.get_dir()) / "checkpoints" / LEARNED[word][1]
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; give the weights of {word} as {word}=FILE")
    return path


def _read_weights(path: Path) -> dict[str, Any]:
    return unpickled(path, "a weights file")


def _detect(detector: Any, image: Tensor, mask: Tensor | None, length: int) -> Detected:
    rgb = (image * 255).round().byte().permute(1, 2, 0).cpu().numpy()
    grey = cv2.cvtColor(np.ascontiguousarray(rgb), cv2.COLOR_RGB2GRAY)
    kept = None if mask is None else mask.cpu().numpy().astype(np.uint8)
    found, descriptors = detector.detectAndCompute(grey, kept)
    keypoints = np.array([keypoint.pt for keypoint in found], dtype=np.float32).reshape(-1, 2)
    scores = np.array([keypoint.response for keypoint in found], dtype=np.float32)
    empty = np.zeros((0, length), dtype=np.float32)
    return keypoints, scores, empty if descriptors is None else descriptors.astype(np.float32)


def _features(detected: Detected, image: Tensor, max_keypoints: int) -> Features:
    keypoints, scores, descriptors = map(torch.from_numpy, detected)
    return _sorted(keypoints, scores, descriptors, image)[:max_keypoints]


def _sorted(keypoints: Tensor, scores: Tensor, descriptors: Tensor, image: Tensor) -> Features:
    order = scores.argsort(descending=True, stable=True)
    height, width = image.shape[1:]
    return Features(keypoints[order].float(), scores[order].float(), descriptors[order].float(), (width, height))
