"""What every network computes for an image, and the way the rest of the library sees a network."""

from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor, nn


class DenseMaps(NamedTuple):
    """A network's output for a batch of B images of H×W pixels.

    Attributes:
        logits: B×1×H×W float32 score map.
        pyramid: feature maps, finest first, each B×C×h×w. The finest has one pixel for each of the input's; all may
            extend beyond the input at the right and the bottom, by the same padding.
    """

    logits: Tensor
    pyramid: tuple[Tensor, ...]

    def image(self, index: int) -> "DenseMaps":
        """The maps of one image, with a batch dimension of 1."""
        return DenseMaps(
            self.logits[index : index + 1], tuple(features[index : index + 1] for features in self.pyramid)
        )


class DenseNetwork(nn.Module):
    """Base of the networks: `forward` takes B×3×H×W RGB images (H, W ≥ 16, any affine range) and returns `DenseMaps`.

    A batch normalisation follows its convolution directly, both in one `nn.Sequential` or `nn.ModuleList`, so that
    `ripe.networks.folding.fold` can merge them.
    """

    def forward(self, images: Tensor) -> DenseMaps:
        """The score map and the feature maps of a batch of images."""
        raise NotImplementedError

    def infer(self, images: Tensor) -> DenseMaps:
        """The maps of `forward`, by whatever way is fastest where no gradient is wanted; in evaluation mode only."""
        return self(images)


class DescriptorHead(nn.Module):
    """Base of the descriptor modules: describes positions by what the feature maps hold there.

    `forward` takes the maps of B images, B×M×2 keypoints (x, y) in pixels of the network's input and that input's
    (H, W); it returns B×M×D float32 descriptors of length 1. `dim` is D.
    """

    dim: int

    def forward(self, pyramid: Sequence[Tensor], keypoints: Tensor, image_size: tuple[int, int]) -> Tensor:
        """Descriptors of the keypoints."""
        raise NotImplementedError
