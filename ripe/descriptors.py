"""Descriptors: samples of the feature maps at the keypoints ("hyper-columns"), reduced and normalised.

The published network samples with `align_corners=True`, which puts the centres of a pooled map's corner pixels at the
centres of the image's corner pixels; its weights depend on that. The compact network's maps are sampled where they
really lie: a map of stride s has its first centre at (s - 1) / 2.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ripe.networks.dense import DescriptorHead


def sample_map(features: Tensor, keypoints: Tensor, image_size: tuple[int, int], align_corners: bool) -> Tensor:
    """Bilinear samples of B×C×h×w `features` at B×M×2 `keypoints` in pixels of an image of (H, W): B×M×C.

    Positions outside the map take the value of the nearest border pixel.
    """
    height, width = image_size
    size = keypoints.new_tensor([width, height])
    grid = 2 * keypoints / (size - 1) - 1 if align_corners else (2 * keypoints + 1) / size - 1
    padding = "zeros" if align_corners else "border"
    samples = F.grid_sample(
        features.float(), grid[:, :, None].float(), align_corners=align_corners, padding_mode=padding
    )
    return samples[..., 0].transpose(1, 2)


def hypercolumn(
    pyramid: Sequence[Tensor], keypoints: Tensor, image_size: tuple[int, int], align_corners: bool
) -> Tensor:
    """Samples of all maps at the keypoints, finest map first, concatenated: B×M×(sum of channels)."""
    return torch.cat([sample_map(features, keypoints, image_size, align_corners) for features in pyramid], dim=-1)


class ProjectedColumn(DescriptorHead):
    """The compact network's descriptor: the hyper-column through a two-layer perceptron."""

    def __init__(self, channels: Sequence[int], hidden: int, dim: int) -> None:
        super().__init__()
        self.dim = dim
        self.layers = nn.Sequential(nn.Linear(sum(channels), hidden), nn.ReLU(inplace=True), nn.Linear(hidden, dim))

    def forward(self, pyramid: Sequence[Tensor], keypoints: Tensor, image_size: tuple[int, int]) -> Tensor:
        column = hypercolumn(pyramid, keypoints, image_size, align_corners=False)
        return F.normalize(self.layers(column).float(), dim=-1)
