"""Files that are either whole or absent: everything is written beside its place and then moved there."""

import json
import logging
import math
import os
import platform
import shutil
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock, Timeout

if TYPE_CHECKING:
    import numpy as np

logger = logging.getLogger(__name__)


WAIT_SECONDS = 1.0
"""After which it is said that another process is waited for."""
LOCK = ".lock"


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """A temporary path to write to; it replaces `path` on success and is removed on any error, see `scratch`."""
    path = Path(path)
    with scratch(path) as folder:
        temporary = folder / path.name
        yield temporary
        temporary.replace(path)


@contextmanager
def scratch(path: Path) -> Iterator[Path]:
    """An empty folder `.<name>.tmp` beside `path` in which a file or folder is made whole before it is moved there.

    It is removed at the end. What a process left in it that was killed goes first, and a process that is making the
    same is waited for, so that there is one such folder at most.

    Raises:
        OSError: as the body, but what is said of the folder is said of `path`.
    """
    if not path.parent.is_dir():  # which the lock would make
        raise FileNotFoundError(f"{path}: there is no folder {path.parent}")
    folder, held = _scratch_of(path), FileLock(path.with_name(f".{path.name}{LOCK}"))
    try:
        try:
            held.acquire(timeout=WAIT_SECONDS)
        except Timeout:
            logger.warning("%s: another process is writing it; waiting until that ends", path)
            held.acquire()
        try:
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)
            unlock(held)
    except FileNotFoundError as error:
        if path.parent.is_dir():
            raise
        raise FileNotFoundError(f"{path}: there is no folder {path.parent}") from error
    except OSError as error:
        ours = (None, held.lock_file, str(folder), str(folder / path.name))
        if error.errno is None or error.filename not in ours:
            raise
        raise OSError(error.errno, error.strerror, str(path)) from error  # named by its place, such as on a full disk


def sweep(folder: Path) -> None:
    """Remove what killed processes have left of `scratch` below a folder; what is being made there stays.

    `scratch` does so for the file that it makes. This is for files that nobody may make again, such as those of a step
    that is over.
    """
    for left in folder.rglob(f".*{LOCK}"):
        held = FileLock(left)
        with suppress(Timeout):
            held.acquire(blocking=False)
            shutil.rmtree(_scratch_of(left.with_name(left.name[1 : -len(LOCK)])), ignore_errors=True)
            unlock(held)


def _scratch_of(path: Path) -> Path:
    return path.with_name(f".{path.name}.tmp")


def check_writable(path: str | Path) -> None:
    """Raise an `OSError` that says why if a file cannot be written at `path`; called before long work."""
    path = Path(path)
    if path.is_dir():
        raise IsADirectoryError(f"{path}: is a folder; name a file")
    if not path.parent.is_dir():
        raise FileNotFoundError(f"{path}: there is no folder {path.parent}")
    if not os.access(path.parent, os.W_OK):
        raise PermissionError(f"{path}: no permission to write in {path.parent}")


def lock(path: Path) -> FileLock:
    """Make this process the only one that writes `path`, until `unlock`; the lock is the file `<path>.lock`.

    While another process holds it, it is waited for, and a warning says which one it is.

    Raises:
        ValueError: this process holds it already.
    """
    held = FileLock(path.with_name(f"{path.name}{LOCK}"), thread_local=False)
    this = f"process {os.getpid()} on {platform.node()}"
    try:
        held.acquire(blocking=False)
    except Timeout:
        holder = _holder(held)
        if holder == this:
            raise ValueError(f"{path}: is being written by this process already") from None
        logger.warning("%s: %s is writing it; waiting until that ends", path, holder)
        held.acquire()
    with suppress(OSError):  # Windows lets nobody write to a locked file; who holds it remains unsaid
        Path(held.lock_file).write_text(this)
    return held


def unlock(held: FileLock) -> None:
    """Give a lock back and remove its file."""
    # Before the release: those that wait look whether the file that they have locked is still there.
    with suppress(OSError):  # Windows removes no open file
        Path(held.lock_file).unlink()
    held.release()


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the `lock` of a path in a `with` statement."""
    held = lock(path)
    try:
        yield
    finally:
        unlock(held)


def _holder(held: FileLock) -> str:
    with suppress(OSError):
        return Path(held.lock_file).read_text() or "another process"
    return "another process"


def read_json(path: str | Path) -> Any:
    """What a JSON file holds.

    Raises:
        OSError: there is no such file, or it cannot be read.
        ValueError: it is not JSON in UTF-8, or so deeply nested that nobody means it; the message names the file.
    """
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: not valid JSON ({error})") from error


def write_json(path: str | Path, content: Any, *, indent: int | None = None) -> None:
    """Write JSON, whole or not at all; numbers that are not finite, which JSON does not have, become null.

    Args:
        path: the file.
        content: of JSON's types, tuples besides.
        indent: blanks for each level; all in one line if None.
    """
    text = json.dumps(_finite(content), allow_nan=False, indent=indent)
    with replacing(path) as temporary:
        temporary.write_text(text + "\n", encoding="utf-8")


def check_plain_zip(path: str | Path) -> None:
    """Raise a `ValueError` if a zip file has parts that are compressed, as what PyTorch and NumPy save has not.

    So what is read of it takes no more memory than the file, and no small file fills it.
    """
    with zipfile.ZipFile(path) as archive:
        parts = archive.infolist()
        if any(part.compress_type != zipfile.ZIP_STORED or part.file_size > part.compress_size for part in parts):
            raise ValueError(f"{path}: has compressed parts")


def write_arrays(path: str | Path, arrays: "Mapping[str, np.ndarray]") -> None:
    """Write arrays by name to a file of NumPy's npz format, whole or not at all; `OSError` if it cannot be written."""
    import numpy as np

    with replacing(path) as temporary, temporary.open("wb") as file:
        np.savez(file, **arrays)  # type: ignore[arg-type]


def _finite(content: Any) -> Any:
    if isinstance(content, dict):
        return {key: _finite(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [_finite(value) for value in content]
    return None if isinstance(content, float) and not math.isfinite(content) else content
