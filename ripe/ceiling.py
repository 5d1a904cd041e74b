"""A ceiling of memory: what a photo takes, and how large parts of it a network may see at a time.

What counts is the memory of a process that does nothing else: Python and PyTorch, the weights, the decoded photo and
its mask, and the network's maps. Each share follows from the photo's header and the network by the numbers here, which
`benchmarks/memory.py` has measured, so that parts, and with them results, are the same wherever they are made.
"""

import math
import re
from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from ripe.networks.dense import DenseNetwork
from ripe.networks.windows import Window
from ripe.photos import PhotoFile, decoded_bytes, decoding_bytes, open_image

UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}
LIBRARIES = 400_000_000
"""Python, PyTorch and this package once something was extracted: up to 375 MB, 60 of it the code of oneDNN that a
processor with AMX comes to run, and what the C library holds back."""
COPIES_OF_WEIGHTS = 3  # the model, what is made of it for inference, and oneDNN's
COPIES_OF_FEATURES = 3  # while those of a part are joined to them
MASK_BYTES = 10  # for each pixel while it is read; 1 afterwards
LEAST_SIDE = 256
SIDE_STEP = 32
FAR = 1 << 14


def parse_bytes(text: str) -> int:
    """A number of bytes of `text`, such as 1500M or 2G: K, M, G and T are powers of 1000.

    Raises:
        ValueError: it is none.
    """
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMGT]?)B?", text.strip().upper())
    if found is None:
        raise ValueError(f"{text!r} is no amount of memory; give bytes, or such as 1500M or 2G")
    return round(float(found[1]) * UNITS[found[2]])


def shown(count: float) -> str:
    """A number of bytes in words that `parse_bytes` takes, rounded up to 10 MB."""
    return f"{math.ceil(count / 1e7) / 100:g}G"


@dataclass(frozen=True)
class Ceiling:
    """The most memory that a process may take, shared out.

    Attributes:
        most: bytes, all together.
        held: of these, what is there before a photo is read, and the features.
        part_bytes: what a part takes whose core is a square of this side.
    """

    most: int
    held: int
    part_bytes: Callable[[int], int]

    def check_file(self, path: PhotoFile, *, masked: bool) -> None:
        """Raise a `ValueError` if a photo cannot be read or worked on below the ceiling, which says what would do."""
        with open_image(path) as image:
            pixels, decoding, kept = image.size[0] * image.size[1], decoding_bytes(image), decoded_bytes(image)
        mask = pixels if masked else 0
        self._check(str(path), max(decoding, kept + MASK_BYTES * mask, kept + mask + self.part_bytes(LEAST_SIDE)))

    def check(self, pixels: Tensor) -> None:
        """The same of an image that is in memory already."""
        self._check("image", pixels.nbytes + self.part_bytes(LEAST_SIDE))

    def side(self, pixels: Tensor, mask: Tensor | None, longest: int) -> int:
        """The side of the largest core that fits beside a photo and its mask, of an image of this longer side."""
        left = self.most - self.held - pixels.nbytes - (0 if mask is None else mask.nbytes)
        sides = range(LEAST_SIDE, longest + SIDE_STEP, SIDE_STEP)
        return max((side for side in sides if self.part_bytes(side) <= left), default=LEAST_SIDE)

    def _check(self, name: str, wanted: int) -> None:
        needed = self.held + wanted
        if needed > self.most:
            raise ValueError(
                f"{name}: needs {shown(needed)} of memory, and max_memory is {shown(self.most)}: raise it "
                "(--max-memory), or make a smaller copy"
            )


def share_out(most: int, network: DenseNetwork, weights: int, margin: int, features: int) -> Ceiling:
    """The shares of `most` bytes.

    Args:
        most: of the process.
        network: that is to see the photos.
        weights: bytes of the model's weights.
        margin: pixels around a core whose scores the detector looks at.
        features: bytes of an image's features.

    Raises:
        ValueError: not even the smallest photo fits.
    """

    def part_bytes(side: int) -> int:
        core = Window(FAR, FAR + side, FAR, FAR + side)
        whole = (3 * FAR + side, 3 * FAR + side)
        wanted = core.grown(margin, whole)
        return network.part_bytes(network.seen(wanted, whole).area, wanted.area)

    held = LIBRARIES + COPIES_OF_WEIGHTS * weights + COPIES_OF_FEATURES * features
    found = Ceiling(most, held, part_bytes)
    least = held + part_bytes(LEAST_SIDE)
    if most < least:
        raise ValueError(f"max_memory is {shown(most)}; this model needs {shown(least)} and what the photo takes")
    return found
