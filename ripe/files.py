"""Files that are either whole or absent: everything is written beside its place and then moved there."""

import json
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """A temporary path beside `path` to write to; it replaces `path` on success and is removed on any error."""
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        yield temporary
        temporary.replace(path)
    except FileNotFoundError as error:
        if path.parent.is_dir():
            raise
        raise FileNotFoundError(f"{path}: there is no folder {path.parent}") from error
    except OSError as error:
        if error.errno is None or error.filename not in (None, str(temporary)):
            raise
        raise OSError(error.errno, error.strerror, str(path)) from error  # named by its place, such as on a full disk
    finally:
        temporary.unlink(missing_ok=True)


def check_writable(path: str | Path) -> None:
    """Raise an `OSError` that says why if a file cannot be written at `path`; called before long work."""
    path = Path(path)
    if path.is_dir():
        raise IsADirectoryError(f"{path}: is a folder; name a file")
    if not path.parent.is_dir():
        raise FileNotFoundError(f"{path}: there is no folder {path.parent}")
    if not os.access(path.parent, os.W_OK):
        raise PermissionError(f"{path}: no permission to write in {path.parent}")


def write_json(path: str | Path, content: Any) -> None:
    """Write one line of JSON, whole or not at all."""
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(content) + "\n")
