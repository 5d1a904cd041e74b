"""Descriptors: samples of the feature maps at the keypoints ("hyper-columns"), reduced and normalised.

The published network samples with `align_corners=True`, which puts the centres of a pooled map's corner pixels at the
centres of the image's corner pixels; its weights depend on that. The compact network's maps are sampled where they
really lie: a map of stride s has its first centre at (s - 1) / 2.
"""

from collections.abc import Sequence
from itertools import repeat

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ripe.networks.dense import DescriptorHead, Frames
from ripe.networks.windows import Frame, Size


def sample_map(
    features: Tensor,
    keypoints: Tensor,
    image_size: Size,
    align_corners: bool,
    mode: str = "bilinear",
    frame: Frame | None = None,
) -> Tensor:
    """Samples of B×C×h×w `features`, all of a map or the part of `frame`, at B×M×2 `keypoints`: B×M×C.

    Keypoints are in pixels of an image of (H, W). Without `align_corners`, positions outside the map take the value of
    the nearest border pixel. With it, only the bicubic mode ever looks outside, and sees zeros, as the published
    network does.
    """
    if frame is not None:
        keypoints, image_size = _in_part(keypoints, image_size, align_corners, frame), frame.window.size
    elif torch.compiler.is_compiling() and not align_corners:
        return sample_rows(features, keypoints, image_size)
    # Axis by axis: a tensor of both lengths would be a constant in an exported graph.
    axes = zip(keypoints.unbind(dim=-1), reversed(image_size), strict=True)
    grid = torch.stack(
        [2 * at / (length - 1) - 1 if align_corners else (2 * at + 1) / length - 1 for at, length in axes], dim=-1
    )
    padding = "zeros" if align_corners else "border"
    samples = F.grid_sample(
        features.float(), grid[:, :, None].float(), mode=mode, align_corners=align_corners, padding_mode=padding
    )
    return samples[..., 0].transpose(1, 2)


def sample_rows(features: Tensor, keypoints: Tensor, image_size: Size) -> Tensor:
    """`sample_map` without `align_corners`, of whole maps, for exported graphs: B×M×C.

    All channels of a pixel are read at once. ONNX Runtime's `GridSample` reads channel after channel, which takes
    several times as long, even though the map has to be brought into another order first.
    """
    batch, channels, *lengths = features.shape
    pixels, weights = [], []  # of rows, then of columns: those before and after each keypoint, and how near both are
    for at, image, length in zip(keypoints.flip(-1).unbind(dim=-1), image_size, lengths, strict=True):
        place = ((at + 0.5) * (length / image) - 0.5).clamp(min=0).clamp(max=length - 1)
        before = place.floor()
        pixels.append(torch.stack([before, (before + 1).clamp(max=length - 1)], dim=-1).long())
        weights.append(torch.stack([before + 1 - place, place - before], dim=-1))
    height, width = lengths
    images = torch.arange(batch, device=features.device)[:, None, None, None] * (height * width)
    index = images + pixels[0][..., :, None] * width + pixels[1][..., None, :]
    weight = weights[0][..., :, None] * weights[1][..., None, :]
    corners = F.embedding(index.flatten(2), features.float().permute(0, 2, 3, 1).reshape(-1, channels))
    return (weight.flatten(2)[:, :, None] @ corners)[:, :, 0]


def _in_part(keypoints: Tensor, image_size: Size, align_corners: bool, frame: Frame) -> Tensor:
    """Keypoints (x, y) of an image, in pixels of the part of a map that there is."""
    edge, half = (1, 0.0) if align_corners else (0, 0.5)
    corner = frame.window.left, frame.window.top
    axes = []
    for at, image, whole, first in zip(
        keypoints.unbind(dim=-1), reversed(image_size), reversed(frame.size), corner, strict=True
    ):
        ratio = (whole - edge) / (image - edge)
        # Counted from a pixel nearby, as float32 places what is 10 000 pixels away to 0.001.
        near = round(first / ratio)
        axes.append((at - near) * ratio + ((near + half) * ratio - half - first))
    return torch.stack(axes, dim=-1)


def hypercolumn(
    pyramid: Sequence[Tensor], keypoints: Tensor, image_size: Size, align_corners: bool, frames: Frames = None
) -> Tensor:
    """Samples of all maps at the keypoints, finest map first, concatenated: B×M×(sum of channels)."""
    samples = [
        sample_map(features, keypoints, image_size, align_corners, frame=frame)
        for features, frame in zip(pyramid, frames or repeat(None, len(pyramid)), strict=True)
    ]
    # The samples lie channel by channel in memory; joining them so is a plain copy.
    return torch.cat([sample.mT for sample in samples], dim=1).mT


