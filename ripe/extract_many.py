"""From many photos to a feature file: the one loop of command line, reconstruction and evaluation.

Photos are read by threads while the network works, few at a time, so that memory stays bounded. One that cannot be read
or described is reported and the others are done; what the file system says on writing ends the loop.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ripe.images import MAX_MEGAPIXELS, read_image
from ripe.inference import as_mask

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from ripe.features import Features
    from ripe.model import RIPE
    from ripe.storage import FeatureFile

Read = tuple["np.ndarray", "Tensor | None"]
"""A photo's pixels and its mask."""
READERS = 4
READ_AHEAD = 8

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Extraction:
    """What was extracted from a photo.

    Attributes:
        features: keypoints in pixels of the photo as it was read.
        seen_side: longer side in pixels of the image that the extractor saw.
        notes: attributes that are stored with the features.
    """

    features: Features
    seen_side: int
    notes: Mapping[str, Any] = field(default_factory=dict)

    @property
    def uncertainty(self) -> float:
        """The keypoints' standard deviation, in pixels of the photo: one pixel of the image that the extractor saw."""
        return max(self.features.image_size) / self.seen_side


Masks = Sequence["Tensor | None"]
Extract = Callable[[Sequence["np.ndarray | Tensor"], Masks], Sequence[Extraction]]
"""Extracts photos (H×W×3, see `ripe.images.read_image`; or tensors 3×H×W) with their masks (H×W bool, or None), in
order; `ValueError` if one of them cannot be. No keypoint lies where a mask is False."""


def model_extract(model: RIPE, *, max_keypoints: int, threshold: float | None, max_side: int | None) -> Extract:
    """`RIPE.extract` for `extract_many`; photos whose longer side exceeds `max_side` are shrunk, none is enlarged."""

    def extract(photos: Sequence[np.ndarray | Tensor], masks: Masks) -> list[Extraction]:
        limits: dict[str, Any] = {"max_keypoints": max_keypoints, "threshold": threshold}
        found = model.extract(photos, resize=max_side, enlarge=False, masks=masks, **limits)
        sides = [max(features.image_size) for features in found]
        return [Extraction(features, min(side, max_side or side)) for features, side in zip(found, sides, strict=True)]

    return extract


def model_settings(model: RIPE, threshold: float | None = None) -> dict[str, Any]:
    """What a model's features depend on: its name, weights, precision and detector.

    Args:
        model: any.
        threshold: least score of a keypoint; the model's own if None.
    """
    from ripe.pretrained import weights_hash

    detection = asdict(model.detection)
    own = detection.pop("threshold")
    return {
        "model": model.name,
        "weights": weights_hash(model),
        "precision": str(model.compute_dtype).removeprefix("torch."),
        "threshold": own if threshold is None else threshold,
        "detection": ", ".join(f"{key} {value}" for key, value in detection.items()),
    }


def extract_many(
    photos: Mapping[str, Path],
    extract: Extract,
    store: FeatureFile,
    *,
    masks: Mapping[str, Path] | None = None,
    batch_pixels: int = 0,
    read_ahead: int = READ_AHEAD,
    max_megapixels: float = MAX_MEGAPIXELS,
    progress: Callable[[int], object] = lambda count: None,
) -> dict[str, str]:
    """Extract and store those photos that the store does not hold yet.

    Photos whose file, or whose mask's file, has another size or time than when they were extracted are done anew, and a
    warning says how many.

    Args:
        photos: paths by the names under which the features are stored.
        extract: the extractor.
        store: where the features go; what was extracted before an interruption is kept.
        masks: paths of the photos' masks (see `ripe.inference.as_mask`), by the photos' names; none of the others.
        batch_pixels: the extractor is given as many photos at a time as have so many pixels in all, at least one.
        read_ahead: how many photos are read at a time; with 1, none is while the extractor works.
        max_megapixels: photos of more million pixels are refused.
        progress: called with the number of photos that are newly done, or found to be done or unreadable.

    Returns:
        Why photos could not be extracted, by name. No older features of them are kept in the store.

    Raises:
        OSError: the store cannot be written.
    """
    failures: dict[str, str] = {}
    masks = masks or {}
    stamps = _pending(photos, masks, store, failures)
    changed = stamps.keys() & store.done.keys()
    if changed:
        logger.warning("%s: %d photos are extracted anew, as their files have changed", store.path, len(changed))
    progress(len(photos) - len(stamps))
    read = partial(_read, max_megapixels=max_megapixels)
    wanted = {name: (photos[name], masks.get(name)) for name in stamps}
    readable = _read_ahead(wanted, read, failures, read_ahead, progress)
    for batch in _batches(readable, batch_pixels):
        found = _extract_each(extract, batch, failures)
        if found:
            store.add(
                {name: extraction.features for name, extraction in found.items()},
                {name: extraction.uncertainty for name, extraction in found.items()},
                {name: {**extraction.notes, **stamps[name]} for name, extraction in found.items()},
            )
        progress(len(batch))
    for name in changed & failures.keys():
        store.forget(name)
    return {name: reason.removeprefix(f"{photos[name]}: ") for name, reason in failures.items()}


