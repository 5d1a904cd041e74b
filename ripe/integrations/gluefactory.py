"""The extractor inside Glue Factory: `extractor.name: ripe.integrations.gluefactory` in its configuration.

Glue Factory (https://github.com/cvg/glue-factory; written for commit 2d17e3b) imports the module of that name and takes
the one subclass of its `BaseModel` that the module defines, so none of its files changes. Configurations come along:
`ripe+NN.yaml`, `ripe-compact+NN.yaml`, and `ripe-compact+lightglue.yaml` with the learned matcher
(`ripe.integrations.gluefactory_matcher`); `ripe info --gluefactory-conf ripe+NN` prints where.
"""

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from gluefactory.models.base_model import BaseModel
from torch import Tensor

from ripe.features import Features
from ripe.pretrained import load


class RIPEExtractor(BaseModel):
    """Keypoints and descriptors of a batch of images, in Glue Factory's terms.

    Settings (`default_conf`):
        weights: "compact", "robust", "vgg_hyper" or the path of a weights file.
        max_num_keypoints: how many keypoints an image keeps at most, the best ones; 1 or more.
        detection_threshold: least score of a keypoint, a logit; the network's own default if null.
        force_num_keypoints: pad every image to `max_num_keypoints`.
        dtype: of the arithmetic, "float32", "bfloat16" or "float16". What comes out is float32 always.

    A setting that is not among these raises, as a misspelt one would silently do nothing otherwise.
    """

    default_conf = {  # noqa: RUF012 (Glue Factory's way to declare settings)
        "weights": "compact",
        "max_num_keypoints": 2048,
        "detection_threshold": None,
        "force_num_keypoints": False,
        "dtype": "float32",
        "trainable": False,
    }
    required_data_keys = ["image"]  # noqa: RUF012
    strict_conf = True

    def _init(self, conf: Any) -> None:
        # A name that PyTorch does not have is left to `load`, whose message lists the right ones.
        self.model = load(conf.weights, device="cpu", dtype=getattr(torch, conf.dtype, conf.dtype))
        self.set_initialized()

    def _forward(self, data: Mapping[str, Any]) -> dict[str, Tensor]:
        """Extract a batch.

        Args:
            data: `image`, B×C×H×W in 0..1, C being 3 or 1; optionally `image_size`, B×2 (width, height), where images
                are padded on the right and at the bottom: what lies beyond is cut off before the network sees it.

        Returns:
            `keypoints` B×N×2, (x, y) in pixels with the *corner* of the top-left pixel at (0, 0), as in COLMAP;
            `keypoint_scores` B×N, the probability in 0..1 that the detector accepts the pixel (the logistic function of
            its logit); `descriptors` B×N×D of length 1. Best keypoints first. Where images have different numbers, the
            shorter lists end in padding: random positions with score 0 and descriptor 0. N is at least 1, as Glue
            Factory's nearest-neighbour matcher fails on empty lists, and a single blank image would end a benchmark.
        """
        images = data["image"]
        if "image_size" in data:
            sizes = [[int(side) for side in size] for size in data["image_size"]]
            images = [image[:, :height, :width] for image, (width, height) in zip(images, sizes, strict=True)]
        extracted = self.model.extract(
            images, max_keypoints=self.conf.max_num_keypoints, threshold=self.conf.detection_threshold
        )
        most = max(len(features) for features in extracted)
        length = self.conf.max_num_keypoints if self.conf.force_num_keypoints else max(most, 1)
        padded = [_padded(features, length) for features in extracted]
        keypoints, scores, descriptors = (torch.stack(parts) for parts in zip(*padded, strict=True))
        return {"keypoints": keypoints, "keypoint_scores": scores, "descriptors": descriptors}

    def loss(self, pred: Mapping[str, Tensor], data: Mapping[str, Any]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Not there: `ripe train` trains the extractor. Glue Factory's pipelines expect this very exception."""
        raise NotImplementedError("the extractor is trained by `ripe train`, not by Glue Factory")


def _padded(features: Features, length: int) -> tuple[Tensor, Tensor, Tensor]:
    """`length` keypoints in the corner convention, scores and descriptors, the last ones being padding."""
    missing = length - len(features)
    keypoints = features.keypoints + 0.5
    anywhere = torch.rand(missing, 2).to(keypoints) * keypoints.new_tensor(features.image_size)
    scores = F.pad(features.scores.float().sigmoid(), (0, missing))
    descriptors = F.pad(features.descriptors.float(), (0, 0, 0, missing))
    return torch.cat([keypoints, anywhere]), scores, descriptors
