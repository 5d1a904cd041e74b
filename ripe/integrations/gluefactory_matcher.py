"""The learned matcher inside Glue Factory: `matcher.name: ripe.integrations.gluefactory_matcher`.

It stands beside `ripe.integrations.gluefactory`, the extractor whose keypoints it matches, as Glue Factory (written for
commit 2d17e3b) wants one model a module. `ripe-compact+lightglue.yaml` has both; `ripe info --gluefactory-conf
ripe-compact+lightglue` prints where.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from gluefactory.models.base_model import BaseModel
from torch import Tensor

from ripe.features import Features, Matches
from ripe.filters import MATCHER, MIN_SCORE, MatchFilter
from ripe.matching import check_usable, filtered_match


class RIPEMatcher(BaseModel):
    """Matches of a batch of pairs of images, those of `ripe.match(…, method="lightglue")`, in Glue Factory's terms.

    Settings (`default_conf`):
        weights: "compact", for the keypoints of the extractor "compact", or the path of a matcher's weights file.
        filter_threshold: least probability of a match, 0..1.

    A setting that is not among these raises, as a misspelt one would silently do nothing otherwise.
    """

    default_conf = {  # noqa: RUF012 (Glue Factory's way to declare settings)
        "weights": MATCHER,
        "filter_threshold": MIN_SCORE,
        "trainable": False,
    }
    required_data_keys = [  # noqa: RUF012
        f"{name}{side}" for side in "01" for name in ("view", "keypoints", "descriptors")
    ]
    strict_conf = True

    def _init(self, conf: Any) -> None:
        self.how = MatchFilter("lightglue", matcher=str(conf.weights), min_score=conf.filter_threshold)
        check_usable(self.how)
        self.set_initialized()

    def _forward(self, data: Mapping[str, Any]) -> dict[str, Tensor]:
        """Match B pairs, where the keypoints are.

        Args:
            data: of both images, with 0 and 1 at the end of the names: `keypoints` B×N×2 in pixels with the *corner* of
                the top-left one at (0, 0); `descriptors` B×N×D of length 1; `view`, which has `image_size`, B×2 (width,
                height), or else `image`, B×C×H×W. Padding, which is what has descriptor 0 or, of `keypoint_scores` B×N
                if they are there, score 0, is passed over.

        Returns:
            `matches0` B×N0 and `matches1` B×N1 int64, for each keypoint that of the other image, −1 for none;
            `matching_scores0` and `matching_scores1`, probabilities, 0 for none. There is no `log_assignment`, which
            only losses read: layers and keypoints are left out early, so that nobody has it for all keypoints.
        """
        found = [self._matched(*pair) for pair in zip(_images(data, "0"), _images(data, "1"), strict=True)]
        counts = [data[f"keypoints{side}"].shape[1] for side in "01"]
        forward = [matches.partners(counts[0]) for matches in found]
        backward = [matches.reversed().partners(counts[1]) for matches in found]
        matches0, scores0 = (torch.stack(parts) for parts in zip(*forward, strict=True))
        matches1, scores1 = (torch.stack(parts) for parts in zip(*backward, strict=True))
        return {
            "matches0": matches0,
            "matches1": matches1,
            "matching_scores0": scores0,
            "matching_scores1": scores1,
        }

    def _matched(self, first: tuple[Features, Tensor], second: tuple[Features, Tensor]) -> Matches:
        """The matches of one pair, by the numbers that the keypoints have among the padding."""
        (features0, places0), (features1, places1) = first, second
        matches = filtered_match(features0, features1, self.how)
        indices0, indices1 = matches.indices.unbind(dim=1)
        return Matches(torch.stack([places0[indices0], places1[indices1]], dim=1), matches.scores)

    def loss(self, pred: Mapping[str, Tensor], data: Mapping[str, Any]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Not there: `ripe train` trains the matcher. Glue Factory's pipelines expect this very exception."""
        raise NotImplementedError("the matcher is trained by `ripe train`, not by Glue Factory")


def _images(data: Mapping[str, Any], side: str) -> Iterator[tuple[Features, Tensor]]:
    """The features of each image without padding, and where they stand among it."""
    view, descriptors = data[f"view{side}"], data[f"descriptors{side}"]
    scores = data.get(f"keypoint_scores{side}", torch.ones_like(descriptors[..., 0]))
    sizes = view.get("image_size")
    if sizes is None:
        height, width = view["image"].shape[-2:]
        sizes = torch.tensor([[width, height]]).expand(len(descriptors), 2)
    for index, size in enumerate(sizes):
        places = (descriptors[index].any(dim=-1) & (scores[index] > 0)).nonzero()[:, 0]
        width, height = (int(length) for length in size)
        keypoints = data[f"keypoints{side}"][index, places] - 0.5
        yield Features(keypoints, scores[index, places], descriptors[index, places], (width, height)), places
