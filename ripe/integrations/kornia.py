"""The extractor as a local feature of kornia's, for `kornia.feature.LocalFeatureMatcher` and its like.

    matcher = LocalFeatureMatcher(RIPEFeature(ripe.load()), DescriptorMatcher("mnn"))
    found = matcher({"image0": image0, "image1": image1})

Local affine frames are upright, as ours have no orientation, and 8 px of the image in which the keypoint was seen.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ripe.features import Features
from ripe.matching import upright_frames
from ripe.model import RIPE
from ripe.resizing import ONE_SCALE, check_scales

LAF_SCALE = 8.0


class RIPEFeature(nn.Module):
    """Finds and describes keypoints in kornia's terms. Not trainable: what comes out has no gradient.

    Args:
        model: from `ripe.load`.
        max_keypoints: how many keypoints an image keeps at most, the best ones.
        threshold: least score of a keypoint, a logit; the network's own if None.
        scales: at which the network sees an image; see `RIPE.extract`.
    """

    def __init__(
        self,
        model: RIPE,
        *,
        max_keypoints: int = 2048,
        threshold: float | None = None,
        scales: Sequence[float] = ONE_SCALE,
    ) -> None:
        super().__init__()
        self.model = model
        self.max_keypoints = max_keypoints
        self.threshold = threshold
        self.scales = check_scales(scales)

    def forward(self, img: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """Extract a batch.

        Args:
            img: B×C×H×W in 0..1, C being 3 (RGB) or 1.
            mask: B×1×H×W or B×H×W; no keypoint lies where it is 0.

        Returns:
            lafs B×N×2×3, upright frames of 8 px times `Features.scales` around the keypoints, in pixels of `img` with
            the centre of the top-left pixel at (0, 0); responses B×N, the probability in 0..1 that the detector accepts
            the pixel (the logistic function of its logit); descriptors B×N×D of length 1. Best first. N is that of the
            image with most keypoints, and may be 0; the others' lists end in zeros, which kornia takes for empty
            places.
        """
        masks = None if mask is None else list(mask.reshape(-1, *mask.shape[-2:]))
        extracted = self.model.extract(
            img, max_keypoints=self.max_keypoints, threshold=self.threshold, scales=self.scales, masks=masks
        )
        most = max(map(len, extracted), default=0)
        parts = [_padded(features.to(img.device), most) for features in extracted]
        lafs, responses, descriptors = (torch.stack(part).to(img.dtype) for part in zip(*parts, strict=True))
        return lafs, responses, descriptors


def _padded(features: Features, length: int) -> tuple[Tensor, Tensor, Tensor]:
    missing = length - len(features)
    return (
        F.pad(upright_frames(features.keypoints, LAF_SCALE * features.scales), (0, 0, 0, 0, 0, missing)),
        F.pad(features.scores.float().sigmoid(), (0, missing)),
        F.pad(features.descriptors.float(), (0, 0, 0, missing)),
    )
