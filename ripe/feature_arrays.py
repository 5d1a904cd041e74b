"""The features of one image back from the file that `Features.save` has written."""

from dataclasses import fields
from operator import index as as_index
from pathlib import Path

import numpy as np

from ripe import checks
from ripe.features import Features
from ripe.files import check_plain_zip
from ripe.images import as_tensor


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
        check_plain_zip(path)
        with np.load(path, allow_pickle=False) as stored:
            arrays = {name: stored[name] for name in names if name != "scales" or name in stored}  # as older files
        width, height = (as_index(side) for side in arrays.pop("image_size"))
        if any(array.dtype.kind not in "biuf" for array in arrays.values()):
            raise TypeError("no numbers")
        tensors = {name: as_tensor(array) for name, array in arrays.items()}
    except Exception as error:  # headers are Python's syntax, in a zip file: they fail in every way that there is
        if isinstance(error, OSError) and error.errno is not None:
            raise  # the system's, such as of permissions
        raise ValueError(f"{path}: not a file of `Features.save`, or a damaged one") from error
    return checks.features(Features(**tensors, image_size=(width, height)), f"{path}: what it holds")
