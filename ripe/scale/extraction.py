"""From photos at an address to a table of features: what is missing, in blocks that any engine may run."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from ripe.extract_many import Extract
from ripe.folders import mask_names
from ripe.photos import PhotoBytes, PhotoFile
from ripe.scale.engines import in_process
from ripe.scale.feature_tables import Extracted, Row, encode, feature_shards, read_index
from ripe.storage import as_stored, check_settings

if TYPE_CHECKING:
    from ripe.scale.engines import Engine
    from ripe.scale.places import Place, Version
    from ripe.scale.shards import Shards

PHOTOS_PER_SHARD = 64
BYTES_PER_BLOCK = 2**28  # of files, of which a fetched block keeps the content

MakeExtract = Callable[[], Extract]
"""Makes the extractor in the process that is to use it."""

logger = logging.getLogger(__name__)


class Photo(NamedTuple):
    """A photo to be extracted.

    Attributes:
        name: relative to the place of the photos.
        size: of its file in bytes; 0 if it is not known.
        version: of its file, and of its mask's.
        mask: name of the mask; None if it has none.
    """

    name: str
    size: int
    version: str
    mask: str | None


class Fetched(NamedTuple):
    """A photo and its mask, or why they cannot be had."""

    photo: Photo
    content: bytes | Exception
    mask: bytes | Exception | None


class Done(NamedTuple):
    """How many photos of a block are now in the table, and why those with an error have no features."""

    photos: int
    failures: dict[str, str]


def extract_table(
    photos: Place,
    versions: Mapping[str, Version],
    make_extract: MakeExtract,
    address: str,
    settings: Mapping[str, Any],
    *,
    masks: Place | None = None,
    engine: Engine = in_process,
    shard_size: int = PHOTOS_PER_SHARD,
    overwrite: bool = False,
    progress: Callable[[int], object] = lambda count: None,
) -> dict[str, str]:
    """Extract those photos whose features the table does not hold yet; it is whole at any moment.

    Photos whose file, or whose mask's file, has another size or version than when they were extracted are done anew,
    and so are those that had an error.

    Args:
        photos: where they are.
        versions: of their files, by name (see `Place.photos`).
        make_extract: the extractor; it is sent to other processes.
        address: of the table.
        settings: what the features depend on.
        masks: where the photos' masks are, named as for `ripe.folders.mask_in`.
        engine: what runs the blocks.
        shard_size: most photos of a block, which becomes a shard.
        overwrite: start anew; the table's shards are removed.
        progress: called with the number of photos that are newly done, or found to be done.

    Returns:
        Why photos have no features, by name.

    Raises:
        ValueError: there is no photo's mask in `masks`, or the table has other settings.
        OSError: the table cannot be written.
    """
    shards = feature_shards(address)
    shards.begin(overwrite)
    rows, stored = read_index(shards)
    if rows:
        check_settings(address, stored, as_stored(settings))
    failures: dict[str, str] = {}
    found = list(_named_in_utf8(_with_masks(versions, masks), failures))
    pending = {photo.name for photo in found if not _is_done(photo, rows.get(photo.name))}
    _forget(shards, [rows[name] for name in pending & rows.keys()])
    progress(len(versions) - len(pending))
    blocks = [[photo for photo in block if photo.name in pending] for block in _blocks(found, shard_size)]
    reports = engine(list(filter(None, blocks)), Fetch(photos, masks), WorkerOf(make_extract, shards, dict(settings)))
    for report in reports:
        failures |= report.failures
        progress(report.photos)
    return failures


@dataclass(frozen=True)
class Fetch:
    """Gives the content of a block's files."""

    photos: Place
    masks: Place | None

    def __call__(self, block: list[Photo]) -> list[Fetched]:
        contents = self.photos.read([photo.name for photo in block])
        wanted = [photo.mask for photo in block if photo.mask is not None]
        masks = {} if self.masks is None else self.masks.read(wanted)
        return [
            Fetched(photo, contents[photo.name], None if photo.mask is None else masks[photo.mask]) for photo in block
        ]


@dataclass(frozen=True)
class WorkerOf:
    """Makes what extracts blocks and stores each as a shard."""

    make_extract: MakeExtract
    shards: Shards
    settings: dict[str, Any]

    def __call__(self) -> Callable[[list[Fetched]], Done]:
        extract = self.make_extract()

        def work(block: list[Fetched]) -> Done:
            extracted = _extracted(block, extract)
            self.shards.write(encode(extracted, self.settings))
            failures = {each.name: each.found for each in extracted if isinstance(each.found, str)}
            return Done(len(extracted), failures)

        return work


def _extracted(block: list[Fetched], extract: Extract) -> list[Extracted]:
    """A block's photos, in order, extracted as a single machine's command does it."""
    found: dict[str, Extracted] = {}

    def failed(photo: Photo, error: Exception) -> None:
        reason = str(error).removeprefix(f"{photo.name}: ") or type(error).__name__
        found[photo.name] = Extracted(photo.name, photo.version, reason)

    usable: list[Photo] = []
    files: list[PhotoFile] = []
    masks: list[PhotoFile | None] = []
    for photo, content, mask in block:
        if isinstance(content, Exception) or isinstance(mask, Exception):
            failed(photo, content if isinstance(content, Exception) else mask)  # type: ignore[arg-type]
        else:
            usable.append(photo)
            files.append(PhotoBytes(photo.name, content))
            masks.append(None if mask is None else PhotoBytes(str(photo.mask), mask))
    for index, each in extract(files, masks, lambda index, error: failed(usable[index], error)):
        photo = usable[index]
        found[photo.name] = Extracted(photo.name, photo.version, each.features, each.uncertainty)
    return [found[fetched.photo.name] for fetched in block]


def _with_masks(versions: Mapping[str, Version], masks: Place | None) -> Iterator[Photo]:
    """All photos, each with its mask if there is one; `ValueError` if there is none of any."""
    there = {} if masks is None else masks.files()
    any_mask = False
    for name, version in versions.items():
        mask = next((each for each in mask_names(name) if each in there), None)
        any_mask = any_mask or mask is not None
        yield Photo(name, version.size, str(version) if mask is None else f"{version}, mask {there[mask]}", mask)
    if masks is not None and not any_mask:
        raise ValueError(f"{masks.address}: holds no photo's mask; that of a.jpg would be a.jpg.png or a.png")


def _named_in_utf8(photos: Iterable[Photo], failures: dict[str, str]) -> Iterator[Photo]:
    """Those photos whose names Parquet can hold; the others go to `failures`."""
    for photo in photos:
        try:
            photo.name.encode()
        except UnicodeEncodeError:
            failures[photo.name] = "its name is not UTF-8"
        else:
            yield photo


def _forget(shards: Shards, rows: Sequence[Row]) -> None:
    """Take rows away that are to be made anew, and say how many of them held features."""
    if changed := sum(row.error is None for row in rows):
        logger.warning("%s: %d photos are extracted anew, as their files have changed", shards.place.address, changed)
    shards.forget(rows)


def _is_done(photo: Photo, row: Row | None) -> bool:
    return row is not None and row.error is None and row.version == photo.version


def _blocks(photos: list[Photo], most: int) -> Iterator[list[Photo]]:
    """All photos in runs of so many at most, which are the same whichever of them are done already.

    A worker of a run that was killed, which puts its shard in place late, so writes one that the next run has, too.
    """
    block: list[Photo] = []
    size = 0
    for photo in photos:
        if block and (len(block) == most or size + photo.size > BYTES_PER_BLOCK):
            yield block
            block, size = [], 0
        block.append(photo)
        size += photo.size
    if block:
        yield block
