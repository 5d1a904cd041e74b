"""Features of many photos as a table at any address: one row a photo, read like a feature file.

Arrays are their bytes, row by row and little-endian, so that a row can be read without a copy: `keypoints` N×2 float32,
`scores` and `scales` N float32, `descriptors` N×D of the type that the row names. A photo that could not be extracted
is a row with its `error` and nulls in place of its features.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from itertools import groupby
from types import TracebackType
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import numpy as np
import pyarrow as pa

from ripe.scale.places import Place
from ripe.scale.shards import ROWS_PER_GROUP, Shards, settings_text

if TYPE_CHECKING:
    from ripe import runtime
    from ripe.features import Features

SCHEMA = pa.schema(
    {
        "name": pa.string(),
        "version": pa.string(),  # of the photo's file: its size, and what its file system tells it from others by
        "width": pa.int32(),
        "height": pa.int32(),
        "count": pa.int32(),  # keypoints, N
        "length": pa.int32(),  # numbers of a descriptor, D
        "keypoints": pa.binary(),
        "scores": pa.binary(),
        "scales": pa.binary(),
        "descriptors": pa.binary(),
        "descriptor_type": pa.string(),  # NumPy's name: float32 or float16
        "uncertainty": pa.float32(),  # the keypoints' standard deviation in pixels
        "identity": pa.string(),  # a hash of the keypoints, which matches are stored with
        "model": pa.string(),
        "weights": pa.string(),  # their SHA-256
        "settings": pa.string(),  # all that the features depend on, as JSON
        "error": pa.string(),
    }
)
CACHED_GROUPS = 4


class Row(NamedTuple):
    """Where a photo's row is, and what it says without the features."""

    shard: str
    number: int
    version: str
    identity: str | None
    uncertainty: float | None
    error: str | None


class Extracted(NamedTuple):
    """A photo on its way into a table: its features and their uncertainty in pixels, or why there are none."""

    name: str
    version: str
    found: Features | runtime.Features | str
    uncertainty: float = 1.0


class FeatureTable:
    """The features that a table holds; used like `ripe.storage.FeatureReader`, also in a `with` statement.

    What each row says beside the features is read at once, the features when they are asked for.

    Args:
        address: of the folder.

    Attributes:
        path: the address.
        shards: of the table.
        rows: by photo's name, sorted, those with an error among them.
        settings: what the features depend on; empty if there is none yet.

    Raises:
        FileNotFoundError, ValueError: there is no such table, or its parts have different settings.
    """

    def __init__(self, address: str) -> None:
        self.path = address
        self.shards = feature_shards(address)
        self.rows, self.settings = read_index(self.shards)
        if not self.rows:
            raise FileNotFoundError(f"{address}: no such table of features; ripe convert makes one of an HDF5 file")
        self._group = lru_cache(CACHED_GROUPS)(lambda shard, number: next(self.shards.groups(shard, [number])))

    def names(self) -> list[str]:
        """Names of all photos that have features, sorted."""
        return [name for name, row in self.rows.items() if row.error is None]

    def errors(self) -> dict[str, str]:
        """Why photos have no features, by name."""
        return {name: row.error for name, row in self.rows.items() if row.error is not None}

    def read(self, name: str) -> Features:
        """The features of a photo, on the CPU; quickest where names are asked for in order.

        Raises:
            KeyError: the table has no features of it.
        """
        row = self._row(name)
        group, place = divmod(row.number, ROWS_PER_GROUP)
        return decode(self._group(row.shard, group).slice(place, 1).to_pylist()[0])

    def items(self, names: Iterable[str] | None = None) -> Iterator[tuple[str, Features]]:
        """Name and features of some photos, or of all, one after the other."""
        for name in self.names() if names is None else names:
            yield name, self.read(name)

    def identity(self, name: str) -> str:
        """A hash of a photo's keypoints, as `FeatureReader.identity`; `KeyError` without such a photo."""
        identity = self._row(name).identity
        assert identity is not None
        return identity

    def _row(self, name: str) -> Row:
        row = self.rows[name]
        if row.error is not None:
            raise KeyError(name)
        return row

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._group.cache_clear()


def feature_shards(address: str) -> Shards:
    """The shards of a table of features."""
    return Shards(Place(address), SCHEMA, ("name",))


def read_index(shards: Shards) -> tuple[dict[str, Row], dict[str, Any]]:
    """Where each photo's row is, sorted by name, and what the features depend on.

    Raises:
        ValueError: parts of the table have different settings.
    """
    found, settings = shards.index(["name", "version", "identity", "uncertainty", "error"])
    rows = {name: Row(shard, number, *rest) for shard, number, name, *rest in found}
    return dict(sorted(rows.items())), settings


def read_rows(shards: Shards, rows: Mapping[str, Row]) -> dict[str, Features]:
    """The features of some photos, by name; each group of rows is read once."""
    found = {}
    wanted = sorted((row.shard, *divmod(row.number, ROWS_PER_GROUP), name) for name, row in rows.items())
    for shard, within in groupby(wanted, key=lambda row: row[0]):
        places: dict[int, list[tuple[int, str]]] = {}
        for _, group, place, name in within:
            places.setdefault(group, []).append((place, name))
        for group, table in zip(places, shards.groups(shard, places), strict=True):
            for place, name in places[group]:
                found[name] = decode(table.slice(place, 1).to_pylist()[0])
    return found


def encode(extracted: Sequence[Extracted], settings: Mapping[str, Any]) -> pa.Table:
    """Rows of photos, in order, each with what its features depend on."""
    shared = {name: settings.get(name) for name in ("model", "weights")} | {"settings": settings_text(settings)}
    return pa.Table.from_pylist([{**_cells(each), **shared} for each in extracted], SCHEMA)


def _cells(extracted: Extracted) -> dict[str, Any]:
    row: dict[str, Any] = {"name": extracted.name, "version": extracted.version}
    if isinstance(extracted.found, str):
        return row | {"error": extracted.found}
    arrays = extracted.found.numpy()
    descriptors = arrays["descriptors"]
    if descriptors.dtype != np.float16:
        descriptors = descriptors.astype(np.float32)
    keypoints, scores, scales = (arrays[key].astype("<f4").tobytes() for key in ("keypoints", "scores", "scales"))
    return row | {
        "width": int(arrays["image_size"][0]),
        "height": int(arrays["image_size"][1]),
        "count": len(descriptors),
        "length": descriptors.shape[1],
        "keypoints": keypoints,
        "scores": scores,
        "scales": scales,
        "descriptors": descriptors.astype(descriptors.dtype.newbyteorder("<")).tobytes(),
        "descriptor_type": descriptors.dtype.name,
        "uncertainty": extracted.uncertainty,
        "identity": hashlib.sha256(keypoints).hexdigest()[:16],
    }


def decode(row: Mapping[str, Any]) -> Features:
    """The features of a row without an error, float32, on the CPU."""
    import torch

    from ripe.features import Features

    def tensor(column: str, kind: str = "float32") -> torch.Tensor:
        values = np.frombuffer(row[column], np.dtype(kind).newbyteorder("<")).astype(np.float32)
        return torch.from_numpy(values)

    return Features(
        tensor("keypoints").reshape(-1, 2),
        tensor("scores"),
        tensor("descriptors", row["descriptor_type"]).reshape(-1, row["length"]),
        (row["width"], row["height"]),
        tensor("scales"),
    )
