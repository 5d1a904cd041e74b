"""First step of an evaluation: features and matches of a set of pairs, made once and kept in HDF5 files.

Both files are in hloc's layout, keypoints in pixels of the stored photos. They go on after any interruption, and refuse
to be continued with other settings (see `ripe.storage`).
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch
from torch import Tensor

from ripe.evaluation.pair_sets import AnnotatedPair, MatchedPair, PairSet, PosePair, Size
from ripe.evaluation.protocol import Protocol
from ripe.extract_many import Extract, Extraction, extract_many
from ripe.extractors import Describer, one_by_one, resized, to_original
from ripe.images import MAX_MEGAPIXELS
from ripe.match_many import match_many
from ripe.matching import Match, match, matching_settings
from ripe.storage import (
    FeatureFile,
    FeatureReader,
    MatchFile,
    check_distinct,
    group_of,
    open_hdf5,
    read_image_size,
    read_matches,
    read_numbers,
)

Progress = Callable[..., object]
"""Called with how many more photos or pairs are done; 1 if it is not said."""


class _Features(FeatureFile):
    command = "ripe eval"


class _Matches(MatchFile):
    command = "ripe eval"


@dataclass(frozen=True)
class Candidate:
    """An extractor that is evaluated.

    Attributes:
        name: as it stands in tables.
        key: names its folder; different for different weights.
        settings: what its features depend on besides the image.
        describe: the extractor itself.
        hardware: what it runs on, in words.
        match: what matches its features where they are not kept in files.
    """

    name: str
    key: str
    settings: Mapping[str, Any]
    describe: Describer
    hardware: str
    match: Match = match


@dataclass(frozen=True)
class StoredImage:
    """What was stored of a photo, its descriptors aside.

    Attributes:
        keypoints: N×2 float32 in pixels of the stored photo, best first.
        size: (width, height) of the stored photo.
        milliseconds: that its extraction took, from the resized image in memory to its features in memory.
        hardware: that it ran on.
    """

    keypoints: Tensor
    size: Size
    milliseconds: float
    hardware: str


@dataclass(frozen=True)
class Predictions:
    """Features and matches of a set, read back.

    Attributes:
        images: by name, those that could be read.
        matches: K×2 int64 by the two images' names.
    """

    images: Mapping[str, StoredImage]
    matches: Mapping[tuple[str, str], Tensor]


def extract_images(
    candidate: Candidate,
    pairs: PairSet,
    protocol: Protocol,
    folder: Path,
    progress: Progress = lambda count=1: None,
    max_megapixels: float = MAX_MEGAPIXELS,
) -> dict[str, str]:
    """Extract every photo that is not in `folder`/features.h5 yet.

    Args:
        candidate: the extractor.
        pairs: whose photos.
        protocol: says how they are resized.
        folder: exists; features.h5 is made or continued there.
        progress: told how many more photos are done.
        max_megapixels: photos of more million pixels are refused.

    Returns:
        Why photos could not be read, by name; the others are in the file.

    Raises:
        ValueError: the file was begun with other settings, no photo at all could be read, or names cannot be told apart
            in hloc's match files.
        OSError: the file cannot be written.
    """
    check_distinct(_names(pairs))
    settings = _settings(candidate, pairs, protocol)
    photos = {name: pairs.path(name) for name in pairs.images}
    with _Features(folder / "features.h5", settings) as store:
        unreadable = extract_many(photos, timed(candidate, protocol, max_megapixels), store, progress=progress)
    check_any_readable(pairs, unreadable)
    return unreadable


def timed(candidate: Candidate, protocol: Protocol, max_megapixels: float = MAX_MEGAPIXELS) -> Extract:
    """A candidate for `extract_many`; it notes its milliseconds, in which nothing else is read, and the hardware."""

    def extract(original: Tensor, mask: Tensor | None) -> Extraction:  # sets have no masks
        image = resized(original, protocol.resizing)
        start = time.perf_counter()
        found = candidate.describe(image).to("cpu")
        notes = {"milliseconds": 1000 * (time.perf_counter() - start), "hardware": candidate.hardware}
        return Extraction(to_original(found, original), max(image.shape[1:]), notes)

    return one_by_one(extract, max_megapixels=max_megapixels, ahead=0)


def check_any_readable(pairs: PairSet, unreadable: Mapping[str, str]) -> None:
    """Raise a `ValueError` with the first reason if all photos are unreadable; `unreadable` has them by name."""
    if len(unreadable) == len(pairs.images):
        first, reason = next(iter(unreadable.items()))
        raise ValueError(f"none of {len(unreadable)} photos could be read; the first, {pairs.path(first)}: {reason}")


def match_images(
    candidate: Candidate, pairs: PairSet, protocol: Protocol, folder: Path, progress: Progress = lambda count=1: None
) -> None:
    """Match every pair that is not in `folder`/matches.h5 yet, with the features beside it.

    Pairs of which a photo could not be read are passed over. Arguments as for `extract_images`.

    Raises:
        ValueError: the file was begun with other settings.
    """
    settings = {**_settings(candidate, pairs, protocol), **matching_settings(protocol.match_filter)}
    with FeatureReader(folder / "features.h5") as features, _Matches(folder / "matches.h5", settings) as store:
        match_many(features, _names(pairs), store, how=protocol.match_filter, progress=progress)


def read_predictions(pairs: PairSet, folder: Path) -> Predictions:
    """What `extract_images` and `match_images` have stored for these pairs."""
    with open_hdf5(folder / "features.h5") as file:
        groups = {name: group_of(file, name) for name in pairs.images}
        images = {name: _read_image(group) for name, group in groups.items() if group is not None}
    names = [pair for pair in _names(pairs) if images.keys() >= set(pair)]
    matches = {pair: torch.from_numpy(found) for pair, found in read_matches(folder / "matches.h5", names)}
    return Predictions(images, matches)


def matched_pairs(
    pairs: Sequence[AnnotatedPair], predictions: Predictions, protocol: Protocol
) -> Iterator[MatchedPair]:
    """The pairs whose photos could both be read, in the pixels in which the protocol measures.

    Raises:
        ValueError: a photo has another size than the annotation of its camera says, or matches do not belong to the
            features.
    """
    for pair in pairs:
        matches = predictions.matches.get((pair.image0, pair.image1))
        if matches is None:
            continue
        stored = predictions.images[pair.image0], predictions.images[pair.image1]
        _check_sizes(pair, stored)
        counts = [len(image.keypoints) for image in stored]
        if len(matches) and not (matches.amax(0) < torch.tensor(counts)).all():
            raise ValueError(f"matches.h5 does not belong to features.h5 (pair {pair.name}); start over")
        sizes = stored[0].size, stored[1].size
        matched = MatchedPair(pair, stored[0].keypoints, stored[1].keypoints, matches, sizes)
        if protocol.in_resized_pixels:
            matched = matched.resized((protocol.resizing.apply(sizes[0]), protocol.resizing.apply(sizes[1])))
        yield matched


def _names(pairs: PairSet) -> list[tuple[str, str]]:
    return [(pair.image0, pair.image1) for pair in pairs.pairs]


def _settings(candidate: Candidate, pairs: PairSet, protocol: Protocol) -> dict[str, Any]:
    shared = {"photos": pairs.fingerprint(), "resizing": str(protocol.resizing)}
    return {**candidate.settings, "max_keypoints": protocol.max_keypoints, **shared}


def _read_image(group: h5py.Group) -> StoredImage:
    keypoints = torch.from_numpy(np.asarray(read_numbers(group, "keypoints"), dtype=np.float32))
    milliseconds, hardware = float(group.attrs["milliseconds"]), str(group.attrs["hardware"])
    return StoredImage(keypoints, read_image_size(group), milliseconds, hardware)


def _check_sizes(pair: AnnotatedPair, stored: tuple[StoredImage, StoredImage]) -> None:
    if isinstance(pair, PosePair):
        for name, image, size in zip((pair.image0, pair.image1), stored, (pair.size0, pair.size1), strict=True):
            if size is not None and size != image.size:
                have, want = ("×".join(map(str, sides)) for sides in (image.size, size))
                raise ValueError(f"{name}: {have} pixels, but its annotation is for {want}")
