"""What every network computes for an image, and the way the rest of the library sees a network."""

from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor, nn

from ripe.networks.windows import Frame, Part, Size, Window

Frames = Sequence[Frame] | None
"""Of each map of a pyramid, which part of it there is; None where they are whole."""


class DenseMaps(NamedTuple):
    """A network's output for a batch of B images of H×W pixels.

    Attributes:
        logits: B×1×H×W float32 score map.
        pyramid: feature maps, finest first, each B×C×h×w. The finest has one pixel for each of the input's; all may
            extend beyond the input at the right and the bottom, by the same padding.
        frames: which part of an image's feature maps these are; None where they are all of it. The score map is that
            of the finest one's window.
    """

    logits: Tensor
    pyramid: tuple[Tensor, ...]
    frames: tuple[Frame, ...] | None = None

    def image(self, index: int) -> "DenseMaps":
        """The maps of one image, with a batch dimension of 1."""
        return DenseMaps(
            self.logits[index : index + 1], tuple(features[index : index + 1] for features in self.pyramid), self.frames
        )


class DenseNetwork(nn.Module):
    """Base of the networks: `forward` takes B×3×H×W RGB images (H, W ≥ 16, any affine range) and returns `DenseMaps`.

    A batch normalisation follows its convolution directly, both in one `nn.Sequential` or `nn.ModuleList`, so that
    `ripe.networks.folding.fold` can merge them.
    """

    def forward(self, images: Tensor) -> DenseMaps:
        """The score map and the feature maps of a batch of images."""
        raise NotImplementedError

    def infer(self, images: Tensor, part: Part | None = None) -> DenseMaps:
        """The maps of `forward`, by whatever way is fastest where no gradient is wanted; in evaluation mode only.

        Args:
            images: B×3×H×W.
            part: of which part of an image these are the pixels; None if they are whole images.
        """
        if part is not None:
            raise self._whole_alone()
        return self(images)

    def for_export(self) -> "DenseNetwork":
        """What gives the maps of `forward` in an exported graph; made of this network's parts, a folded copy's."""
        return self

    def seen(self, wanted: Window, size: Size) -> Window:
        """Which pixels of an image of (H, W) `size` the maps depend on in the window that is wanted."""
        raise self._whole_alone()

    def part_bytes(self, seen: int, wanted: int) -> int:
        """The memory in which a part of so many pixels, seen and wanted, is inferred, detected and described."""
        raise self._whole_alone()

    def _whole_alone(self) -> ValueError:
        return ValueError(f"{type(self).__name__} sees photos as a whole: leave out max_memory")


class DescriptorHead(nn.Module):
    """Base of the descriptor modules: describes positions by what the feature maps hold there.

    `forward` takes the maps of B images, B×M×2 keypoints (x, y) in pixels of the network's input, that input's
    (H, W), and of parts of images where their maps lie; it returns B×M×D float32 descriptors of length 1. `dim` is D.
    """

    dim: int

    def forward(self, pyramid: Sequence[Tensor], keypoints: Tensor, image_size: Size, frames: Frames = None) -> Tensor:
        """Descriptors of the keypoints."""
        raise NotImplementedError
