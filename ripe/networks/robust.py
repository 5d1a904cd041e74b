"""The robust network: the compact one that sees further, for photos between which light, season and viewpoint change.

It has the compact network's stages, and beside them what tells places apart that look alike from near: residual blocks
at strides 8 and 16, and a sixth stage at stride 32, whose map, and then that of stride 16, are handed down to the next
finer one. All of this is added to the compact network's maps, by numbers that are zero at first: a robust network that
is given a compact one's weights computes what that one does, to the bit, and learns from there on. So the descriptors
of the two stay comparable.
"""

import torch.nn.functional as F
from torch import Tensor, nn

from ripe.networks.compact import CHANNELS, CompactNet, ExportedNet, conv_bn_relu
from ripe.networks.dense import DenseNetwork

WIDTH = 192
"""Channels of the map of stride 32."""
BLOCKS = {3: 1, 4: 2}
"""How many residual blocks the stages have, by their index."""


class Residual(nn.Module):
    """Two convolutions whose sum with their input goes through a ReLU: at first the input itself, as a ReLU left it.

    He et al., "Deep Residual Learning for Image Recognition" (CVPR 2016), with the last scale zero at first as in
    Goyal et al., "Accurate, Large Minibatch SGD" (2017).
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.change = nn.Sequential(*conv_bn_relu(width, width), *silent(width, width, kernel_size=3))

    def forward(self, features: Tensor) -> Tensor:
        """B×C×h×w to the same."""
        return F.relu(features + self.change(features))


class RobustNet(CompactNet):
    """Image to score map and five feature maps; see the module's text."""

    alignment = 32
    reach = 352
    bytes_per_pixel = 340

    def __init__(self) -> None:
        super().__init__()
        for index, blocks in BLOCKS.items():
            stage = self.stages[index]
            assert isinstance(stage, nn.Sequential)
            stage.extend(Residual(CHANNELS[index]) for _ in range(blocks))
        self.widest = nn.Sequential(nn.AvgPool2d(2), *conv_bn_relu(CHANNELS[4], WIDTH), Residual(WIDTH))
        self.to_16 = nn.Sequential(*silent(WIDTH, CHANNELS[4]))
        self.to_8 = nn.Sequential(*silent(CHANNELS[4], CHANNELS[3]))

    def in_context(self, pyramid: list[Tensor]) -> list[Tensor]:
        """The same maps, those of strides 8 and 16 with what the coarser ones see."""
        *finer, at_8, at_16 = pyramid
        height, width = at_16.shape[-2:]
        even = F.pad(at_16, (0, width % 2, 0, height % 2), mode="replicate")
        at_16 = F.relu(at_16 + _doubled(self.to_16(self.widest(even)))[..., :height, :width])
        at_8 = F.relu(at_8 + _doubled(self.to_8(at_16)))
        return [*finer, at_8, at_16]

    def for_export(self) -> DenseNetwork:
        """The same maps in steps that ONNX Runtime is fast at."""
        return _ExportedRobustNet(self)


class _ExportedRobustNet(ExportedNet, RobustNet):
    """An exported compact network that sees further."""


def silent(in_channels: int, out_channels: int, kernel_size: int = 1) -> list[nn.Module]:
    """A convolution and a batch normalisation that give zero until they are trained."""
    norm = nn.BatchNorm2d(out_channels)
    nn.init.zeros_(norm.weight)
    return [nn.Conv2d(in_channels, out_channels, kernel_size, padding=kernel_size // 2, bias=False), norm]


def _doubled(features: Tensor) -> Tensor:
    return F.interpolate(features, scale_factor=2.0, mode="bilinear", align_corners=False)
