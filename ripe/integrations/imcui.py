"""Extractor and matcher inside image-matching-webui (https://github.com/Vincentqyw/image-matching-webui, imcui 0.1.3).

Importing this module registers both, and their configurations by the names that `matcher_zoo` of an `app.yaml` takes:

    import ripe.integrations.imcui
    from imcui.cli.main import main

    main()

The webui has an extractor `ripe` of its own; ours have other names and leave it alone.
"""

from collections.abc import Mapping
from typing import Any

import cv2  # noqa: F401 (imcui imports pycolmap, after which OpenCV would crash if it came later)
import torch

from ripe.filters import MATCHER, MIN_SCORE
from ripe.integrations.hloc_models import Extractor, Matcher, register
from ripe.resizing import ONE_SCALE

try:
    import imcui.hloc.extractors
    import imcui.hloc.matchers
    from imcui.hloc.configs import confs_dict
    from imcui.hloc.utils.base_model import BaseModel
except ImportError as error:
    raise ImportError(f"image-matching-webui is needed: pip install imcui ({error})", name="imcui") from error

NAME = "ripe_keypoints"
FEATURE = "ripe-compact"
"""For `feature` of an entry of `matcher_zoo`; `matcher` may be the webui's own NN-mutual."""
LIGHTGLUE = "ripe-compact-lightglue"
"""For `matcher` of an entry of `matcher_zoo`."""


class RIPEExtractor(Extractor, BaseModel):
    """Keypoints and descriptors of an image, in the webui's terms.

    Settings (`default_conf`) are those of `ripe.integrations.hloc_models.Extractor`, but for
        keypoint_threshold: least probability of a keypoint, 0..1, in place of the logit `detection_threshold`; the
            network's own if None. The webui sets it from its slider, also after the model was made.
    """

    default_conf: Mapping[str, Any] = {
        "name": None,
        "weights": "compact",
        "max_keypoints": 5000,
        "keypoint_threshold": None,
        "scales": ONE_SCALE,
        "dtype": "float32",
    }

    def _threshold(self) -> float | None:
        probability = self.conf["keypoint_threshold"]
        if probability is None:
            return None
        if not 0 <= probability <= 1:
            raise ValueError(f"keypoint_threshold is {probability}; it must be in 0..1, a probability")
        return torch.logit(torch.tensor(probability, dtype=torch.float64)).item()


class RIPEMatcher(Matcher, BaseModel):
    """Matches of two images' keypoints by a learned matcher, in the webui's terms.

    Settings (`default_conf`) are those of `ripe.integrations.hloc_models.Matcher`, but for
        match_threshold: least probability of a match, 0..1, in place of `filter_threshold`. The webui sets it from its
            slider, also after the model was made.
        max_keypoints: without effect here; the webui hands it to every matcher.
    """

    default_conf: Mapping[str, Any] = {
        "name": None,
        "weights": MATCHER,
        "match_threshold": MIN_SCORE,
        "max_keypoints": None,
    }
    least_probability = "match_threshold"


register(imcui.hloc.extractors, NAME, RIPEExtractor)
register(imcui.hloc.matchers, NAME, RIPEMatcher)
confs_dict["extractors"][FEATURE] = {
    "output": "feats-ripe-n5000-r1600",
    "model": {"name": NAME, "weights": "compact", "max_keypoints": 5000},
    "preprocessing": {"grayscale": False, "resize_max": 1600},
}
confs_dict["matchers"][LIGHTGLUE] = {
    "output": "matches-ripe-lightglue",
    "model": {"name": NAME, "weights": MATCHER, "match_threshold": MIN_SCORE},
}
