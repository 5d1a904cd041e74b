"""Extractor and matcher inside hloc (https://github.com/cvg/Hierarchical-Localization; written for commit c13273b).

Importing this module registers both, as hloc looks for models by name in its own folders only:

    import ripe.integrations.hloc as ripe_in_hloc
    from hloc import extract_features, match_features

    extract_features.main(ripe_in_hloc.CONF, images, feature_path=features, as_half=False)
    match_features.main(ripe_in_hloc.MATCHER_CONF, pairs, features, matches=matches)

`as_half=False` keeps keypoints in float32; hloc's default of float16 rounds them to whole pixels above 1024.
Without them, `ripe extract` and `ripe match --pairs` write the files that hloc's later steps read.
"""

import sys
from collections.abc import Mapping
from types import ModuleType
from typing import Any

import cv2  # noqa: F401 (hloc imports pycolmap, after which OpenCV would crash if it came later)
import torch
from torch import Tensor

from ripe.features import Features
from ripe.filters import MATCHER, MIN_SCORE, MatchFilter
from ripe.matching import check_usable, filtered_match
from ripe.pretrained import load
from ripe.resizing import ONE_SCALE

try:
    import hloc.extractors
    import hloc.matchers
    from hloc.utils.base_model import BaseModel
except ImportError as error:
    place = "https://github.com/cvg/Hierarchical-Localization"
    raise ImportError(f"hloc is needed; it is not on PyPI, see {place} ({error})", name="hloc") from error

NAME = "ripe"
CONF: dict[str, Any] = {
    "output": "feats-ripe-n4096-r1600",
    "model": {"name": NAME, "weights": "compact", "max_keypoints": 4096},
    "preprocessing": {"grayscale": False, "resize_max": 1600},
}
"""For `hloc.extract_features.main`; the settings of `model` are those of `RIPEExtractor`."""
MATCHER_CONF: dict[str, Any] = {
    "output": "matches-ripe-lightglue",
    "model": {"name": NAME, "weights": MATCHER},
}
"""For `hloc.match_features.main`; the settings of `model` are those of `RIPEMatcher`."""


class RIPEExtractor(BaseModel):
    """Keypoints and descriptors of an image, in hloc's terms.

    Settings (`default_conf`):
        weights: "compact", "vgg_hyper" or the path of a weights file.
        max_keypoints: how many keypoints an image keeps at most, the best ones.
        detection_threshold: least score of a keypoint, a logit; the network's own if None.
        scales: at which the network sees an image; see `RIPE.extract`.
        dtype: of the arithmetic, "float32", "bfloat16" or "float16".

    Raises:
        ValueError: a setting that is not among these.
    """

    default_conf = {  # noqa: RUF012 (hloc's way to declare settings)
        "name": NAME,
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
            threshold=self.conf["detection_threshold"],
            scales=self.conf["scales"],
        )
        return {
            "keypoints": [features.keypoints for features in extracted],
            "scores": [features.scores for features in extracted],
            "descriptors": [features.descriptors.float().T for features in extracted],
            "scales": [features.scales for features in extracted],
        }


class RIPEMatcher(BaseModel):
    """Matches of two images' keypoints by a learned matcher (`ripe.load_matcher`), in hloc's terms.

    Settings (`default_conf`):
        weights: "compact", for the keypoints of the extractor "compact", or the path of a matcher's weights file.
        filter_threshold: least probability of a match, 0..1.

    Raises:
        ValueError: a setting that is not among these or out of range, or a file that is none of a matcher's.
        FileNotFoundError: there is no such file.
    """

    default_conf = {"name": NAME, "weights": MATCHER, "filter_threshold": MIN_SCORE}  # noqa: RUF012
    required_inputs = [  # noqa: RUF012
        f"{name}{side}" for side in "01" for name in ("image", "keypoints", "descriptors")
    ]

    def _init(self, conf: Mapping[str, Any]) -> None:
        _check_known(conf, self.default_conf)
        self.how = MatchFilter("lightglue", matcher=str(conf["weights"]), min_score=conf["filter_threshold"])
        check_usable(self.how)

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
        found = [filtered_match(*pair, self.how).partners(len(pair[0])) for pair in pairs]
        matches, scores = (torch.stack(parts) for parts in zip(*found, strict=True))
        return {"matches0": matches, "matching_scores0": scores}


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


def _register(folder: ModuleType, model: type) -> None:
    """Put a model where hloc's `dynamic_load` looks: a module of `folder` that defines one model."""
    path = f"{folder.__name__}.{NAME}"
    module = ModuleType(path, __doc__)
    model.__module__ = path
    setattr(module, model.__name__, model)
    sys.modules[path] = module
    setattr(folder, NAME, module)


_register(hloc.extractors, RIPEExtractor)
_register(hloc.matchers, RIPEMatcher)
