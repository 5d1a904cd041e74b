"""Matches of many pairs of photos as a table at any address: one row a pair.

Arrays are their bytes, row by row and little-endian: `indices` K×2 int32, `scores` K float32. With a geometry, they are
the matches that agree with it, none if that is no better than chance, and `model` is its 3×3 matrix, row by row, first
photo to second. A pair that could not be matched is a row with its `error`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pyarrow as pa

from ripe.scale.places import Place
from ripe.scale.shards import ROWS_PER_GROUP, Shards, settings_text

if TYPE_CHECKING:
    from ripe.features import Matches
    from ripe.storage import Pair

SCHEMA = pa.schema(
    {
        "name0": pa.string(),
        "name1": pa.string(),
        "features0": pa.string(),  # the identities of the features that were matched
        "features1": pa.string(),
        "count": pa.int32(),  # matches, K
        "indices": pa.binary(),
        "scores": pa.binary(),
        "verdict": pa.string(),
        "log10_nfa": pa.float64(),
        "geometry": pa.string(),
        "model": pa.list_(pa.float64()),
        "matcher": pa.string(),
        "settings": pa.string(),  # all that the matches depend on, as JSON
        "error": pa.string(),
    }
)


class Row(NamedTuple):
    """Where a pair's row is, and what it says without the matches."""

    shard: str
    number: int
    features: tuple[str, str]
    verdict: str | None
    error: str | None


class Matched(NamedTuple):
    """A pair on its way into a table.

    Attributes:
        pair: names of both photos.
        features: which ones of theirs were matched (see `FeatureTable.identity`).
        found: the matches, or why there are none.
        notes: what a `ripe.match_many.MatchPair` notes beside them.
    """

    pair: Pair
    features: tuple[str, str]
    found: Matches | str
    notes: Mapping[str, Any]


class MatchTable:
    """The matches that a table holds.

    Args:
        address: of the folder.

    Attributes:
        rows: by pair, in the order of the names that was matched.
        settings: what the matches depend on.

    Raises:
        FileNotFoundError, ValueError: there is no such table, or its parts have different settings.
    """

    def __init__(self, address: str) -> None:
        self._shards = match_shards(address)
        self.rows, self.settings = read_index(self._shards)
        if not self.rows:
            raise FileNotFoundError(f"{address}: no such table of matches")

    def items(self) -> Iterator[tuple[Pair, np.ndarray]]:
        """All matched pairs, each with its K×2 int64 matches, as `ripe.storage.read_matches` gives them."""
        for row in self._rows():
            indices = np.frombuffer(row["indices"], "<i4").astype(np.int64).reshape(-1, 2)
            yield (row["name0"], row["name1"]), indices

    def matches(self) -> Iterator[tuple[Pair, Matches, dict[str, Any]]]:
        """All matched pairs, each with its matches on the CPU and what is noted beside them."""
        import torch

        from ripe.features import Matches

        for row in self._rows():
            indices = torch.from_numpy(np.frombuffer(row["indices"], "<i4").astype(np.int64).reshape(-1, 2))
            scores = torch.from_numpy(np.frombuffer(row["scores"], "<f4").astype(np.float32))
            noted = {key: row[key] for key in ("verdict", "log10_nfa") if row[key] is not None}
            if row["model"] is not None:
                noted[row["geometry"]] = np.array(row["model"]).reshape(3, 3)
            yield (row["name0"], row["name1"]), Matches(indices, scores), noted

    def _rows(self) -> Iterator[dict[str, Any]]:
        counts: dict[str, int] = {}
        for row in self.rows.values():
            counts[row.shard] = max(counts.get(row.shard, 0), row.number + 1)
        for shard, count in counts.items():
            for group in self._shards.groups(shard, range(-(-count // ROWS_PER_GROUP))):
                yield from (row for row in group.to_pylist() if row["error"] is None)


def match_shards(address: str) -> Shards:
    """The shards of a table of matches."""
    return Shards(Place(address), SCHEMA, ("name0", "name1"))


def read_index(shards: Shards) -> tuple[dict[Pair, Row], dict[str, Any]]:
    """Where each pair's row is, and what the matches depend on.

    Raises:
        ValueError: parts of the table have different settings.
    """
    found, settings = shards.index(["name0", "name1", "features0", "features1", "verdict", "error"])
    rows = {
        (name0, name1): Row(shard, number, (features0, features1), *rest)
        for shard, number, name0, name1, features0, features1, *rest in found
    }
    return rows, settings


def encode(matched: Sequence[Matched], settings: Mapping[str, Any]) -> pa.Table:
    """Rows of pairs, in order, each with what its matches depend on."""
    shared = {"matcher": settings.get("matcher"), "settings": settings_text(settings)}
    return pa.Table.from_pylist([{**_cells(each), **shared} for each in matched], SCHEMA)


def _cells(matched: Matched) -> dict[str, Any]:
    row = dict(zip(("name0", "name1", "features0", "features1"), (*matched.pair, *matched.features), strict=True))
    if isinstance(matched.found, str):
        return row | {"error": matched.found}
    kinds = [kind for kind in ("fundamental", "homography", "essential") if kind in matched.notes]
    return row | {
        "count": len(matched.found),
        "indices": matched.found.indices.cpu().numpy().astype("<i4").tobytes(),
        "scores": matched.found.scores.cpu().numpy().astype("<f4").tobytes(),
        "verdict": matched.notes.get("verdict"),
        "log10_nfa": matched.notes.get("log10_nfa"),
        "geometry": kinds[0] if kinds else None,
        "model": np.ravel(matched.notes[kinds[0]]).tolist() if kinds else None,
    }
