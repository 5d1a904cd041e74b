"""Folders at addresses of fsspec: local ones, `file://`, `s3://`, `gs://`, `https://` and what else it has."""

from __future__ import annotations

import posixpath
from collections.abc import Collection
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import fsspec
from fsspec.core import url_to_fs
from fsspec.implementations.local import LocalFileSystem

from ripe.files import replacing, sweep
from ripe.folders import is_photo, may_hold_photos, photos_below

READERS = 16
VERSION_KEYS = ("ETag", "etag", "md5Hash", "mtime", "LastModified", "updated")
"""Where file systems say by what a file differs from an earlier one of its name, the surest first."""


class Version(NamedTuple):
    """What tells a file from a later one of its name, as far as the file system says it: 0 and "" otherwise.

    Attributes:
        size: in bytes.
        mark: a time or a hash.
    """

    size: int
    mark: str

    def __str__(self) -> str:
        return f"{self.size} {self.mark}"


@dataclass(frozen=True)
class Place:
    """A folder at an address; it need not be there yet.

    Attributes:
        address: a path, or a URL of a protocol that fsspec knows. Credentials and end points are those of the
            protocol's own package, such as AWS's environment variables and files.

    Raises:
        ValueError: on first use, fsspec does not know the protocol, or lacks a package for it.
    """

    address: str

    def __post_init__(self) -> None:
        if "://" not in self.address:  # other processes may be in other folders
            object.__setattr__(self, "address", str(Path(self.address).absolute()))

    @cached_property
    def _opened(self) -> tuple[fsspec.AbstractFileSystem, str]:
        try:
            files, root = url_to_fs(self.address)
        except (ValueError, ImportError) as error:
            raise ValueError(f"{self.address}: cannot be opened by fsspec ({error})") from error
        return files, root.rstrip("/")

    def photos(self) -> dict[str, Version]:
        """The photos in it and in its folders: names relative to it, sorted, and their files' versions.

        Which files are photos is `ripe.folders`' rule.

        Raises:
            FileNotFoundError, ValueError: there is no such folder, or it holds no photo.
        """
        files, root = self._opened
        if isinstance(files, LocalFileSystem):
            if not Path(root).is_dir():
                raise FileNotFoundError(f"{self.address}: no such folder")
            found = {name: _version(files.info(f"{root}/{name}")) for name in photos_below(Path(root))}
        else:
            found = {name: version for name, version in self.files().items() if _is_photo_below(name)}
        if not found:
            raise ValueError(f"{self.address}: holds no photo, or there is no such folder")
        return found

    def files(self) -> dict[str, Version]:
        """All files in it and in its folders: names relative to it, sorted, and their versions."""
        files, root = self._opened
        files.invalidate_cache()  # other processes write, too
        try:
            found = files.find(root, detail=True)
        except FileNotFoundError:
            return {}
        return {path.removeprefix(root).lstrip("/"): _version(about) for path, about in sorted(found.items())}

    def open(self, name: str) -> BinaryIO:
        """One of its files, opened for reading."""
        files, root = self._opened
        return files.open(f"{root}/{name}", "rb")

    def read(self, names: Collection[str]) -> dict[str, bytes | Exception]:
        """The contents of some of its files, or why one cannot be read; several are read at a time."""
        files, root = self._opened

        def content(name: str) -> bytes | Exception:
            try:
                return files.cat_file(f"{root}/{name}")
            except Exception as error:  # each protocol has its own
                return error

        with ThreadPoolExecutor(READERS) as pool:
            return dict(zip(names, pool.map(content, names), strict=True))

    def write(self, name: str, content: bytes) -> None:
        """Put a file in place, whole or not at all; the folder is made if need be."""
        files, root = self._opened
        if isinstance(files, LocalFileSystem):
            path = Path(root) / name
            path.parent.mkdir(parents=True, exist_ok=True)
            with replacing(path) as temporary:
                temporary.write_bytes(content)
        else:
            files.pipe_file(f"{root}/{name}", content)  # stores of objects show one when it is whole

    def sweep(self) -> None:
        """Remove what killed processes have left of files that they were writing."""
        files, root = self._opened
        if isinstance(files, LocalFileSystem):
            sweep(Path(root))

    def remove(self, name: str) -> None:
        """Take one of its files away."""
        files, root = self._opened
        files.rm_file(f"{root}/{name}")


def _is_photo_below(name: str) -> bool:
    *folders, last = name.split(posixpath.sep)
    return is_photo(last) and all(map(may_hold_photos, folders))


def _version(about: dict[str, Any]) -> Version:
    mark = next((about[key] for key in VERSION_KEYS if about.get(key) is not None), "")
    return Version(about.get("size") or 0, str(mark))
