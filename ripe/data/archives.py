"""Archives of data sets, unpacked whole or not at all, and never outside their folder."""

import gzip
import os
import shutil
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import IO

from ripe.files import scratch

Rename = Callable[[PurePosixPath], PurePosixPath | None]
GZIP = b"\x1f\x8b"
TAR_END = bytes(1024)
_DAMAGE = (tarfile.TarError, zipfile.BadZipFile, gzip.BadGzipFile, EOFError, zlib.error, RuntimeError)


def unpack(archive: Path, folder: Path, rename: Rename) -> list[str]:
    """Unpack a zip, tar or gzipped tar archive into `folder`; what was there under the same name is replaced.

    Everything is unpacked beside its place first, so that a damaged archive or a full disk changes nothing. Only
    files are unpacked, no links or devices. Zip and compressed tar archives carry check sums, which are compared.

    Args:
        archive: the file.
        folder: that receives the content.
        rename: where a member goes, relative to `folder`; None leaves it out.

    Returns:
        The names that were put into `folder`.

    Raises:
        ValueError: the archive is damaged, or holds nothing for `folder`; the message names it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with scratch(folder / "unpacked") as made:
        try:
            for name, source in _files(archive):
                with source:
                    _put(name, source, made, rename)
        except _DAMAGE as error:
            raise ValueError(f"{archive}: damaged archive ({error})") from error
        tops = sorted(path.name for path in made.iterdir())
        if not tops:
            raise ValueError(f"{archive}: holds nothing of this data set")
        for top in tops:
            _replace(made / top, folder / top)
    return tops


def strip(count: int) -> Rename:
    """Drop so many folders from the start of each name; names with no more than that are left out."""

    def rename(name: PurePosixPath) -> PurePosixPath | None:
        return PurePosixPath(*name.parts[count:]) if len(name.parts) > count else None

    return rename


def below(archive: Path, marker: str) -> Rename:
    """Drop the folders that `marker`, a file or folder, lies in; what lies elsewhere is left out.

    Raises:
        ValueError: the archive is damaged, or holds no such file or folder.
    """
    try:
        parents = [name.parts[: name.parts.index(marker)] for name in _names(archive) if marker in name.parts]
    except _DAMAGE as error:
        raise ValueError(f"{archive}: damaged archive ({error})") from error
    if not parents:
        raise ValueError(f"{archive}: holds no {marker}; it is not the archive of this data set")
    parent = min(parents, key=len)

    def rename(name: PurePosixPath) -> PurePosixPath | None:
        inside = name.parts[: len(parent)] == parent and len(name.parts) > len(parent)
        return PurePosixPath(*name.parts[len(parent) :]) if inside else None

    return rename


def _names(archive: Path) -> list[PurePosixPath]:
    if zipfile.is_zipfile(archive):
        with zipfile.ZipFile(archive) as file:
            return [PurePosixPath(info.filename) for info in file.infolist() if not info.is_dir()]
    with tarfile.open(archive) as file:
        return [PurePosixPath(member.name) for member in file if member.isfile()]


def _files(archive: Path) -> Iterator[tuple[PurePosixPath, IO[bytes]]]:
    if zipfile.is_zipfile(archive):
        with zipfile.ZipFile(archive) as packed:
            for info in packed.infolist():
                if not info.is_dir():
                    yield PurePosixPath(info.filename), packed.open(info)
        return
    with archive.open("rb") as raw:
        compressed = raw.read(len(GZIP)) == GZIP
        if not compressed:
            _check_end(raw)
    with gzip.open(archive) if compressed else archive.open("rb") as file:
        with tarfile.open(fileobj=file, mode="r|") as stream:
            for member in stream:
                content = stream.extractfile(member) if member.isfile() else None
                if content is not None:
                    yield PurePosixPath(member.name), content
        while file.read(1 << 20):  # to the end, where gzip has its check sum
            pass


def _check_end(file: IO[bytes]) -> None:
    """Raise a `tarfile.ReadError` unless a file ends like a tar archive; `tarfile` misses a cut between two members."""
    file.seek(-min(len(TAR_END), file.seek(0, os.SEEK_END)), os.SEEK_END)
    if file.read() != TAR_END:
        raise tarfile.ReadError("unexpected end of data")


def _put(name: PurePosixPath, source: IO[bytes], folder: Path, rename: Rename) -> None:
    parts = [part for part in name.parts if part not in ("/", ".")]
    if ".." in parts:
        raise ValueError(f"{name}: an archive must not reach outside its folder")
    place = rename(PurePosixPath(*parts))
    if place is None:
        return
    target = folder / place
    target.parent.mkdir(parents=True, exist_ok=True)
    with target.open("wb") as file:
        shutil.copyfileobj(source, file, 1 << 20)


def _replace(source: Path, target: Path) -> None:
    """Move a file or a folder to its place; files of a folder that is there already are replaced one by one."""
    if source.is_dir() and target.is_dir():
        for child in source.iterdir():
            _replace(child, target / child.name)
    else:
        source.replace(target)