def _pending(
    photos: Mapping[str, Path], masks: Mapping[str, Path], store: FeatureFile, failures: dict[str, str]
) -> dict[str, dict[str, int]]:
    """The photos to be done, with what tells their files from later ones; those that cannot be go to `failures`."""
    found = {}
    for name, path in photos.items():
        try:
            name.encode()  # HDF5 and COLMAP name things in UTF-8
            stamp = _stamp("photo", path)
            mask_stamp = _stamp("mask", masks[name]) if name in masks else {}
        except UnicodeEncodeError:
            failures[name] = "its name is not UTF-8"
        except OSError as error:
            failures[name] = str(error)
        else:
            stored = store.done.get(name, {})
            had = {key: value for key, value in stored.items() if key.startswith("mask_")}
            if had != mask_stamp or not store.holds(name, stamp):
                found[name] = stamp | mask_stamp
    return found


def _stamp(kind: str, path: Path) -> dict[str, int]:
    status = path.stat()
    return {f"{kind}_bytes": status.st_size, f"{kind}_mtime_ns": status.st_mtime_ns}


def _read(files: tuple[Path, Path | None], *, max_megapixels: float) -> Read:
    """A photo and its mask."""
    path, mask_path = files
    photo = read_image(path, max_megapixels=max_megapixels)
    if mask_path is None:
        return photo, None
    return photo, as_mask(mask_path, path, (photo.shape[0], photo.shape[1]), max_megapixels=max_megapixels)


def _read_ahead(
    photos: Mapping[str, tuple[Path, Path | None]],
    read: Callable[[tuple[Path, Path | None]], Read],
    failures: dict[str, str],
    count: int,
    progress: Callable[[int], object],
) -> Iterator[tuple[str, Read]]:
    """The photos in order, with their masks, up to `count` read at a time; unreadable ones go to `failures`."""
    waiting: deque[tuple[str, Future[Read]]] = deque()
    remaining = iter(photos.items())
    pool = ThreadPoolExecutor(READERS)
    try:
        while True:
            while len(waiting) < count and (following := next(remaining, None)) is not None:
                waiting.append((following[0], pool.submit(read, following[1])))
            if not waiting:
                return
            name, reading = waiting.popleft()
            try:
                photo = reading.result()
            except (OSError, ValueError) as error:
                failures[name] = str(error)
                progress(1)
            else:
                yield name, photo
    finally:
        pool.shutdown(cancel_futures=True)


def _batches(photos: Iterable[tuple[str, Read]], limit: int) -> Iterator[dict[str, Read]]:
    """Photos gathered until they have `limit` pixels in all; one that has more by itself is a batch."""
    batch: dict[str, Read] = {}
    pixels = 0
    for name, photo in photos:
        size = photo[0].shape[0] * photo[0].shape[1]
        if batch and pixels + size > limit:
            yield batch
            batch, pixels = {}, 0
        batch[name] = photo
        pixels += size
    if batch:
        yield batch


def _extract_each(extract: Extract, batch: dict[str, Read], failures: dict[str, str]) -> dict[str, Extraction]:
    """The extractions by name; a photo that is refused, such as one too thin once resized, does not cost the others."""
    try:
        photos, masks = zip(*batch.values(), strict=True)
        return dict(zip(batch, extract(photos, masks), strict=True))
    except ValueError as error:
        if len(batch) == 1:
            failures.update(dict.fromkeys(batch, str(error)))
            return {}
    singles = (_extract_each(extract, {name: photo}, failures) for name, photo in batch.items())
    return {name: extraction for found in singles for name, extraction in found.items()}
