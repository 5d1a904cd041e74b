"""How benchmarks and extractors resize photos."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

ONE_SCALE: tuple[float, ...] = (1.0,)
SEVERAL_SCALES: tuple[float, ...] = (1.0, 0.5, 0.25)
LARGEST_SCALE = 4.0


def check_scales(scales: Sequence[float | str]) -> tuple[float, ...]:
    """The scales at which a network sees an image, factors of its size, each once, the largest first.

    Raises:
        ValueError: there is none, or one is not a number above 0 and at most 4.
    """
    try:
        found = sorted({float(scale) for scale in scales}, reverse=True)
    except (TypeError, ValueError):
        found = []
    if not found or not all(math.isfinite(scale) and 0 < scale <= LARGEST_SCALE for scale in found):
        raise ValueError(f"scales are {scales!r}; give factors above 0 and at most {LARGEST_SCALE:g}, such as (1, 0.5)")
    return tuple(found)


def stored_scales(scales: Sequence[float]) -> str | None:
    """What a feature file says of the scales; None of one scale, so that older files are continued."""
    return None if tuple(scales) == ONE_SCALE else ",".join(f"{scale:g}" for scale in scales)


@dataclass(frozen=True)
class Resizing:
    """What is done to a photo before an extractor sees it.

    Attributes:
        side: which side is brought to `pixels`; the other follows, rounded down as in Glue Factory.
        pixels: length of that side.
        enlarge: whether smaller photos are enlarged, too.
        blur: shrink by a Gaussian blur and bilinear sampling, as kornia and so Glue Factory do, instead of by PyTorch's
            antialiased interpolation.
    """

    side: Literal["long", "short"]
    pixels: int
    enlarge: bool
    blur: bool = False

    def apply(self, size: tuple[int, int]) -> tuple[int, int]:
        """(width, height) of a resized photo of (width, height) `size`."""
        given = max(size) if self.side == "long" else min(size)
        if given <= self.pixels and not self.enlarge:
            return size
        # Glue Factory's own expressions: others of the same value round differently for some sizes.
        ratio = size[0] / size[1]
        if (self.side == "short") != (ratio < 1):
            return max(1, int(self.pixels * ratio)), self.pixels
        return self.pixels, max(1, int(self.pixels / ratio))

    def __str__(self) -> str:
        return f"{self.side} side {'' if self.enlarge else 'at most '}{self.pixels} px"
