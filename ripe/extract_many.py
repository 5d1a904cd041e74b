"""From many photos to a feature file: the one loop of command line, reconstruction and evaluation.

Photos that cannot be read or described are reported and the others are done; what the file system says on writing ends
the loop. How they are read, in bounded memory, is `ripe.inference`'s.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ripe.photos import MAX_MEGAPIXELS, PhotoFile
from ripe.resizing import ONE_SCALE

if TYPE_CHECKING:
    from ripe import runtime
    from ripe.features import Features
    from ripe.inference import Failed
    from ripe.model import RIPE
    from ripe.storage import FeatureFile

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Extraction:
    """What was extracted from a photo.

    Attributes:
        features: keypoints in pixels of the photo as it was read.
        seen_side: longer side in pixels of the image that the extractor saw.
        notes: attributes that are stored with the features.
    """

    features: Features | runtime.Features
    seen_side: int
    notes: Mapping[str, Any] = field(default_factory=dict)

    @property
    def uncertainty(self) -> float:
        """The keypoints' standard deviation, in pixels of the photo: one pixel of the image that the extractor saw."""
        return max(self.features.image_size) / self.seen_side


Masks = Sequence[PhotoFile | None]
Extract = Callable[[Sequence[PhotoFile], Masks, "Failed"], Iterable[tuple[int, Extraction]]]
"""Extracts photos one after the other, each with its mask (see `ripe.inference.as_mask`) or None: index and extraction
of each, or its index and what is wrong to the third argument. No keypoint lies where a mask is zero."""


def model_extract(
    model: RIPE | runtime.Extractor,
    *,
    max_keypoints: int,
    threshold: float | None,
    max_side: int | None,
    scales: Sequence[float] = ONE_SCALE,
    max_megapixels: float = MAX_MEGAPIXELS,
    max_memory: int | None = None,
) -> Extract:
    """`extract_stream` of a model for `extract_many`; longer sides than `max_side` px are shrunk, none is enlarged."""
    only_torch: dict[str, Any] = {} if tuple(scales) == ONE_SCALE else {"scales": scales}
    if max_memory is not None:
        only_torch["max_memory"] = max_memory

    def extract(paths: Sequence[PhotoFile], masks: Masks, failed: Failed) -> Iterable[tuple[int, Extraction]]:
        stream = model.extract_stream(
            paths,
            **only_torch,
            max_keypoints=max_keypoints,
            threshold=threshold,
            resize=max_side,
            enlarge=False,
            masks=masks,
            max_megapixels=max_megapixels,
            failed=failed,
        )
        for index, found in stream:
            side = max(found.image_size)
            yield index, Extraction(found, side if max_side is None else min(side, max_side))

    return extract


def extract_many(
    photos: Mapping[str, Path],
    extract: Extract,
    store: FeatureFile,
    *,
    masks: Mapping[str, Path] | None = None,
    progress: Callable[[int], object] = lambda count: None,
) -> dict[str, str]:
    """Extract and store those photos that the store does not hold yet.

    Photos whose file, or whose mask's file, has another size or time than when they were extracted are done anew, and a
    warning says how many.

    Args:
        photos: paths by the names under which the features are stored.
        extract: the extractor.
        store: where the features go; what was extracted before an interruption is kept.
        masks: paths of the photos' masks, by the photos' names; none of the others.
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
    names = list(stamps)

    def failed(index: int, error: Exception) -> None:
        failures[names[index]] = str(error)
        progress(1)

    paths, their_masks = [photos[name] for name in names], [masks.get(name) for name in names]
    for index, found in extract(paths, their_masks, failed):
        name = names[index]
        store.add({name: found.features}, {name: found.uncertainty}, {name: {**found.notes, **stamps[name]}})
        progress(1)
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
