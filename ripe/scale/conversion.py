"""Tables from and to the files of a single machine: hloc's HDF5, and COLMAP's database."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import islice
from pathlib import Path

from ripe.features import Features
from ripe.integrations.colmap import write_database
from ripe.match_many import PAIRS_PER_PART
from ripe.scale.extraction import PHOTOS_PER_SHARD
from ripe.scale.feature_tables import Extracted, FeatureTable, encode, feature_shards
from ripe.scale.match_tables import MatchTable
from ripe.storage import FeatureFile, FeatureReader, MatchFile, check_distinct

Progress = Callable[[int], object]
"""Called with how many photos or pairs are newly done."""


def features_to_table(source: Path, address: str, *, overwrite: bool = False, progress: Progress) -> int:
    """Write a table of features anew from a feature file, hloc's or ours; how many photos it has is returned.

    Raises:
        ValueError: the table has rows already, unless they are to be overwritten; or `source` is no feature file.
    """
    shards = feature_shards(address)
    shards.begin(overwrite)
    if shards.names():
        raise ValueError(f"{address}: is there already; choose another address, or start anew (--overwrite)")
    with FeatureReader(source) as reader:
        names = iter(reader.names())
        count = 0
        while block := list(islice(names, PHOTOS_PER_SHARD)):
            rows = [Extracted(name, "", reader.read(name), reader.uncertainty(name)) for name in block]
            shards.write(encode(rows, reader.settings))
            count += len(block)
            progress(len(block))
    return count


def features_to_hdf5(table: FeatureTable, path: Path, *, progress: Progress) -> int:
    """Write a feature file anew from a table; how many photos it has is returned.

    Raises:
        ValueError: `path` is a file of another kind.
        OSError: it cannot be written.
    """
    names = table.names()
    with FeatureFile(path, table.settings, overwrite=True) as store:
        for start in range(0, len(names), PHOTOS_PER_SHARD):
            block = names[start : start + PHOTOS_PER_SHARD]
            store.add(dict(table.items(block)), {name: table.rows[name].uncertainty or 1.0 for name in block})
            progress(len(block))
    return len(names)


def matches_to_hdf5(matches: MatchTable, features: FeatureTable, path: Path, *, progress: Progress) -> int:
    """Write a match file anew from a table; how many pairs it has is returned.

    Args:
        matches: the table.
        features: that were matched.
        path: of the file.
        progress: called with how many pairs are newly done.

    Raises:
        ValueError: hloc's layout cannot tell two pairs apart, `path` is a file of another kind, or the features are
            others than were matched.
        OSError: it cannot be written.
    """
    check_distinct(matches.rows)
    check_matched(matches, features)
    counts = {name: len(found) for name, found in features.items({name for pair in matches.rows for name in pair})}
    count = 0
    with MatchFile(path, matches.settings, overwrite=True) as store:
        rows = matches.matches()
        while block := {pair: (found, noted) for pair, found, noted in islice(rows, PAIRS_PER_PART)}:
            store.add(
                {pair: (found, counts[pair[0]], counts[pair[1]]) for pair, (found, _) in block.items()},
                {name: features.identity(name) for pair in block for name in pair},
                {pair: noted for pair, (_, noted) in block.items()},
            )
            count += len(block)
            progress(len(block))
    return count


def matches_to_colmap(matches: MatchTable, features: FeatureTable, photos: Path, database: Path) -> list[str]:
    """Write a COLMAP database anew from tables; the photos that COLMAP cannot read are returned.

    Args:
        matches: the table.
        features: that were matched.
        photos: folder of the photos, whose EXIF gives their cameras.
        database: the file.

    Raises:
        ValueError: pycolmap is missing, or the features are others than were matched.
    """
    check_matched(matches, features)
    keypoints = {name: _without_descriptors(found) for name, found in features.items()}
    return write_database(database, photos, keypoints, matches.items())


def check_matched(matches: MatchTable, features: FeatureTable) -> None:
    """Raise a `ValueError` if a table's matches were made of other features than these."""
    there = features.rows
    for pair, row in matches.rows.items():
        for name, identity in zip(pair, row.features, strict=True):
            if name not in there or there[name].identity != identity:
                raise ValueError(
                    f"{features.path}: holds no such features of {name} as were matched; match again, or name those"
                )


def _without_descriptors(features: Features) -> Features:
    return replace(features, descriptors=features.descriptors[:, :0].clone())