def linear(column: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """`F.linear` of B×M×C samples, in float32 on a CPU as a convolution of size 1.

    PyTorch gives such a convolution to oneDNN, but the linear layer to MKL, which is half as fast on AMD processors.
    """
    # An exported graph does not know the number of keypoints, and what runs it has matrix products of its own.
    if torch.compiler.is_compiling() or not column.is_cpu or column.shape[1] == 0 or torch.is_autocast_enabled("cpu"):
        return F.linear(column, weight, bias)
    return F.conv1d(column.mT, weight[..., None], bias).mT


class ProjectedColumn(DescriptorHead):
    """The compact network's descriptor: the hyper-column through a two-layer perceptron."""

    def __init__(self, channels: Sequence[int], hidden: int, dim: int) -> None:
        super().__init__()
        self.dim = dim
        self.layers = nn.Sequential(nn.Linear(sum(channels), hidden), nn.ReLU(inplace=True), nn.Linear(hidden, dim))

    def forward(self, pyramid: Sequence[Tensor], keypoints: Tensor, image_size: Size, frames: Frames = None) -> Tensor:
        column = hypercolumn(pyramid, keypoints, image_size, align_corners=False, frames=frames)
        for layer in self.layers:
            column = linear(column, layer.weight, layer.bias) if isinstance(layer, nn.Linear) else layer(column)
        return F.normalize(column.float(), dim=-1)


class HyperColumn(DescriptorHead):
    """The published network's descriptor: the samples of all maps, reduced to `dim` numbers unless that is None.

    `weight` and `bias` are those of a one-dimensional convolution of kernel size 1, as in the published checkpoints.
    """

    def __init__(self, channels: Sequence[int], dim: int | None) -> None:
        super().__init__()
        self.dim = sum(channels) if dim is None else dim
        self.weight: Tensor | None = None
        self.bias: Tensor | None = None
        if dim is not None:
            reduction = nn.Conv1d(sum(channels), dim, 1)
            self.weight, self.bias = reduction.weight, reduction.bias

    def forward(self, pyramid: Sequence[Tensor], keypoints: Tensor, image_size: Size, frames: Frames = None) -> Tensor:
        column = self.sample(pyramid, keypoints, image_size, frames)
        if self.weight is not None:
            column = linear(column, self.weight[..., 0], self.bias)
        return F.normalize(column.float(), dim=-1)

    def sample(self, pyramid: Sequence[Tensor], keypoints: Tensor, image_size: Size, frames: Frames) -> Tensor:
        """What the descriptor is made of."""
        return hypercolumn(pyramid, keypoints, image_size, align_corners=True, frames=frames)


class LastMapColumn(HyperColumn):
    """A published variant (`interpolate_sparse2D`): bicubic samples of the coarsest map alone."""

    def __init__(self, channels: int, dim: int | None) -> None:
        super().__init__([channels], dim)

    def sample(self, pyramid: Sequence[Tensor], keypoints: Tensor, image_size: Size, frames: Frames) -> Tensor:
        frame = None if frames is None else frames[-1]
        return sample_map(pyramid[-1], keypoints, image_size, align_corners=True, mode="bicubic", frame=frame)


class SharedColumn(DescriptorHead):
    """A published variant (`desc_shares`): each map's samples are reduced on their own, then concatenated."""

    def __init__(self, channels: Sequence[int], shares: Sequence[int]) -> None:
        super().__init__()
        self.dim = sum(shares)
        # Children named 0, 1, … as in the published checkpoints.
        for index, (width, share) in enumerate(zip(channels, shares, strict=True)):
            self.add_module(str(index), nn.Conv1d(width, share, 1))

    def forward(self, pyramid: Sequence[Tensor], keypoints: Tensor, image_size: Size, frames: Frames = None) -> Tensor:
        parts = [
            reduction(sample_map(features, keypoints, image_size, align_corners=True, frame=frame).transpose(1, 2))
            for reduction, features, frame in zip(
                self.children(), pyramid, frames or repeat(None, len(pyramid)), strict=True
            )
        ]
        return F.normalize(torch.cat(parts, dim=1).transpose(1, 2).float(), dim=-1)
