"""The extractor and its matchers as one of vismatch's matchers (https://github.com/gmberton/vismatch, 1.4.0).

    from ripe.integrations.vismatch import RIPEMatcher

    found = RIPEMatcher(device="cuda")("left.jpg", "right.jpg")

`vismatch.get_matcher` knows the names of its own matchers only; whatever takes a matcher takes this one, too.
"""

from pathlib import Path
from typing import Any

from torch import Tensor

from ripe.filters import MatchFilter, Method
from ripe.matching import check_usable, filtered_match
from ripe.pretrained import load, weights_hash

try:
    from vismatch import BaseMatcher
except ImportError as error:
    raise ImportError(f"vismatch is needed: pip install vismatch ({error})", name="vismatch") from error


class RIPEMatcher(BaseMatcher):
    """Matches two images, in vismatch's terms: the result is a dictionary with the names of `BaseMatcher.forward`.

    Positions are (x, y) in pixels with the centre of the top-left one at (0, 0); confidences are cosine similarities,
    or probabilities of a learned matcher.

    Args:
        device: such as "cpu" or "cuda".
        max_num_keypoints: how many keypoints an image keeps at most, the best ones.
        weights: "compact", "robust", "vgg_hyper" or the path of a weights file.
        method: "mutual", "fginn", "adalam" or "lightglue"; see `ripe.filters.MatchFilter`.
        matcher: of "lightglue": a name or a weights file that fits the extractor.
        **kwargs: of `BaseMatcher`, such as `ransac_reproj_thresh`.

    Raises:
        ValueError, FileNotFoundError: of `ripe.load` and of `ripe.load_matcher`.
    """

    def __init__(
        self,
        device: str = "cpu",
        max_num_keypoints: int = 2048,
        *,
        weights: str | Path = "compact",
        method: Method = "mutual",
        matcher: str | Path | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(device, **kwargs)
        self.how = MatchFilter(method, matcher=None if matcher is None else str(matcher))
        self.max_num_keypoints = max_num_keypoints
        self.model = load(weights, device=device)
        check_usable(self.how, weights_hash(self.model))

    def _forward(self, img0: Tensor, img1: Tensor) -> tuple[Tensor, ...]:
        """Matched positions (2), all positions (2), descriptors (2) and confidences of 3×H×W images in 0..1."""
        features0, features1 = self.model.extract([img0, img1], max_keypoints=self.max_num_keypoints)
        matches = filtered_match(features0, features1, self.how)
        return (
            *matches.points(features0, features1),
            *(features.keypoints for features in (features0, features1)),
            *(features.descriptors for features in (features0, features1)),
            matches.scores,
        )
