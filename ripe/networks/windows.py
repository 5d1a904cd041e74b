"""Parts of large maps: which rows and columns there are, and what a network has to know of the rest."""

import math
from typing import NamedTuple

import torch
from torch import Tensor

Size = tuple[int, int]


class Window(NamedTuple):
    """Rows `top` to `bottom` and columns `left` to `right` of a map, without the last ones."""

    top: int
    bottom: int
    left: int
    right: int

    @property
    def size(self) -> Size:
        """(H, W)."""
        return self.bottom - self.top, self.right - self.left

    @property
    def area(self) -> int:
        """How many pixels it has."""
        return self.size[0] * self.size[1]

    def grown(self, by: int, size: Size) -> "Window":
        """The window and `by` pixels around it, as far as a map of (H, W) `size` goes."""
        (top, bottom), (left, right) = (
            (max(0, start - by), min(length, stop + by)) for start, stop, length in self._axes(size)
        )
        return Window(top, bottom, left, right)

    def aligned(self, stride: int, size: Size) -> "Window":
        """The least window around it whose edges `stride` divides, or are those of a map of (H, W) `size`."""
        (top, bottom), (left, right) = (
            (start // stride * stride, min(length, math.ceil(stop / stride) * stride))
            for start, stop, length in self._axes(size)
        )
        return Window(top, bottom, left, right)

    def strided(self, stride: int) -> "Window":
        """What it is in a map that has one pixel for `stride` of this one's, which divides its upper left corner."""
        return Window(*(edge // stride for edge in self))

    def magnified(self, stride: int, size: Size) -> "Window":
        """What it is in a map of (H, W) `size` that has `stride` pixels for each of this one's."""
        return Window(
            self.top * stride, min(size[0], self.bottom * stride), self.left * stride, min(size[1], self.right * stride)
        )

    def overlap(self, other: "Window") -> "Window":
        """What both have in common, which may be nothing."""
        top, left = max(self.top, other.top), max(self.left, other.left)
        return Window(top, max(top, min(self.bottom, other.bottom)), left, max(left, min(self.right, other.right)))

    def within(self, other: "Window") -> "Window":
        """The same window, counted from the other one's upper left corner."""
        return Window(self.top - other.top, self.bottom - other.top, self.left - other.left, self.right - other.left)

    def of(self, features: Tensor) -> Tensor:
        """These rows and columns of a …×H×W map."""
        return features[..., self.top : self.bottom, self.left : self.right]

    def _axes(self, size: Size) -> tuple[tuple[int, int, int], tuple[int, int, int]]:
        return (self.top, self.bottom, size[0]), (self.left, self.right, size[1])


class Frame(NamedTuple):
    """What there is of a map of (H, W) `size`."""

    window: Window
    size: Size

    def rows(self, rows: slice) -> "Frame":
        """Some of its rows, counted from its first one."""
        top = self.window.top
        return Frame(self.window._replace(top=top + rows.start, bottom=top + rows.stop), self.size)

    def below(self, size: Size) -> Window:
        """The window of a coarser map of (H, W) `size` that this one is interpolated from, by `resized_part`."""
        (top, bottom), (left, right) = (
            (
                max(0, math.floor((start + 0.5) * coarse / fine - 0.5)),
                min(coarse, math.floor((stop - 0.5) * coarse / fine - 0.5) + 2),
            )
            for start, stop, fine, coarse in (
                (self.window.top, self.window.bottom, self.size[0], size[0]),
                (self.window.left, self.window.right, self.size[1], size[1]),
            )
        )
        return Window(top, bottom, left, right)


class Part(NamedTuple):
    """A part of an image, of which a network makes its maps.

    Attributes:
        seen: where the pixels lie that the network is given, its `seen(wanted, size)`.
        wanted: where its maps must be those of the whole image.
        size: (H, W) of the image.
        mean: 1×3×1×1, of the whole image's channels.
        variance: 1×3×1×1, of the whole image's channels.
    """

    seen: Window
    wanted: Window
    size: Size
    mean: Tensor
    variance: Tensor

    def normalised(self, pixels: Tensor) -> Tensor:
        """`F.instance_norm` of the whole image, of the pixels that are seen."""
        return (pixels - self.mean).mul_((self.variance + 1e-5).rsqrt())


def resized_part(features: Tensor, have: Frame, want: Frame) -> Tensor:
    """A part of `F.interpolate(whole, want.size, mode="bilinear", align_corners=False)`, from a part of the whole map.

    Args:
        features: B×C×h×w, what there is of the map.
        have: where that lies; it holds `want.below(have.size)`.
        want: the part that is made.
    """
    window, source = want.window, want.below(have.size)
    # Indexing the middle dimensions keeps the memory channels-last.
    pixels = source.within(have.window).of(features).permute(0, 2, 3, 1)
    axes = (
        (2, window.left, window.right, want.size[1], have.size[1], source.left),
        (1, window.top, window.bottom, want.size[0], have.size[0], source.top),
    )
    for dim, start, stop, fine, coarse, origin in axes:
        position = torch.arange(start, stop, dtype=torch.float64)  # which not every device has
        position = ((position + 0.5) * (coarse / fine) - 0.5).clamp(0, coarse - 1)
        near = position.floor().long()
        weight = (position - near).to(features).view(-1, *[1] * (3 - dim))
        far = (near + 1).clamp(max=coarse - 1)
        first, second = (pixels.index_select(dim, (at - origin).to(features.device)) for at in (near, far))
        pixels = torch.lerp(first, second, weight)
    return pixels.permute(0, 3, 1, 2)
