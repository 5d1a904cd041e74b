"""The published network: a VGG-19 encoder, a decoder that refines the score map from coarse to fine.

The names of the layers are those of the published checkpoints. `forward` is the plain, differentiable network; `infer`
computes the same maps in strips of rows (see `ripe.networks.streaming`), several times faster on a CPU and in a
fraction of the memory.
"""

from collections.abc import Iterable, Sequence
from typing import Literal, cast, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ripe import checks
from ripe.networks.dense import DenseMaps, DenseNetwork, DescriptorHead
from ripe.networks.descriptors import HyperColumn, LastMapColumn, SharedColumn
from ripe.networks.streaming import RowDelay, RowPool, RowStream, RowWriter, resized_rows, strips
from ripe.networks.windows import Frame, Part, Size, Window, resized_part

CHANNELS = (64, 128, 256, 512)
CONVOLUTIONS = (2, 2, 4, 4)
STRIDES = (1, 2, 4, 8)
HIDDEN_BLOCKS = 8
LONGEST = 2**16  # of descriptors
ENCODER_REACH = 64
"""How many pixels away the furthest pixel lies that the encoder's coarsest map depends on (61), in full strides."""
REFINER_REACH = 2 * HIDDEN_BLOCKS
"""How many pixels of its own map a refiner looks at to each side."""
BYTES_PER_PIXEL_SEEN = 150
BYTES_PER_PIXEL_WANTED = 700
BYTES_OF_STRIPS = 80_000_000
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

Interpolation = Literal["hypercolumn", "interpolate_sparse2D"]


