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

if TYPE_CHECKING:
    import numpy as np

    from ripe.features import Features
    from ripe.model import RIPE
    from ripe.storage import FeatureFile

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


Extract = Callable[[Sequence["np.ndarray"]], Sequence[Extraction]]
"""Extracts photos (H×W×3, see `ripe.images.read_image`), in order; `ValueError` if one of them cannot be."""


def model_extract(model: RIPE, *, max_keypoints: int, threshold: float | None, resize: int | None) -> Extract:
    """`RIPE.extract` with these arguments, for `extract_many`."""

    def extract(photos: Sequence[np.ndarray]) -> list[Extraction]:
        found = model.extract(photos, max_keypoints=max_keypoints, threshold=threshold, resize=resize)
        return [Extraction(features, resize or max(features.image_size)) for features in found]

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
    batch_pixels: int = 0,
    read_ahead: int = READ_AHEAD,
    max_megapixels: float = MAX_MEGAPIXELS,
    progress: Callable[[int], object] = lambda count: None,
) -> dict[str, str]:
    """Extract and store those photos that the store does not hold yet.

    Photos whose file has another size or time than when they were extracted are done anew, and a warning says how many.

    Args:
        photos: paths by the names under which the features are stored.
        extract: the extractor.
        store: where the features go; what was extracted before an interruption is kept.
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
    stamps = _pending(photos, store, failures)
    changed = stamps.keys() & store.done.keys()
    if changed:
        logger.warning("%s: %d photos are extracted anew, as their files have changed", store.path, len(changed))
    progress(len(photos) - len(stamps))
    read = partial(read_image, max_megapixels=max_megapixels)
    readable = _read_ahead({name: photos[name] for name in stamps}, read, failures, read_ahead, progress)
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


def _pending(photos: Mapping[str, Path], store: FeatureFile, failures: dict[str, str]) -> dict[str, dict[str, int]]:
    """The photos to be done, with what tells their files from later ones; those that cannot be go to `failures`."""
    found = {}
    for name, path in photos.items():
        try:
            name.encode()  # HDF5 and COLMAP name things in UTF-8
            status = path.stat()
        except UnicodeEncodeError:
            failures[name] = "its name is not UTF-8"
        except OSError as error:
            failures[name] = str(error)
        else:
            stamp = {"photo_bytes": status.st_size, "photo_mtime_ns": status.st_mtime_ns}
            if not store.holds(name, stamp):
                found[name] = stamp
    return found


def _read_ahead(
    photos: Mapping[str, Path],
    read: Callable[[Path], np.ndarray],
    failures: dict[str, str],
    count: int,
    progress: Callable[[int], object],
) -> Iterator[tuple[str, np.ndarray]]:
    """The photos in order, up to `count` of them read at a time; those that cannot be read go to `failures`."""
    waiting: deque[tuple[str, Future[np.ndarray]]] = deque()
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


def _batches(photos: Iterable[tuple[str, np.ndarray]], limit: int) -> Iterator[dict[str, np.ndarray]]:
    """Photos gathered until they have `limit` pixels in all; one that has more by itself is a batch."""
    batch: dict[str, np.ndarray] = {}
    pixels = 0
    for name, photo in photos:
        size = photo.shape[0] * photo.shape[1]
        if batch and pixels + size > limit:
            yield batch
            batch, pixels = {}, 0
        batch[name] = photo
        pixels += size
    if batch:
        yield batch


def _extract_each(extract: Extract, batch: dict[str, np.ndarray], failures: dict[str, str]) -> dict[str, Extraction]:
    """The extractions by name; a photo that is refused, such as one too thin once resized, does not cost the others."""
    try:
        return dict(zip(batch, extract(list(batch.values())), strict=True))
    except ValueError as error:
        if len(batch) == 1:
            failures.update(dict.fromkeys(batch, str(error)))
            return {}
    singles = (_extract_each(extract, {name: photo}, failures) for name, photo in batch.items())
    return {name: extraction for found in singles for name, extraction in found.items()}
