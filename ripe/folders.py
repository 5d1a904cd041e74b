"""Which files of a folder are photos: one rule for commands, data sets and own photos."""

import logging
import os
from collections import deque
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

from ripe.photos import EXTENSIONS

FOREIGN_FOLDERS = frozenset({"__MACOSX", "@eaDir"})
"""What archives of macOS and Synology's stations put beside photos: resource forks and thumbnails under their names."""

logger = logging.getLogger(__name__)


def is_photo(name: str) -> bool:
    """Whether a file's name is that of a photo; hidden files, such as macOS's `._x.png`, are none."""
    return Path(name).suffix.lower() in EXTENSIONS and not name.startswith(".")


def photos_in(folder: Path) -> list[str]:
    """Names of the photos directly in `folder`, sorted."""
    with os.scandir(folder) as entries:
        return sorted(entry.name for entry in entries if is_photo(entry.name) and entry.is_file())


def may_hold_photos(name: str) -> bool:
    """Whether a sub-folder of that name is looked into; hidden folders and `FOREIGN_FOLDERS` are not."""
    return not name.startswith(".") and name not in FOREIGN_FOLDERS


def photos_below(folder: Path) -> list[str]:
    """Names relative to `folder` of all photos in it and in its sub-folders, sorted.

    Links to folders are followed. A folder that several ways lead to is entered once, by the way without links if there
    is one, so links cannot lead in circles. A folder that may not be read is left out with a warning.
    """
    found: list[Path] = []
    entered: set[tuple[int, int]] = set()
    waiting = deque([folder])  # `folder`, then the links that were met
    while waiting:
        for parent, folders, files in os.walk(waiting.popleft(), onerror=_warn):
            place = Path(parent)
            identity = (place.stat().st_dev, place.stat().st_ino)
            folders[:] = [] if identity in entered else sorted(filter(may_hold_photos, folders))
            if identity not in entered:
                found += [path for path in map(place.joinpath, filter(is_photo, files)) if path.is_file()]
                waiting.extend(path for path in map(place.joinpath, folders) if path.is_symlink())
            entered.add(identity)
    return sorted(path.relative_to(folder).as_posix() for path in found)


def mask_names(name: str) -> tuple[str, str]:
    """What the mask of a photo may be called: of `sub/a.jpg`, `sub/a.jpg.png` as in COLMAP, or else `sub/a.png`."""
    return f"{name}.png", f"{name.removesuffix(PurePosixPath(name).suffix)}.png"


def mask_in(folder: Path, name: str) -> Path | None:
    """The mask that `folder` holds of a photo (see `mask_names`), or None.

    Raises:
        FileNotFoundError: there is no such folder.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: no such folder of masks")
    return next((path for path in map(folder.joinpath, mask_names(name)) if path.is_file()), None)


def masks_below(folder: Path, names: Iterable[str]) -> dict[str, Path]:
    """The masks that `folder` holds (see `mask_in`), by the photos' names; photos without one are left out.

    Raises:
        FileNotFoundError, ValueError: there is no such folder, or it holds no photo's mask.
    """
    found = {name: mask for name in names if (mask := mask_in(folder, name)) is not None}
    if not found:
        raise ValueError(f"{folder}: holds no photo's mask; that of a.jpg would be a.jpg.png or a.png")
    return found


def _warn(error: OSError) -> None:
    logger.warning("%s is left out: %s", error.filename, error.strerror)