class Encoder(nn.Module):
    """The first four stages of VGG-19 with batch normalisation."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        self.stages: list[slice] = []
        previous = 3
        for width, depth in zip(CHANNELS, CONVOLUTIONS, strict=True):
            start = len(layers)
            for _ in range(depth):
                layers += [nn.Conv2d(previous, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU(inplace=True)]
                previous = width
            self.stages.append(slice(start, len(layers)))
            layers.append(nn.MaxPool2d(2))
        # The last pool's output has no use; the pools are in the list because the published names count them.
        self.layers = nn.Sequential(*layers)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Feature maps of strides 1, 2, 4 and 8, each taken just before its pool."""
        pyramid: list[Tensor] = []
        for stage in self.stages:
            features = F.max_pool2d(pyramid[-1], 2) if pyramid else images
            pyramid.append(self.layers[stage](features))
        return tuple(pyramid)

    def infer(self, images: Tensor, kept: Sequence[Window]) -> tuple[Tensor, ...]:
        """The same maps, each stage in strips; of each, the window that is kept, which alone is ever held."""
        pyramid: list[Tensor] = []
        features = images
        for stage, width, window in zip(self.stages, CHANNELS, kept, strict=True):
            is_coarsest = width == CHANNELS[-1]
            height, length = _size(features)
            stream, pool = RowStream(list(self.layers)[stage]), RowPool()
            writer, pooled = RowWriter(window), RowWriter(Window(0, height // 2, 0, length // 2))
            for rows, is_last in strips((len(features), width, height, length)):
                complete = stream.push(features[:, :, rows], is_last)
                writer.write(complete)
                if not is_coarsest:
                    pooled.write(pool.push(complete))
            pyramid.append(writer.finish())
            if not is_coarsest:
                features = pooled.finish()
        return tuple(pyramid)


class Refiner(nn.Module):
    """Corrects the score at one scale and passes a context on to the next finer one."""

    def __init__(self, feature_channels: int, context_channels: int, out_channels: int) -> None:
        super().__init__()
        hidden = feature_channels
        self.block1 = nn.Sequential(
            nn.Conv2d(feature_channels + context_channels, hidden, 1),
            nn.BatchNorm2d(hidden),
            nn.ReLU(inplace=True),
            nn.Conv2d(hidden, hidden, 1),
        )
        self.hidden_blocks = nn.Sequential(*(self._hidden_block(hidden) for _ in range(HIDDEN_BLOCKS)))
        self.out_conv = nn.Conv2d(hidden, 1 + out_channels, 1)

    @staticmethod
    def _hidden_block(channels: int) -> nn.Sequential:
        return nn.Sequential(
            nn.Conv2d(channels, channels, 5, padding=2, groups=channels),
            nn.BatchNorm2d(channels),
            nn.ReLU(inplace=True),
            nn.Conv2d(channels, channels, 1),
        )

    def forward(self, features: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        """The correction of the score and the next context, from the features and the coarser map's context."""
        if context is not None:
            features = torch.cat([features, _upsample(context, _size(features))], dim=1)
        mixed = self.block1(features)
        return self._outputs((self.hidden_blocks(mixed) + mixed) / 1.4)

    def infer(
        self, features: Tensor, context: Tensor | None, frames: tuple[Frame, Frame] | None = None
    ) -> tuple[Tensor, Tensor]:
        """The same, in strips; of parts of maps, `frames` say where context and features lie."""
        first, *others = self.block1
        assert isinstance(first, nn.Conv2d)
        feature_weight, context_weight = first.weight.tensor_split([features.shape[1]], dim=1)
        if context is not None:
            # A 1×1 convolution and a resize may change places; on the coarse map the convolution costs a quarter.
            context = F.conv2d(context, context_weight)
        stream = RowStream(layer for block in self.hidden_blocks for layer in block.children())
        shortcut = RowDelay()
        height, width = _size(features)
        score, next_context = (RowWriter(Window(0, height, 0, width)) for _ in range(2))
        for rows, is_last in strips(features.shape):
            mixed = F.conv2d(features[:, :, rows], feature_weight, first.bias)
            if context is not None and frames is not None:
                mixed += resized_part(context, frames[0], frames[1].rows(rows))
            elif context is not None:
                mixed += resized_rows(context, rows, _size(features))
            mixed = nn.Sequential(*others)(mixed)
            refined = stream.push(mixed, is_last)
            refined += shortcut.push(mixed, refined.shape[2])
            score_rows, context_rows = self._outputs(refined.div_(1.4))
            score.write(score_rows)
            next_context.write(context_rows)
        return score.finish(), next_context.finish()

    def _outputs(self, refined: Tensor) -> tuple[Tensor, Tensor]:
        # In float32 even under autocast: neighbouring scores rounded to bfloat16 tie, and ties are no maxima.
        with torch.autocast(refined.device.type, enabled=False):
            outputs = self.out_conv(refined.float())
        return outputs[:, :1], outputs[:, 1:]


class Decoder(nn.Module):
    """Four refiners, coarse to fine; the scores add up over the scales."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleDict()
        context = 0
        for index in reversed(range(len(STRIDES))):
            out = CHANNELS[index - 1] if index > 0 else 1
            self.layers[str(STRIDES[index])] = Refiner(CHANNELS[index], context, out)
            context = out

    def forward(self, pyramid: Sequence[Tensor]) -> Tensor:
        """The score map, B×1×H×W at the size of the finest map."""
        refiners = self._refiners()
        score, context = refiners[0](pyramid[-1], None)
        for refiner, features in zip(refiners[1:], reversed(pyramid[:-1]), strict=True):
            correction, context = refiner(features, context)
            score = _upsample(score, _size(features)) + correction
        return score

    def infer(self, pyramid: Sequence[Tensor], frames: Sequence[Frame] | None = None) -> Tensor:
        """The same, in strips; of parts of maps, `frames` say where they lie, and the score map is the finest's."""
        refiners = self._refiners()
        score, context = refiners[0].infer(pyramid[-1], None)
        for index in reversed(range(len(pyramid) - 1)):
            refiner, features = refiners[len(pyramid) - 1 - index], pyramid[index]
            between = None if frames is None else (frames[index + 1], frames[index])
            correction, context = refiner.infer(features, context, between)
            enlarged = _upsample(score, _size(features)) if between is None else resized_part(score, *between)
            score = enlarged + correction
        return score

    def _refiners(self) -> list[Refiner]:
        return list(cast(Iterable[Refiner], self.layers.values()))


class VggNet(DenseNetwork):
    """Image to score map and four feature maps; see the module's text.

    Args:
        normalise_input: bring each channel of each image to mean 0 and variance 1 first, as in the released weights;
            "imagenet" applies the mean and the variance of ImageNet's photos to images in 0..1, as the published
            training does; without either the network wants ImageNet-normalised images.
    """

    channels = CHANNELS

    def __init__(self, normalise_input: bool | Literal["imagenet"] = True) -> None:
        super().__init__()
        if not isinstance(normalise_input, bool) and normalise_input != "imagenet":
            raise ValueError(f'normalise_input is {normalise_input!r}; it must be true, false or "imagenet"')
        self.normalise_input = normalise_input
        self.encoder = Encoder()
        self.decoder = Decoder()

    def forward(self, images: Tensor) -> DenseMaps:
        """The score map and the feature maps, differentiable."""
        pyramid = self.encoder(self._normalised(images))
        return DenseMaps(self.decoder(pyramid), pyramid)

    def infer(self, images: Tensor, part: Part | None = None) -> DenseMaps:
        """The same maps in strips, for a network in evaluation mode and without gradients."""
        images = self._normalised(images, part).contiguous(memory_format=torch.channels_last)
        frames = None if part is None else _frames(part.wanted, part.size)
        height, width = _size(images)
        if part is None or frames is None:
            kept = [Window(0, height // stride, 0, width // stride) for stride in STRIDES]
        else:
            kept = [
                frame.window.within(part.seen.strided(stride)) for frame, stride in zip(frames, STRIDES, strict=True)
            ]
        pyramid = self.encoder.infer(images, kept)
        return DenseMaps(self.decoder.infer(pyramid, frames), pyramid, frames)

    def seen(self, wanted: Window, size: Size) -> Window:
        """Which pixels the maps depend on."""
        coarsest = _frames(wanted, size)[-1].window
        return coarsest.magnified(STRIDES[-1], size).grown(ENCODER_REACH, size).aligned(STRIDES[-1], size)

    def part_bytes(self, seen: int, wanted: int) -> int:
        """The memory that a part takes."""
        return BYTES_OF_STRIPS + BYTES_PER_PIXEL_SEEN * seen + BYTES_PER_PIXEL_WANTED * wanted

    def _normalised(self, images: Tensor, part: Part | None = None) -> Tensor:
        if self.normalise_input == "imagenet":
            mean, std = (images.new_tensor(values).view(3, 1, 1) for values in (IMAGENET_MEAN, IMAGENET_STD))
            return (images.float() - mean) / std
        if not self.normalise_input:
            return images.float()
        return F.instance_norm(images.float()) if part is None else part.normalised(images.float())


def _frames(wanted: Window, size: Size) -> tuple[Frame, ...]:
    """What of each map, finest first, the scores and descriptors of a window of an image of (H, W) `size` need.

    Each refiner looks around what is wanted of its map, and at the coarser map around that.
    """
    frames: list[Frame] = []
    for stride in STRIDES:
        whole = size[0] // stride, size[1] // stride
        window = frames[-1].below(whole) if frames else wanted
        frames.append(Frame(window.grown(REFINER_REACH, whole), whole))
    return tuple(frames)


def _size(features: Tensor) -> tuple[int, int]:
    return features.shape[2], features.shape[3]


def _upsample(features: Tensor, size: tuple[int, int]) -> Tensor:
    return F.interpolate(features, size=size, mode="bilinear", align_corners=False)


def descriptor_head(
    desc_shares: Sequence[int] | None = None,
    descriptor_dim: int | None = 256,
    interpolation: Interpolation = "hypercolumn",
) -> DescriptorHead:
    """What makes descriptors of the network's maps.

    Args:
        desc_shares: reduce each of the four maps' samples on its own, to these lengths, `descriptor_dim` together.
        descriptor_dim: length of the descriptors; None leaves the samples as they are.
        interpolation: "hypercolumn" samples all maps, "interpolate_sparse2D" the coarsest one, bicubically.

    Raises:
        ValueError: the options do not go together.
    """
    sparse = interpolation == "interpolate_sparse2D"
    if descriptor_dim is not None:
        checks.whole_number(descriptor_dim, "descriptor_dim", 1, LONGEST)
    if not isinstance(interpolation, str) or interpolation not in get_args(Interpolation):
        raise ValueError(f"interpolation is {interpolation!r}; give one of {', '.join(get_args(Interpolation))}")
    if desc_shares is None:
        return LastMapColumn(CHANNELS[-1], descriptor_dim) if sparse else HyperColumn(CHANNELS, descriptor_dim)
    for share in desc_shares:
        checks.whole_number(share, "desc_shares", 1, LONGEST)
    if len(desc_shares) != len(CHANNELS):
        raise ValueError(f"desc_shares {list(desc_shares)}: give {len(CHANNELS)} lengths, one for each map")
    if sparse or descriptor_dim != sum(desc_shares):
        raise ValueError(f"desc_shares {list(desc_shares)} need the hyper-column and a descriptor_dim of their sum")
    return SharedColumn(CHANNELS, desc_shares)
