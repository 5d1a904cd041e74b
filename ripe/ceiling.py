"""A ceiling of memory: what a photo takes, and how large parts of it a network may see at a time.

What counts is the memory of a process that does nothing else: Python and PyTorch, the weights, the decoded photo and
its mask, and the network's maps. Each share follows from the photo's header and the network by the numbers here, which
`benchmarks/memory.py` has measured, so that parts, and with them results, are the same wherever they are made.
"""

import ctypes
import math
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
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
LARGE_BLOCK = 1 << 22
"""Bytes. With 1 MB, two fifths more time were spent on fresh pages, and parts took a tenth of a gigabyte less."""
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h


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


def give_back() -> None:
    """Have the C library return the memory of freed blocks to the system.

    glibc keeps them, between blocks in use, too; part after part of nearly the same size that added up to
    hundreds of megabytes. Other systems' libraries have no such call.
    """
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim is not None:
            trim(0)


@contextmanager
def large_blocks_returned() -> Iterator[None]:
    """While it lasts, the C library gives large blocks back to the system as soon as they are freed.

    glibc does so with blocks that are larger than any that was freed before, up to 32 MB; what is smaller stays in its
    heap, between blocks in use, and of maps of many sizes that added up to as much as the maps themselves. It is a
    setting of the whole process. Afterwards it is what glibc comes to by itself once blocks of 32 MB were freed.
    """
    set_option = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if set_option is None:
        yield
        return
    set_option(M_MMAP_THRESHOLD, LARGE_BLOCK)
    try:
        yield
    finally:
        set_option(M_MMAP_THRESHOLD, 1 << 25)
        set_option(M_TRIM_THRESHOLD, 1 << 26)


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
