"""Checkpoints: everything that a run needs to go on as if it had never stopped."""

import os
from pathlib import Path
from typing import Any

import torch

from ripe.files import replacing


def save_checkpoint(state: dict[str, Any], path: Path) -> None:
    """Write `state` to `path` so that at any moment the file is either the old one or the new one, whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary, temporary.open("wb") as file:
        torch.save(state, file)
        file.flush()
        os.fsync(file.fileno())


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint onto the CPU.

    Raises:
        ValueError: the file is not a checkpoint, or a damaged one.
    """
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise
    except Exception as error:  # torch.load raises whatever unpickling or unzipping met
        raise ValueError(f"{path}: not a whole checkpoint ({error})") from error
