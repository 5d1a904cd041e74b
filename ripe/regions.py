"""Pixels of an image region by region, as they are or resized, where the whole in float32 would not fit the memory."""

from collections.abc import Iterator
from functools import reduce
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from ripe.images import unit_range
from ripe.networks.windows import Size, Window

PIXELS_AT_A_TIME = 1 << 20


class Regions(Protocol):
    """An image of (H, W) `size`, of which `read` gives the pixels of a window, 3×h×w float32 in 0..1, on the CPU."""

    size: Size

    def read(self, window: Window) -> Tensor: ...


class Stored:
    """A 3×H×W image in memory, uint8 or float32."""

    def __init__(self, pixels: Tensor) -> None:
        self._pixels = pixels
        self.size: Size = (pixels.shape[1], pixels.shape[2])

    def read(self, window: Window) -> Tensor:
        """The pixels of a window."""
        return unit_range(window.of(self._pixels))


class Resized:
    """What `ripe.images.resize` makes of an image, by the same weights."""

    def __init__(self, source: Regions, size: Size) -> None:
        self._source = source
        self.size = size

    def read(self, window: Window) -> Tensor:
        """The pixels of a window."""
        rows, columns = (
            _weights(start, stop, self._source.size[axis], self.size[axis])
            for axis, (start, stop) in enumerate(((window.top, window.bottom), (window.left, window.right)))
        )
        at_a_time = max(1, PIXELS_AT_A_TIME * self.size[0] // self._source.size[0] // (columns.stop - columns.start))
        found = torch.empty(3, *window.size)
        for start in range(0, window.size[0], at_a_time):
            stop = min(start + at_a_time, window.size[0])
            some = rows.some(start, stop)
            pixels = self._source.read(Window(some.start, some.stop, columns.start, columns.stop))
            found[:, start:stop] = columns.apply(some.apply(pixels, 1), 2)
        return found


class _Weights(NamedTuple):
    """Of which input pixels along one axis each output pixel is the mean.

    Attributes:
        taps: N×K int64, the input pixels of each of N output pixels.
        weights: N×K float32, of sum 1.
    """

    taps: Tensor
    weights: Tensor

    @property
    def start(self) -> int:
        """The first input pixel."""
        return int(self.taps.min())

    @property
    def stop(self) -> int:
        """The one after the last input pixel."""
        return int(self.taps.max()) + 1

    def some(self, start: int, stop: int) -> "_Weights":
        """Those of some of the output pixels."""
        return _Weights(self.taps[start:stop], self.weights[start:stop])

    def apply(self, pixels: Tensor, dim: int) -> Tensor:
        """The output pixels of 3×h×w input pixels, which begin at `start` along `dim`."""
        first = self.start
        terms = (
            pixels.index_select(dim, taps - first).mul_(weights.view(-1, *[1] * (2 - dim)))
            for taps, weights in zip(self.taps.T, self.weights.T, strict=True)
        )
        return reduce(Tensor.add_, terms)


def _weights(first: int, last: int, before: int, after: int) -> _Weights:
    """Those of output pixels `first` to `last` of an axis that is brought from `before` to `after` pixels.

    As `F.interpolate` has them for "bilinear" with `antialias=True`: a triangle as wide as two output pixels, two
    input pixels at least, of what lies inside the image.
    """
    # Its arithmetic, too: ratio and centres are rounded to float32 there, which moves them by up to 0.001 pixels.
    scale = torch.tensor(before / after, dtype=torch.float32).double()
    reach = max(1.0, float(scale))
    centre = (scale * (torch.arange(first, last, dtype=torch.float64) + 0.5)).float().double()
    lowest = (centre - reach + 0.5).long().clamp(min=0)
    highest = (centre + reach + 0.5).long().clamp(max=before)
    taps = lowest[:, None] + torch.arange(int((highest - lowest).max()))
    weights = (1 - ((taps + 0.5 - centre[:, None]) / reach).abs()).clamp(min=0) * (taps < highest[:, None])
    return _Weights(taps.clamp(max=before - 1), (weights / weights.sum(dim=1, keepdim=True)).float())


def moments(image: Regions) -> tuple[Tensor, Tensor]:
    """Mean and variance of each channel, 1×3×1×1 each, float32."""
    total, squares = torch.zeros(3, dtype=torch.float64), torch.zeros(3, dtype=torch.float64)
    for window in _bands(image.size):
        values = image.read(window).double()
        total += values.sum(dim=(1, 2))
        squares += values.square_().sum(dim=(1, 2))
    count = image.size[0] * image.size[1]
    mean = total / count
    variance = (squares / count - mean.square()).clamp(min=0)
    return mean.float().view(1, 3, 1, 1), variance.float().view(1, 3, 1, 1)


def _bands(size: Size) -> Iterator[Window]:
    height, width = size
    rows = max(1, PIXELS_AT_A_TIME // width)
    for top in range(0, height, rows):
        yield Window(top, min(top + rows, height), 0, width)
