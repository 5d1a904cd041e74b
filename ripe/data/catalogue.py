"""The public data sets by name, with the places where they lie. Every module in `ripe.data.sets` is one."""

import os
import pkgutil
from collections.abc import Iterable
from importlib import import_module
from pathlib import Path

from ripe.data import sets
from ripe.data.dataset import DataSet

OWN = "own"
"""Photos of one's own, among the names of data sets to train on."""


def _found() -> dict[str, DataSet]:
    modules = (import_module(f"{sets.__name__}.{module.name}") for module in pkgutil.iter_modules(sets.__path__))
    return {module.SET.name: module.SET for module in modules}


SOURCES = _found()
ALIASES = {alias: name for name, each in SOURCES.items() for alias in each.aliases}


def trainable() -> list[str]:
    """Names of the public sets that can be trained on."""
    return [name for name, each in SOURCES.items() if each.scenes is not None]


def check_trainable(names: Iterable[str]) -> None:
    """Raise the ValueError on a name in `data.sets` that is none of a data set to train on."""
    known = [*trainable(), OWN]
    for name in names:
        if name not in known:
            raise ValueError(f"data.sets={name}: must be one of {', '.join(known)}")


def data_dir() -> Path:
    """The folder that data sets are looked for in: `DATA_DIR` if set, otherwise `data` in the current folder."""
    return Path(os.environ.get("DATA_DIR") or "data")


def resolve(name: str) -> str:
    """The key in `SOURCES` of a data set that may be called by another name; `ValueError` lists the known ones."""
    key = ALIASES.get(name, name)
    if key not in SOURCES:
        raise ValueError(f"{name}: no such data set; there are: {', '.join(SOURCES)}")
    return key


def place(name: str, root: Path | None = None) -> Path:
    """The folder where a data set belongs, under `root` or else `data_dir`."""
    return (data_dir() if root is None else root) / SOURCES[name].folder


def how_to_get(name: str, root: Path | None = None) -> str:
    """One line that says how a data set is had."""
    source = SOURCES[name]
    option = "" if root is None else f" --dir {root}"
    if source.kind == "form":
        return (
            f"its owners hand it out at {source.url}; ask for {source.archive}, then: "
            f"ripe data download {name}{option} --from {source.archive}"
        )
    return f"get the data set by: ripe data download {name}{option}"


def locate(name: str, folder: str | Path | None = None, *, root: Path | None = None) -> Path:
    """The folder of a data set: `folder` if given, otherwise its usual place under `root` or `data_dir`.

    Raises:
        FileNotFoundError: it is not there; the message says how the data set is had.
    """
    path = place(name, root) if folder is None else Path(folder)
    if not path.is_dir():
        raise FileNotFoundError(f"{path}: no such folder; {how_to_get(name, root)}")
    return path
