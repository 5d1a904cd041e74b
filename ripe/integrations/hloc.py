"""The extractor inside hloc (https://github.com/cvg/Hierarchical-Localization; written for commit c13273b).

Importing this module registers it, as hloc looks for extractors by name in its own folder only:

    import ripe.integrations.hloc as ripe_in_hloc
    from hloc import extract_features

    extract_features.main(ripe_in_hloc.CONF, images, feature_path=features, as_half=False)

`as_half=False` keeps keypoints in float32; hloc's default of float16 rounds them to whole pixels above 1024.
Without hloc's extraction, `ripe extract` and `ripe match --pairs` write the files that hloc's later steps read.
"""

import sys
from collections.abc import Mapping
from types import ModuleType
from typing import Any

import cv2  # noqa: F401 (hloc imports pycolmap, after which OpenCV would crash if it came later)
import torch
from torch import Tensor

from ripe.pretrained import load
from ripe.resizing import ONE_SCALE

try:
    import hloc.extractors
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
        unknown = sorted(conf.keys() - self.default_conf.keys())
        if unknown:
            raise ValueError(f"unknown settings {', '.join(unknown)}; there are {', '.join(self.default_conf)}")
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


def _register() -> None:
    """Put the extractor where hloc's `dynamic_load` looks: a module of `hloc.extractors` that defines one model."""
    path = f"{hloc.extractors.__name__}.{NAME}"
    module = ModuleType(path, __doc__)
    RIPEExtractor.__module__ = path
    module.RIPEExtractor = RIPEExtractor  # type: ignore[attr-defined]
    sys.modules[path] = module
    setattr(hloc.extractors, NAME, module)


_register()
