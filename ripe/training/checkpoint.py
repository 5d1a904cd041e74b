"""Checkpoints: everything that a run needs to go on as if it had never stopped."""

import errno
import io
import logging
import os
import re
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from ripe.files import check_plain_zip, replacing
from ripe.stored_weights import unpickled

logger = logging.getLogger(__name__)


def save_checkpoint(state: dict[str, Any], path: Path) -> None:
    """Write `state` to `path` so that at any moment the file is either the old one or the new one, whole.

    Raises:
        OSError: it cannot be written; the message names the file.
    """
    buffer = io.BytesIO()  # torch.save, writing to a file itself, hides why a disk refused
    torch.save(state, buffer)
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary, temporary.open("wb") as file:
        file.write(buffer.getbuffer())
        file.flush()
        os.fsync(file.fileno())


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint onto the CPU; every byte is checked by the checksums in the file.

    Raises:
        FileNotFoundError: there is none.
        ValueError: the file is not a checkpoint, or a damaged one.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such checkpoint")
    try:
        check_plain_zip(path)
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
        if damaged is not None:
            raise ValueError(f"{damaged} is damaged")
    except Exception as error:  # zipfile's are of many classes
        raise ValueError(f"{path}: not a whole checkpoint ({error})") from error
    state = unpickled(path, "a whole checkpoint")
    if not isinstance(state, dict) or not all(isinstance(key, str) for key in state):
        raise ValueError(f"{path}: not a checkpoint of a run")
    return state


def release_of(state: Mapping[str, Any]) -> str:
    """Which release of this package wrote a checkpoint, in words."""
    return f"release {state['release']}" if "release" in state else "a release before 0.1"


class CheckpointFolder:
    """A run's checkpoints, step-NNNNNNNN.pt; the newest ones are kept, and the best one."""

    def __init__(self, folder: Path, keep: int) -> None:
        self.folder, self.keep = folder, keep

    def path(self, step: int) -> Path:
        """Where the checkpoint of a step is."""
        return self.folder / f"step-{step:08d}.pt"

    def steps(self) -> list[int]:
        """Steps of the checkpoints, oldest first."""
        names = (re.fullmatch(r"step-(\d+)\.pt", path.name) for path in self.folder.glob("step-*.pt"))
        return sorted(int(name[1]) for name in names if name)

    def newest(self) -> dict[str, Any] | None:
        """The state in the newest whole checkpoint, None without any; damaged ones are reported and passed over.

        Raises:
            ValueError: there are checkpoints, and all are damaged.
        """
        steps = self.steps()
        for step in reversed(steps):
            try:
                return load_checkpoint(self.path(step))
            except ValueError as error:
                logger.warning("%s; taking the one before", error)
        if steps:
            raise ValueError(f"{self.folder}: no checkpoint is whole; choose another name to start anew")
        return None

    def save(self, state: dict[str, Any], step: int, best: int | None) -> None:
        """Write the checkpoint of `step` and remove those that are too old; `best` is the step of the best one.

        Raises:
            OSError: it cannot be written; what was there is untouched.
        """
        self.make_room(lambda: save_checkpoint(state, self.path(step)), step, best)
        self.prune(step, best)

    def prune(self, step: int, best: int | None) -> None:
        """Remove those that are too old for a run that is at `step`."""
        self._prune(self.keep, step, best)

    def make_room(self, write: Callable[[], None], step: int, best: int | None) -> None:
        """Run `write` at `step`; on a full disk again, after all checkpoints but the newest and the best made room."""
        try:
            write()
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            self._prune(1, step, best)
            write()

    def _prune(self, keep: int, step: int, best: int | None) -> None:
        """Remove those before the newest `keep` of the run that is at `step`; later ones are damaged, and not its."""
        for old in [each for each in self.steps() if each <= step][:-keep]:
            if old != best:
                self.path(old).unlink(missing_ok=True)
