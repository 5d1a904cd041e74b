"""Where the public data sets come from: one entry each, for messages and for downloads.

The addresses are those that Glue Factory (cvg/glue-factory, commit 2d17e3b) and DISK (cvlab-epfl/disk, commit 8dc6d4d)
use themselves.
"""

import os
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Source:
    """Where a data set is had.

    Attributes:
        url: of the archive, or of the index of many files.
        folder: its place in the data folder (see `data_dir`), once it is unpacked.
        command: a shell line that fetches and unpacks it, run in the data folder.
    """

    url: str
    folder: str
    command: str


def _zip(url: str, folder: str) -> Source:
    name = url.rsplit("/", 1)[-1]
    return Source(url, folder, f"curl -LO {url} && unzip {name}")


DISK_INDEX = "https://datasets.epfl.ch/disk-data/index.html"
DISK_SCRIPT = "https://raw.githubusercontent.com/cvlab-epfl/disk/master/download_dataset"
# DISK's script fetches both of its sets (164 GB) into datasets.epfl.ch/disk-data and unpacks them.
DISK_COMMAND = f"curl -LO {DISK_SCRIPT} && bash download_dataset; ln -s datasets.epfl.ch/disk-data disk-data"

SOURCES = {
    # The address of the first release, icvl.ee.ic.ac.uk, does not answer any more; its authors moved it to this one.
    "hpatches": _zip(
        "https://huggingface.co/datasets/vbalnt/hpatches/resolve/main/hpatches-sequences-release.zip",
        "hpatches-sequences-release",
    ),
    "megadepth1500": _zip("https://cvg-data.inf.ethz.ch/megadepth/megadepth1500.zip", "megadepth1500"),
    "imw2020": Source(DISK_INDEX, "disk-data/imw2020-val", DISK_COMMAND),
    "megadepth": Source(DISK_INDEX, "disk-data/megadepth", DISK_COMMAND),
}


def data_dir() -> Path:
    """The folder that data sets are looked for in: `DATA_DIR` if set, otherwise `data` in the current folder."""
    return Path(os.environ.get("DATA_DIR") or "data")


def locate(name: str, folder: str | Path | None = None) -> Path:
    """The folder of a data set: `folder` if given, otherwise its usual place.

    Raises:
        FileNotFoundError: it is not there; the message says how the data set is had.
    """
    source = SOURCES[name]
    path = data_dir() / source.folder if folder is None else Path(folder)
    if not path.is_dir():
        raise FileNotFoundError(
            f"{path}: no such folder; get the data set by: mkdir -p {data_dir()} && cd {data_dir()} && {source.command}"
        )
    return path
