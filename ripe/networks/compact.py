"""The compact network: an extractor that runs in real time without a GPU.

Five stages at strides 1, 2, 4, 8, 16. Coarse features at stride 8 give one logit for every pixel of each 8×8 cell
(exactly the cells of the training policy), corrected by two light heads on the finest maps, which see the detail that
decides where in the cell a corner lies. Down-sampling averages 2×2 pixels before each stage, so that the centre of a
coarse pixel lies at the centre of the pixels that it covers.
"""

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ripe.networks.blocks import block_means, by_blocks, fixed, of_pairs
from ripe.networks.dense import DenseMaps, DenseNetwork
from ripe.networks.windows import Frame, Part, Size, Window

CHANNELS = (8, 24, 48, 96, 128)
CONVOLUTIONS = (1, 2, 2, 3, 3)
CELL = 8
STRIDE = 16
BLOCK = 4
"""Side of the blocks of pixels whose scores an exported graph computes at once."""


def conv_bn_relu(in_channels: int, out_channels: int, kernel_size: int = 3) -> list[nn.Module]:
    """A convolution of unchanged size, batch normalisation and ReLU."""
    return [
        nn.Conv2d(in_channels, out_channels, kernel_size, padding=kernel_size // 2, bias=False),
        nn.BatchNorm2d(out_channels),
        nn.ReLU(inplace=True),
    ]


class CompactNet(DenseNetwork):
    """Image to score map and five feature maps; see the module's text.

    Attributes:
        channels: of the feature maps.
        alignment: divides the corners of the parts of an image that its maps can be made of.
        reach: how many pixels away the furthest pixel lies that a score depends on; a descriptor's lies nearer.
        bytes_per_pixel: the memory of a part of an image.
    """

    channels = CHANNELS
    alignment = STRIDE
    reach = 116
    bytes_per_pixel = 300

    def __init__(self) -> None:
        super().__init__()
        self.stages = nn.ModuleList()
        previous = 3
        for index, (width, depth) in enumerate(zip(CHANNELS, CONVOLUTIONS, strict=True)):
            layers: list[nn.Module] = [] if index == 0 else [nn.AvgPool2d(2)]
            for _ in range(depth):
                layers += conv_bn_relu(previous, width)
                previous = width
            self.stages.append(nn.Sequential(*layers))
        hidden = CELL * CELL
        self.lateral = nn.Conv2d(CHANNELS[3], hidden, 1)
        self.top_down = nn.Conv2d(CHANNELS[4], hidden, 1, bias=False)
        self.fuse = nn.Sequential(nn.ReLU(inplace=True), *conv_bn_relu(hidden, hidden))
        self.cell_score = nn.Conv2d(hidden, CELL * CELL, 1)
        self.half_score = nn.Conv2d(CHANNELS[1], 4, 1, bias=False)
        self.full_score = nn.Conv2d(CHANNELS[0], 1, 3, padding=1, bias=False)

    def forward(self, images: Tensor) -> DenseMaps:
        """The score map and the feature maps; sizes that 16 does not divide are padded by their border pixels."""
        height, width = images.shape[-2:]
        features = _padded(F.instance_norm(images.float()))
        pyramid = []
        for stage in self.stages:
            features = stage(features)
            pyramid.append(features)
        pyramid = self.in_context(pyramid)
        return DenseMaps(self._score(pyramid, self._fine_score)[..., :height, :width], tuple(pyramid))

    def infer(self, images: Tensor, part: Part | None = None) -> DenseMaps:
        """The same maps; what PyTorch is slow at on a CPU is spelt out in simpler steps."""
        height, width = images.shape[-2:]
        pixels = _normalised(images.float()) if part is None else part.normalised(images.float())
        features = _padded(pixels)
        pyramid = []
        for stage in self.stages:
            for layer in stage.children():
                features = _halved(features) if isinstance(layer, nn.AvgPool2d) else layer(features)
            pyramid.append(features)
        pyramid = self.in_context(pyramid)
        logits = self._score(pyramid, self._fine_score_by_taps)[..., :height, :width]
        return DenseMaps(logits, tuple(pyramid), None if part is None else _frames(part))

    def in_context(self, pyramid: list[Tensor]) -> list[Tensor]:
        """The feature maps, whatever else a network makes of the stages' maps, finest first."""
        return pyramid

    def for_export(self) -> DenseNetwork:
        """The same maps in steps that ONNX Runtime is fast at."""
        return ExportedNet(self)

    def seen(self, wanted: Window, size: Size) -> Window:
        """Which pixels the maps depend on."""
        return wanted.grown(self.reach, size).aligned(self.alignment, size)

    def part_bytes(self, seen: int, wanted: int) -> int:
        """The memory that a part takes."""
        return self.bytes_per_pixel * seen

    def _score(self, pyramid: list[Tensor], fine_score: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
        top_down = F.interpolate(self.top_down(pyramid[4]), scale_factor=2.0, mode="bilinear", align_corners=False)
        cells = self.fuse(self.lateral(pyramid[3]) + top_down)
        # In float32 even under autocast: neighbouring scores rounded to bfloat16 tie, and ties are no maxima.
        with torch.autocast(cells.device.type, enabled=False):
            coarse = F.pixel_shuffle(self.cell_score(cells.float()), CELL)
            return coarse + fine_score(pyramid[0].float(), pyramid[1].float())

    def _fine_score(self, full: Tensor, half: Tensor) -> Tensor:
        """What the two light heads add to the scores, by the maps of strides 1 and 2: B×1×H×W."""
        return self._half_score(half) + self.full_score(full)

    def _half_score(self, half: Tensor) -> Tensor:
        # Few channels shuffle faster when each is a plane.
        return F.pixel_shuffle(self.half_score(half).contiguous(), 2)

    def _fine_score_by_taps(self, features: Tensor, half: Tensor) -> Tensor:
        """`_fine_score`: each of `full_score`'s nine taps weighs the channels in one product; then planes are shifted.

        A convolution to a single channel leaves most of a processor's vector lanes empty.
        """
        batch, channels, height, width = features.shape
        taps = self.full_score.weight.reshape(channels, 9).T.contiguous()
        pixels = features.permute(0, 2, 3, 1).reshape(-1, channels)
        upper, rows, lower = (taps @ pixels.T).view(3, 3, batch, height, width)
        rows[:, :, 1:] += upper[:, :, :-1]
        rows[:, :, :-1] += lower[:, :, 1:]
        left, score, right = rows
        score[..., 1:] += left[..., :-1]
        score[..., :-1] += right[..., 1:]
        return self._half_score(half) + score[:, None]


class ExportedNet(CompactNet):
    """The same maps of a folded network in steps that ONNX Runtime is fast at on a CPU.

    There, 16 channels are computed at a time, and maps whose channels 16 does not divide are brought into another order
    in memory for much that is done with them. So the finest map is computed as that of pairs of pixels, B×16×H×(W/2):
    8 channels of the left one, then 8 of the right one. The light heads give 4×4 pixels at once as 16 channels. Where
    16 does not divide the channels, means of 2×2 pixels are convolutions.

    The map of stride 2 is none of pairs: on processors that compute 8 channels at a time, its second convolution would
    take twice as long.
    """

    def __init__(self, network: CompactNet) -> None:
        super().__init__()
        for name, child in network.named_children():
            self.add_module(name, child)
        stages: Any = self.stages
        full, half, quarter, *_ = stages
        full[0] = by_blocks(full[0], 1, 2)
        half[0] = of_pairs(block_means(CHANNELS[0]))
        quarter[0] = block_means(CHANNELS[1])
        self.full_score = of_pairs(by_blocks(self.full_score, BLOCK, BLOCK))
        self.half_score = by_blocks(self.half_score, BLOCK // 2, BLOCK // 2)
        # Each of the 2×2 pixels has a block of 2×2 already: from rows, columns, their rows, their columns.
        weight = self.half_score.weight
        self.half_score.weight = fixed(weight.unflatten(0, (2, 2, 2, 2)).transpose(1, 2).flatten(0, 3))

    def forward(self, images: Tensor) -> DenseMaps:
        """See the class."""
        logits, (pairs, *coarser), _ = super().forward(images)
        batch, _, height, half_width = pairs.shape
        full = pairs.permute(0, 2, 3, 1).reshape(batch, height, 2 * half_width, CHANNELS[0]).permute(0, 3, 1, 2)
        return DenseMaps(logits, (full, *coarser))

    def _fine_score(self, full: Tensor, half: Tensor) -> Tensor:
        return F.pixel_shuffle(self.half_score(half) + self.full_score(full), BLOCK)


def _padded(images: Tensor) -> Tensor:
    """Sizes that the coarsest stride divides, by repeating the border pixels; channels-last."""
    height, width = images.shape[-2:]
    images = F.pad(images, (0, -width % STRIDE, 0, -height % STRIDE), mode="replicate")
    return images.contiguous(memory_format=torch.channels_last)


def _frames(part: Part) -> tuple[Frame, ...]:
    """Where the maps of a part lie in those of the image, which have the padding, too."""
    height, width = (math.ceil(length / STRIDE) * STRIDE for length in part.size)
    strides = [1 << index for index in range(len(CHANNELS))]
    seen = part.seen.aligned(STRIDE, (height, width))
    return tuple(Frame(seen.strided(stride), (height // stride, width // stride)) for stride in strides)


def _normalised(images: Tensor) -> Tensor:
    """`F.instance_norm` of images."""
    centred = images - images.mean(dim=(2, 3), keepdim=True)
    variance = centred.square().mean(dim=(2, 3), keepdim=True)
    return centred.mul_((variance + 1e-5).rsqrt_())


def _halved(features: Tensor) -> Tensor:
    """`F.avg_pool2d(features, 2)`."""
    rows = features[:, :, 0::2] + features[:, :, 1::2]
    return (rows[..., 0::2] + rows[..., 1::2]).mul_(0.25)
