"""A table at any address: a folder of Parquet files (shards) that many processes write and no killed one can damage.

A shard is whole or absent, and is named after the keys of its rows. Who computes the same rows again, because a process
was killed or did not know of another, writes the same shard again, so that no row is lost and none is there twice.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import pyarrow as pa
import pyarrow.parquet as pq

from ripe.scale.places import READERS, Place
from ripe.storage import as_stored

ROWS_PER_GROUP = 8  # that are read at once: some 9 MB of features
SUFFIX = ".parquet"
REPEATED = ["model", "weights", "settings", "matcher"]
"""Columns that hold the same in all rows, which are stored once."""


class Located(Protocol):
    """Where a row is."""

    @property
    def shard(self) -> str: ...

    @property
    def number(self) -> int: ...


@dataclass(frozen=True)
class Shards:
    """A table of rows that are told apart by their key.

    Attributes:
        place: the folder.
        schema: of all shards.
        key: the columns by which a row is known.
    """

    place: Place
    schema: pa.Schema
    key: tuple[str, ...]

    def names(self) -> list[str]:
        """File names of all shards, sorted; what is being written lies in folders, and is none."""
        return [name for name in self.place.files() if name.endswith(SUFFIX) and "/" not in name]

    def index(self, columns: Sequence[str]) -> tuple[list[tuple[Any, ...]], dict[str, Any]]:
        """Some columns of all rows, and what all rows depend on (their column `settings`), which is empty without rows.

        Returns:
            For each row its shard, its number there and its cells; and the settings.

        Raises:
            ValueError: a file is no Parquet, or has other columns, or rows have different settings; it is named.
        """
        found: list[tuple[Any, ...]] = []
        settings: set[str] = set()
        names = self.names()
        with ThreadPoolExecutor(READERS) as pool:
            tables = pool.map(partial(self._read, columns=[*columns, "settings"]), names)
            for shard, table in zip(names, tables, strict=True):
                settings |= set(table["settings"].unique().to_pylist())
                cells = [table[name].to_pylist() for name in columns]
                found += [(shard, number, *row) for number, row in enumerate(zip(*cells, strict=True))]
        if len(settings) > 1:
            raise ValueError(f"{self.place.address}: holds rows of different settings")
        return found, json.loads(settings.pop()) if settings else {}

    def groups(self, shard: str, numbers: Iterable[int]) -> Iterator[pa.Table]:
        """Some groups of `ROWS_PER_GROUP` rows of a shard."""
        with self.place.open(shard) as file:
            yield from map(pq.ParquetFile(file).read_row_group, numbers)

    def write(self, rows: pa.Table) -> None:
        """Write rows, none of whose keys is in another shard, as one shard."""
        self._put(self._name(rows), rows)

    def forget(self, rows: Iterable[Located]) -> None:
        """Take some rows away."""
        numbers: dict[str, set[int]] = {}
        for row in rows:
            numbers.setdefault(row.shard, set()).add(row.number)
        for shard, left_out in numbers.items():
            table = self._read(shard, columns=self.schema.names)
            kept = [number for number in range(len(table)) if number not in left_out]
            if kept:
                self._put(shard, table.take(kept))
            else:
                self.place.remove(shard)

    def begin(self, overwrite: bool) -> None:
        """Remove what killed processes have left, and all shards if they are to be written anew."""
        self.place.sweep()
        for shard in self.names() if overwrite else ():
            self.place.remove(shard)

    def _name(self, rows: pa.Table) -> str:
        keys = [rows[name].to_pylist() for name in self.key]
        return hashlib.sha256(json.dumps(keys).encode()).hexdigest()[:32] + SUFFIX

    def _put(self, shard: str, rows: pa.Table) -> None:
        content = io.BytesIO()
        pq.write_table(
            rows,
            content,
            row_group_size=ROWS_PER_GROUP,
            compression="zstd",
            use_dictionary=[name for name in REPEATED if name in self.schema.names],
            write_statistics=False,
        )
        self.place.write(shard, content.getvalue())

    def _read(self, shard: str, columns: Sequence[str]) -> pa.Table:
        with self.place.open(shard) as file:
            try:
                return pq.read_table(file, columns=list(columns)).select(list(columns))
            except (pa.ArrowInvalid, KeyError) as error:
                raise ValueError(f"{self.place.address}/{shard}: none of these tables' files ({error})") from error


def settings_text(settings: Mapping[str, Any]) -> str:
    """What a table's column `settings` says of them: JSON, None being "none" as in HDF5 files."""
    return json.dumps(as_stored(settings), default=lambda number: number.item())  # NumPy's, of HDF5's attributes
