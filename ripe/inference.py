"""Images on their way to the network, in bounded memory: read ahead by threads, resized, gathered to batches."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ripe.ceiling import Ceiling
from ripe.images import (
    MAX_MEGAPIXELS,
    MIN_SIDE,
    ImageLike,
    PhotoFile,
    as_planes,
    check_dense,
    fit_long_side,
    resize,
    unit_range,
)
from ripe.photos import check_mask_file, check_mask_size, check_numbers

READERS = 4
READ_AHEAD = 4
MAX_PIXELS_PER_BATCH = 2_000_000
MAX_PIXELS_PER_BATCH_ON_CPU = 500_000  # larger batches are no faster there
MAX_PIXELS_GATHERED = 8_000_000

Size = tuple[int, int]
MaskLike = Tensor | np.ndarray | Image.Image | PhotoFile
Failed = Callable[[int, Exception], object]
"""Told the index of an image that cannot be used, and why."""


@dataclass(frozen=True, eq=False)
class Prepared:
    """An image as the network shall see it.

    Attributes:
        index: of the image among all.
        pixels: 3×H×W, uint8 or float32; of `size`, or as they were read, to be resized region by region.
        size: (H, W) in which the network shall see the image.
        original_size: (H, W) of the image as it was handed in.
        mask: H×W bool of that size, True where keypoints may lie; None if they may lie anywhere.
    """

    index: int
    pixels: Tensor
    size: Size
    original_size: Size
    mask: Tensor | None


def prepare(
    images: Iterable[tuple[ImageLike, MaskLike | None]],
    *,
    long_side: int | None,
    enlarge: bool,
    max_megapixels: float,
    failed: Failed | None,
    ahead: int = READ_AHEAD,
    ceiling: Ceiling | None = None,
) -> Iterator[Prepared]:
    """Read and resize images, in order; no more are read than will soon be wanted.

    Args:
        images: each with its mask, or None; see `ripe.images.as_rgb`. They are taken one by one.
        long_side: the longer side's length in pixels; images keep their size if None.
        enlarge: whether smaller images are brought to it, too.
        max_megapixels: larger files are refused.
        failed: told of images that cannot be used, which are left out; if None, the first one's error is raised.
        ahead: how many files are read before their turn; with 0, none is while the caller works on an image.
        ceiling: images are left in the size that they have, and those that would not fit below it cannot be used.
    """
    read = partial(_read, long_side=long_side, enlarge=enlarge, max_megapixels=max_megapixels, ceiling=ceiling)
    for index, reading in enumerate(_read_ahead(read, images, ahead)):
        try:
            image = Prepared(index, *reading.result())
        except (OSError, ValueError) as error:
            if failed is None:
                raise
            failed(index, error)
        else:
            yield image


def batches(images: Iterable[Prepared], device: torch.device) -> Iterator[list[list[Prepared]]]:
    """Lists of batches of equally large images for `device`; the images of one list come before those of the next.

    A list holds `MAX_PIXELS_GATHERED` pixels, give or take one image, so that images of several sizes find company.
    """
    largest = MAX_PIXELS_PER_BATCH_ON_CPU if device.type == "cpu" else MAX_PIXELS_PER_BATCH
    gathered: list[Prepared] = []
    pixels = 0
    for image in images:
        gathered.append(image)
        pixels += _area(image)
        if pixels >= MAX_PIXELS_GATHERED:
            yield _of_equal_size(gathered, largest)
            gathered, pixels = [], 0
    if gathered:
        yield _of_equal_size(gathered, largest)


def stacked(batch: Sequence[Prepared], device: torch.device) -> Tensor:
    """B×3×H×W float32 on `device`; uint8 pixels travel as they are."""
    return torch.stack([unit_range(image.pixels.to(device)) for image in batch])


def inside(mask: Tensor, keypoints: Tensor) -> Tensor:
    """Which of N×2 keypoints (x, y) lie on pixels of an H×W bool mask that are True, N bool.

    A keypoint half-way between two pixels lies on both.
    """
    last = keypoints.new_tensor([mask.shape[1] - 1, mask.shape[0] - 1])
    upper = (keypoints + 0.5).floor().clamp(min=torch.zeros_like(last), max=last).long()
    lower = (keypoints - 0.5).ceil().clamp(min=torch.zeros_like(last), max=last).long()
    return torch.stack([mask[y, x] for y in (lower[:, 1], upper[:, 1]) for x in (lower[:, 0], upper[:, 0])]).all(dim=0)


def as_mask(mask: MaskLike, image: ImageLike, size: Size, *, max_megapixels: float = MAX_MEGAPIXELS) -> Tensor:
    """H×W bool of any accepted mask, True where keypoints may lie: where the mask, or one of its colours, is not 0.

    Args:
        mask: a path, a Pillow image, an array or tensor H×W.
        image: which it belongs to, for the message.
        size: (H, W) of the image, to which the mask must be equal.
        max_megapixels: larger files are refused.

    Raises:
        FileNotFoundError, ValueError: the mask is of another size, or none; the message names both.
    """
    if isinstance(mask, Tensor):
        check_dense(mask, "a mask")
        kept = mask != 0
    elif isinstance(mask, np.ndarray):
        check_numbers(mask, "a mask")
        kept = torch.from_numpy(np.asarray(mask != 0))  # of one number, or a matrix, too
    elif isinstance(mask, PhotoFile | Image.Image):
        if isinstance(mask, PhotoFile):
            check_mask_file(mask, image, size)
        kept = (as_planes(mask, max_megapixels=max_megapixels) != 0).any(dim=0)
    else:
        raise ValueError(f"a mask is a path, a Pillow image, a NumPy array or a tensor, not {type(mask).__name__}")
    check_mask_size(mask, image, kept.shape, size)
    return kept


Loaded = tuple[Tensor, Size, Size, Tensor | None]
"""Pixels, the size in which the network shall see them, the size that the image had, and its mask."""
Load = Callable[[ImageLike, MaskLike | None], Loaded]


def _read_ahead(
    load: Load, images: Iterable[tuple[ImageLike, MaskLike | None]], ahead: int
) -> Iterator["Future[Loaded]"]:
    """What `load` makes of each image and its mask, in order; threads read files, `ahead` before their turn."""
    pool = ThreadPoolExecutor(READERS)
    waiting: deque[Future[Loaded]] = deque()
    try:
        for image, mask in images:
            is_file = isinstance(image, PhotoFile)
            waiting.append(pool.submit(load, image, mask) if is_file else _done(load, image, mask))
            if len(waiting) > ahead:
                yield waiting.popleft()
        while waiting:
            yield waiting.popleft()
    finally:
        pool.shutdown(cancel_futures=True)


def _done(load: Load, image: ImageLike, mask: MaskLike | None) -> "Future[Loaded]":
    done: Future[Loaded] = Future()
    try:
        done.set_result(load(image, mask))
    except (OSError, ValueError) as error:
        done.set_exception(error)
    return done


def _read(
    image: ImageLike,
    mask: MaskLike | None,
    *,
    long_side: int | None,
    enlarge: bool,
    max_megapixels: float,
    ceiling: Ceiling | None,
) -> Loaded:
    """The image as the network shall see it (below a ceiling, as it is), and its mask."""
    if ceiling is not None and isinstance(image, PhotoFile):
        ceiling.check_file(image, masked=mask is not None)
    original = as_planes(image, max_megapixels=max_megapixels)
    if ceiling is not None:
        ceiling.check(original)
    own = (original.shape[-2], original.shape[-1])
    kept = None if mask is None else as_mask(mask, image, own, max_megapixels=max_megapixels)
    size = own
    if long_side is not None and (enlarge or max(own) > long_side):
        size = fit_long_side(own, long_side)
    if min(size) < MIN_SIDE:
        name = image if isinstance(image, PhotoFile) else "image"
        raise ValueError(
            f"{name}: resized to {size[1]}×{size[0]} pixels; both sides need {MIN_SIDE} or more: raise `resize`"
        )
    if size == own or ceiling is not None:
        return original, size, own, kept
    # Plane by plane, as the floating-point image is by far the largest thing around.
    return torch.cat([resize(unit_range(plane[None]), size) for plane in original]), size, own, kept


def _of_equal_size(images: Sequence[Prepared], max_pixels: int) -> list[list[Prepared]]:
    groups: dict[Size, list[Prepared]] = {}
    for image in images:
        groups.setdefault(image.size, []).append(image)
    found = []
    for group in groups.values():
        count = max(1, max_pixels // _area(group[0]))
        found += [group[start : start + count] for start in range(0, len(group), count)]
    return found


def _area(image: Prepared) -> int:
    return image.size[0] * image.size[1]
