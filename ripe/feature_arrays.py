"""The features of one image back from the file that `Features.save` has written."""

import zipfile
from dataclasses import fields
from pathlib import Path

import numpy as np
import torch

from ripe import checks
from ripe.features import Features


def load_features(path: str | Path) -> Features:
    """The features of one image that `Features.save` has written, on the CPU. Nothing in the file is run.

    Raises:
        FileNotFoundError: no such file.
        ValueError: it is another kind of file, or a damaged one.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    names = [field.name for field in fields(Features)]
    try:
        with np.load(path, allow_pickle=False) as stored:
            arrays = {name: stored[name] for name in names if name != "scales" or name in stored}  # as older files
        width, height = arrays.pop("image_size").tolist()
        tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}
    except (ValueError, KeyError, TypeError, AttributeError, EOFError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path}: not a file of `Features.save`, or a damaged one") from error
    return checks.features(Features(**tensors, image_size=(width, height)), f"{path}: what it holds")
