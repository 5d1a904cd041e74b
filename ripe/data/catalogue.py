"""Where the public data sets come from: one entry each, for messages, for downloads and for what is trained on.

The addresses are those that Glue Factory (cvg/glue-factory, commit 2d17e3b), DISK (cvlab-epfl/disk, commit 8dc6d4d) and
the data sets' own pages use themselves.
"""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal


@dataclass(frozen=True)
class Source:
    """Where a data set is had.

    Attributes:
        url: of the archive, of the index of many files, or of the page where one registers.
        folder: its place in the data folder (see `data_dir`), once it is unpacked.
        kind: "archive" is one file; "index" a page of many, with their MD5 sums; "form" is handed out by people.
        holds: a file or folder that lies directly in `folder`; archives are unpacked so that it does.
        title: what it is, for people.
        archive: for a "form": name of the file that one is given.
        within: for an "index": the part of it, a path relative to the page, that this data set is.
    """

    url: str
    folder: str
    kind: Literal["archive", "index", "form"]
    holds: str
    title: str
    archive: str = ""
    within: str = ""


DISK_INDEX = "https://datasets.epfl.ch/disk-data/index.html"

SOURCES = {
    "megadepth": Source(
        DISK_INDEX,
        "disk-data/megadepth",
        "index",
        "dataset.json",
        "MegaDepth in DISK's package, for training",
        within="megadepth/",
    ),
    "imw2020": Source(
        DISK_INDEX,
        "disk-data/imw2020-val",
        "index",
        "dataset.json",
        "IMW2020-val in DISK's package, for validation",
        within="imw2020-val/",
    ),
    "tokyo": Source(
        "http://www.ok.ctrl.titech.ac.jp/~torii/project/247/",
        "Tokyo_Query_V3",
        "form",
        "00001.jpg",
        "Tokyo 24/7 query photos, version 3, for training",
        archive="247query_v3.zip",
    ),
    "acdc": Source(
        "https://acdc.vision.ee.ethz.ch/download",
        "ACDC",
        "form",
        "rgb_anon",
        "ACDC, street scenes in bad and clear weather, for training",
        archive="rgb_anon_trainvaltest.zip",
    ),
    # The address of the first release, icvl.ee.ic.ac.uk, does not answer any more; its authors moved it to this one.
    "hpatches": Source(
        "https://huggingface.co/datasets/vbalnt/hpatches/resolve/main/hpatches-sequences-release.zip",
        "hpatches-sequences-release",
        "archive",
        "v_wall",
        "HPatches sequences, a benchmark",
    ),
    "megadepth1500": Source(
        "https://cvg-data.inf.ethz.ch/megadepth/megadepth1500.zip",
        "megadepth1500",
        "archive",
        "views.txt",
        "MegaDepth-1500 in Glue Factory's package, a benchmark",
    ),
}
# Other names that people know a set by.
ALIASES = {"disk-megadepth": "megadepth", "disk-imw2020": "imw2020", "imw2020-val": "imw2020", "tokyo247": "tokyo"}


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
