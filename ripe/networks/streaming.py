"""Runs convolutions over a large map in strips of rows, with the same numbers as on the whole map.

A full-resolution map of the published network is larger than any cache (64 channels of a 640×480 image are 79 MB), so
a chain of layers that runs map by map waits for memory at each of them. Here a strip passes through the whole chain
before the next one enters. Each k×k convolution keeps the last k − 1 rows that it saw, so nothing is computed twice.
"""

from collections.abc import Iterable, Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ripe.networks.windows import Window

STRIP_BYTES = 4 << 20
# A strip must be higher than the rows that a chain of layers holds back: 16 in the published network's refiners.
MIN_STRIP_ROWS = 24


class RowStream:
    """Layers that take a map strip by strip, from the top, and return the rows that are complete.

    The layers are pointwise ones and convolutions of stride 1 that keep the size of the map by zero padding. A chain
    of them lags behind by the sum of its paddings; the last strip brings the rest.
    """

    def __init__(self, layers: Iterable[nn.Module]) -> None:
        self._layers = list(layers)
        self._kept: dict[int, Tensor] = {}

    def push(self, rows: Tensor, is_last: bool) -> Tensor:
        """The next complete rows, given the next rows of the input; the input may be overwritten."""
        for index, layer in enumerate(self._layers):
            if isinstance(layer, nn.Conv2d) and layer.kernel_size[0] > 1:
                rows = self._convolve(index, layer, rows, is_last)
            else:
                rows = layer(rows)
        return rows

    def _convolve(self, index: int, layer: nn.Conv2d, rows: Tensor, is_last: bool) -> Tensor:
        batch, channels, _, width = rows.shape
        padding = layer.kernel_size[0] // 2
        zeros = rows.new_zeros(batch, padding, width, channels).permute(0, 3, 1, 2)
        above = self._kept.get(index, zeros)
        rows = torch.cat([above, rows, zeros] if is_last else [above, rows], dim=2)
        self._kept[index] = _copy(rows[:, :, -2 * padding :])
        return F.conv2d(rows, layer.weight, layer.bias, padding=(0, layer.kernel_size[1] // 2), groups=layer.groups)


class RowDelay:
    """Holds rows back until they are asked for: the shortcut around a `RowStream`."""

    def __init__(self) -> None:
        self._kept: Tensor | None = None

    def push(self, rows: Tensor, count: int) -> Tensor:
        """The oldest `count` rows of all that came in and have not yet gone out."""
        if self._kept is not None:
            rows = torch.cat([self._kept, rows], dim=2)
        self._kept = _copy(rows[:, :, count:])
        return rows[:, :, :count]


def _copy(rows: Tensor) -> Tensor:
    """A copy that does not hold on to the memory of the larger strip."""
    return rows.clone(memory_format=torch.channels_last)


def strips(shape: Sequence[int]) -> Iterator[tuple[slice, bool]]:
    """Ranges of rows that cut a B×C×H×W map into strips that fit the cache, each with whether it is the last."""
    batch, channels, height, width = shape
    count = max(MIN_STRIP_ROWS, STRIP_BYTES // (4 * batch * channels * width))
    for start in range(0, height, count):
        yield slice(start, min(start + count, height)), start + count >= height


class RowPool:
    """Takes 2×2 maxima of a map strip by strip; a last odd row is left out, as by `F.max_pool2d`."""

    def __init__(self) -> None:
        self._kept: Tensor | None = None

    def push(self, rows: Tensor) -> Tensor:
        """The next complete rows of half the size."""
        if self._kept is not None:
            rows = torch.cat([self._kept, rows], dim=2)
        even = rows.shape[2] // 2 * 2
        self._kept = _copy(rows[:, :, even:])
        return F.max_pool2d(rows[:, :, :even], 2)


class RowWriter:
    """Assembles strips to a channels-last map, without holding the strips and the map at once.

    Args:
        window: of the map that the strips are of, what is kept.
    """

    def __init__(self, window: Window) -> None:
        self._window = window
        self._seen = 0
        self._map: Tensor | None = None

    def write(self, rows: Tensor) -> None:
        """Take the next rows."""
        batch, channels, count, _ = rows.shape
        window, start = self._window, self._seen
        self._seen += count
        if self._map is None:
            height, width = window.size
            self._map = rows.new_empty(batch, height, width, channels).permute(0, 3, 1, 2)
        first, last = max(start, window.top), min(self._seen, window.bottom)
        if first < last:
            kept = rows[:, :, first - start : last - start, window.left : window.right]
            self._map[:, :, first - window.top : last - window.top] = kept

    def finish(self) -> Tensor:
        """The whole window."""
        if self._map is None or self._seen < self._window.bottom:
            raise RuntimeError(f"{self._seen} rows were written, and {self._window.bottom} are wanted")
        return self._map


def resized_rows(features: Tensor, rows: slice, size: tuple[int, int]) -> Tensor:
    """Some rows of `F.interpolate(features, size, mode="bilinear", align_corners=False)`, without the others."""
    height = features.shape[2]
    position = torch.arange(rows.start, rows.stop, device=features.device, dtype=torch.float32)
    position = ((position + 0.5) * (height / size[0]) - 0.5).clamp(0, height - 1)
    upper = position.floor().long()
    lower = (upper + 1).clamp(max=height - 1)
    first, last = int(upper[0]), int(lower[-1]) + 1
    wide = F.interpolate(features[:, :, first:last], size=(last - first, size[1]), mode="bilinear", align_corners=False)
    wide = wide.permute(0, 2, 3, 1)  # indexing the second dimension keeps the memory channels-last
    weight = (position - upper)[:, None, None].to(wide.dtype)
    return torch.lerp(wide[:, upper - first], wide[:, lower - first], weight).permute(0, 3, 1, 2)
