"""Extractor and matcher in hloc's terms, which image-matching-webui shares, without the base class of either.

A host makes a model of settings, `default_conf` with the user's over it, calls `_init`, and then hands dictionaries to
`_forward`.
"""

import sys
from collections.abc import Mapping
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from ripe.features import Features
from ripe.filters import MATCHER, MIN_SCORE, MatchFilter
from ripe.matching import check_usable, filtered_match
from ripe.pretrained import load
from ripe.resizing import ONE_SCALE


class Extractor:
    """Keypoints and descriptors of an image, in hloc's terms.

    Settings (`default_conf`):
        weights: "compact", "robust", "vgg_hyper" or the path of a weights file.
        max_keypoints: how many keypoints an image keeps at most, the best ones.
        detection_threshold: least score of a keypoint, a logit; the network's own if None.
        scales: at which the network sees an image; see `RIPE.extract`.
        dtype: of the arithmetic, "float32", "bfloat16" or "float16".

    Raises:
        ValueError: a setting that is not among these.
    """

    conf: Mapping[str, Any]  # the host's base class sets it
    default_conf: Mapping[str, Any] = {
        "name": None,
        "weights": "compact",
        "max_keypoints": 4096,
        "detection_threshold": None,
        "scales": ONE_SCALE,
        "dtype": "float32",
    }
    required_inputs = ["image"]  # noqa: RUF012

    def _init(self, conf: Mapping[str, Any]) -> None:
        _check_known(conf, self.default_conf)
        # A name that PyTorch does not have is left to `load`, whose message lists the right ones.
        self.model = load(conf["weights"], device="cpu", dtype=getattr(torch, conf["dtype"], conf["dtype"]))

    def _forward(self, data: Mapping[str, Tensor]) -> dict[str, list[Tensor]]:
        """Extract B×C×H×W images in 0..1: lists of keypoints N×2, scores N (logits), descriptors D×N, and scales N.

        hloc multiplies the scales as it does the keypoints, so that they are in pixels of the photo.
        """
        extracted = self.model.extract(
            data["image"],
            max_keypoints=self.conf["max_keypoints"],
            threshold=self._threshold(),
            scales=self.conf["scales"],
        )
        return {
            "keypoints": [features.keypoints for features in extracted],
            "scores": [features.scores for features in extracted],
            "descriptors": [features.descriptors.float().T for features in extracted],
            "scales": [features.scales for features in extracted],
        }

    def _threshold(self) -> float | None:
        return self.conf["detection_threshold"]


class Matcher:
    """Matches of two images' keypoints by a learned matcher (`ripe.load_matcher`), in hloc's terms.

    Settings (`default_conf`):
        weights: "compact", for the keypoints of the extractor "compact", or the path of a matcher's weights file.
        filter_threshold: least probability of a match, 0..1.

    Raises:
        ValueError: a setting that is not among these or out of range, or a file that is none of a matcher's.
        FileNotFoundError: there is no such file.
    """

    conf: Mapping[str, Any]
    default_conf: Mapping[str, Any] = {"name": None, "weights": MATCHER, "filter_threshold": MIN_SCORE}
    least_probability = "filter_threshold"  # what the host calls it
    required_inputs = [  # noqa: RUF012
        f"{name}{side}" for side in "01" for name in ("image", "keypoints", "descriptors")
    ]

    def _init(self, conf: Mapping[str, Any]) -> None:
        _check_known(conf, self.default_conf)
        check_usable(self._filter(conf))

    def _forward(self, data: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Match B pairs of images, where the keypoints are.

        Args:
            data: of both images, with 0 and 1 at the end of the names: `keypoints` B×N×2 in pixels of the image with
                the centre of the top-left one at (0, 0), as hloc's files have them; `descriptors` B×D×N of length 1;
                `image` B×C×H×W, of which the size alone counts.

        Returns:
            `matches0` B×N0 int64, for each keypoint of the first image that of the second, −1 for none;
            `matching_scores0` B×N0, probabilities, 0 for none.
        """
        pairs = zip(_features(data, "0"), _features(data, "1"), strict=True)
        how = self._filter(self.conf)
        found = [filtered_match(*pair, how).partners(len(pair[0])) for pair in pairs]
        matches, scores = (torch.stack(parts) for parts in zip(*found, strict=True))
        return {"matches0": matches, "matching_scores0": scores}

    def _filter(self, conf: Mapping[str, Any]) -> MatchFilter:
        return MatchFilter("lightglue", matcher=str(conf["weights"]), min_score=conf[self.least_probability])


def _features(data: Mapping[str, Tensor], side: str) -> list[Features]:
    height, width = data[f"image{side}"].shape[-2:]
    images = zip(data[f"keypoints{side}"], data[f"descriptors{side}"], strict=True)
    return [
        # Their order is the scores', which matching does not look at.
        Features(keypoints, keypoints.new_zeros(len(keypoints)), descriptors.T, (width, height))
        for keypoints, descriptors in images
    ]


def _check_known(conf: Mapping[str, Any], known: Mapping[str, Any]) -> None:
    unknown = sorted(conf.keys() - known.keys())
    if unknown:
        raise ValueError(f"unknown settings {', '.join(unknown)}; there are {', '.join(known)}")


def register(folder: ModuleType, name: str, model: type) -> None:
    """Put a model where the host's `dynamic_load` looks: a module `name` of `folder` that defines one model."""
    path = f"{folder.__name__}.{name}"
    module = ModuleType(path, __doc__)
    model.__module__ = path
    setattr(module, model.__name__, model)
    sys.modules[path] = module
    setattr(folder, name, module)
