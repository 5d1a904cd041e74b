"""What the module of a data set says about it: where it is had, what must be there, and how it is trained on."""

from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ripe.data.scenes import Scene
from ripe.recipe.config import DataConfig


@dataclass(frozen=True)
class Count:
    """So many things of a kind are found, of so many that should be there (None if that is not known)."""

    kind: str
    found: int
    expected: int | None = None
    needed: bool = True

    @property
    def complete(self) -> bool:
        """Whether nothing that is needed is missing."""
        return not self.needed or (self.found > 0 if self.expected is None else self.found >= self.expected)

    def __str__(self) -> str:
        text = f"{self.found}" if self.expected is None else f"{self.found} of {self.expected}"
        missing = "" if self.expected is None or self.found >= self.expected else ", missing"
        return f"{text} {self.kind}" + (f"{missing}, not needed" if missing and not self.needed else missing)


@dataclass(frozen=True)
class DataSet:
    """A public data set.

    Attributes:
        name: by which it is asked for.
        title: what it is, for people.
        url: of the archive, of the index of many files, or of the page where one registers.
        folder: its place in the data folder (see `catalogue.data_dir`), once it is unpacked.
        kind: "archive" is one file; "index" a page of many, with their MD5 sums; "form" is handed out by people.
        holds: a file or folder that lies directly in `folder`; archives are unpacked so that it does.
        count: what of it is found in a folder; raises OSError or ValueError where that cannot be told.
        scenes: of the folder, the settings and the run's seed, to train on; None where it is for measuring alone.
            Raises FileNotFoundError where photos are missing, ValueError for another layout.
        archive: for a "form": name of the file that one is given.
        within: for an "index": the part of it, a path relative to the page, that this data set is.
        aliases: other names that people know it by.
    """

    name: str
    title: str
    url: str
    folder: str
    kind: Literal["archive", "index", "form"]
    holds: str
    count: Callable[[Path], list[Count]]
    scenes: Callable[[Path, DataConfig, int], list[Scene]] | None = None
    archive: str = ""
    within: str = ""
    aliases: tuple[str, ...] = ()


def existing(paths: Iterable[Path]) -> int:
    """How many files exist; folders are listed once, which is fast on network disks as well."""
    names: dict[Path, set[str]] = defaultdict(set)
    for path in paths:
        names[path.parent].add(path.name)
    return sum(
        len(wanted & {path.name for path in folder.iterdir()}) for folder, wanted in names.items() if folder.is_dir()
    )
