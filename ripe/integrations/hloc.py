"""Extractor and matcher inside hloc (https://github.com/cvg/Hierarchical-Localization; written for commit c13273b).

Importing this module registers both, as hloc looks for models by name in its own folders only:

    import ripe.integrations.hloc as ripe_in_hloc
    from hloc import extract_features, match_features

    extract_features.main(ripe_in_hloc.CONF, images, feature_path=features, as_half=False)
    match_features.main(ripe_in_hloc.MATCHER_CONF, pairs, features, matches=matches)

`as_half=False` keeps keypoints in float32; hloc's default of float16 rounds them to whole pixels above 1024.
Without them, `ripe extract` and `ripe match --pairs` write the files that hloc's later steps read.
"""

from typing import Any

import cv2  # noqa: F401 (hloc imports pycolmap, after which OpenCV would crash if it came later)

from ripe.filters import MATCHER
from ripe.integrations.hloc_models import Extractor, Matcher, register

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
"""For `hloc.extract_features.main`; the settings of `model` are those of `ripe.integrations.hloc_models.Extractor`."""
MATCHER_CONF: dict[str, Any] = {
    "output": "matches-ripe-lightglue",
    "model": {"name": NAME, "weights": MATCHER},
}
"""For `hloc.match_features.main`; the settings of `model` are those of `ripe.integrations.hloc_models.Matcher`."""


class RIPEExtractor(Extractor, BaseModel):
    """`Extractor` as hloc loads it."""


class RIPEMatcher(Matcher, BaseModel):
    """`Matcher` as hloc loads it."""


register(hloc.extractors, NAME, RIPEExtractor)
register(hloc.matchers, NAME, RIPEMatcher)
