"""What is asked of arrays and numbers before they go to native code, which reads beyond them instead of complaining.

PoseLib, COLMAP and OpenCV take lengths, shapes and indices as given: two lists of unequal lengths end the process.
Every call of theirs that takes points, matches or cameras goes through here. All functions return what they have
checked, and raise a `ValueError` that names the argument.
"""

import math
from operator import index as as_index
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ripe.features import Features

LARGEST_SEED = 2**64 - 1
NO_SKEW = 1e-6
"""Share of the focal length under which a skew is a rounding error."""


def points(values: Tensor | np.ndarray, name: str) -> np.ndarray:
    """K×2 finite (x, y) as float64."""
    found = _numbers(values, name)
    if found.ndim != 2 or found.shape[1] != 2:
        raise ValueError(f"{name} has shape {_shape(found)}; it must be K×2, one (x, y) a row")
    return _finite(found, name)


def matched_points(points0: Tensor | np.ndarray, points1: Tensor | np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """K×2 finite (x, y) of both images as float64, row by row one match."""
    first, second = points(points0, "points0"), points(points1, "points1")
    if len(first) != len(second):
        raise ValueError(
            f"points0 has {len(first)} rows and points1 has {len(second)}; row k of both must be match k "
            "(see `Matches.points`)"
        )
    return first, second


def index_pairs(indices: Tensor | np.ndarray, name: str, sizes: tuple[int, int] | None = None) -> np.ndarray:
    """K×2 indices, int64, into lists of `sizes`; of any size if None."""
    found = np.asarray(indices.detach().cpu() if isinstance(indices, Tensor) else indices)
    if found.ndim != 2 or found.shape[1] != 2 or (found.size and found.dtype.kind not in "iu"):
        raise ValueError(f"{name} is {_shape(found)} of {found.dtype}; it must be K×2 whole numbers")
    found = found.astype(np.int64)
    beyond = (found < 0) | (False if sizes is None else found >= np.array(sizes))
    if beyond.any():
        row = int(beyond.any(axis=1).argmax())
        there = "" if sizes is None else f", where there are {sizes[0]} and {sizes[1]}"
        raise ValueError(f"{name} joins number {found[row, 0]} to {found[row, 1]} in row {row}{there}")
    return found


def camera_matrix(intrinsics: Tensor | np.ndarray, name: str) -> np.ndarray:
    """3×3 float64 camera matrix with focal lengths above 0 and without skew."""
    found = _numbers(intrinsics, name)
    if found.shape != (3, 3):
        raise ValueError(f"{name} has shape {_shape(found)}; it must be a 3×3 camera matrix")
    _finite(found, name)
    focal_x, focal_y = found[0, 0], found[1, 1]
    if not (focal_x > 0 and focal_y > 0):
        raise ValueError(f"{name} has focal lengths {focal_x:g} and {focal_y:g}; they must be above 0")
    if found[2].tolist() != [0, 0, 1] or max(abs(found[0, 1]), abs(found[1, 0])) > NO_SKEW * min(focal_x, focal_y):
        raise ValueError(f"{name} must be a camera matrix without skew: rows (fx, 0, cx), (0, fy, cy), (0, 0, 1)")
    return found


def positive(value: float, name: str) -> float:
    """A finite number above 0."""
    if not _is_number(value) or not 0 < value < math.inf:
        raise ValueError(f"{name} is {value!r}; it must be a number above 0")
    return float(value)


def not_nan(value: float, name: str) -> float:
    """A number, finite or not."""
    if not _is_number(value):
        raise ValueError(f"{name} is {value!r}; it must be a number")
    return float(value)


def whole_number(value: int, name: str, least: int, most: int | None = None) -> int:
    """An integer (Python's, NumPy's or of a tensor) in `least`..`most`."""
    try:
        found = as_index(value)
    except TypeError:
        found = None
    if found is None or isinstance(value, bool) or found < least or (most is not None and found > most):
        limits = f"of {least} or more" if most is None else f"in {least}..{most}"
        raise ValueError(f"{name} is {value!r}; it must be a whole number {limits}")
    return found


def features(values: Features, name: str) -> Features:
    """The features of one image: N keypoints, N scores, N descriptors and N scales, all finite."""
    if not isinstance(values, Features):
        raise ValueError(
            f"{name} is a {type(values).__name__}; it must be the `Features` of one image, an element of what "
            "`extract` returns"
        )
    keypoints, scores, descriptors = values.keypoints, values.scores, values.descriptors
    if keypoints.shape != (len(descriptors), 2) or scores.shape != (len(descriptors),) or descriptors.ndim != 2:
        shapes = ", ".join(_shape(part) for part in (keypoints, scores, descriptors))
        raise ValueError(f"{name} has keypoints, scores and descriptors of shapes {shapes}; they must be N×2, N, N×D")
    if values.scales.shape != scores.shape:
        raise ValueError(f"{name} has scales of shape {_shape(values.scales)} for {len(scores)} keypoints")
    if values.scales.numel() and not values.scales.min() > 0:
        raise ValueError(f"{name} has scales that are not above 0")
    for part, meaning in ((keypoints, "keypoints"), (descriptors, "descriptors"), (values.scales, "scales")):
        if not torch.isfinite(part).all():
            raise ValueError(f"{name} has {meaning} that are NaN or infinite")
    return values


def _numbers(values: Any, name: str) -> np.ndarray:
    if isinstance(values, Tensor):
        values = values.detach().cpu()
        values = values.numpy() if values.is_complex() else values.double().numpy()
    if np.iscomplexobj(values):
        raise ValueError(f"{name} must be real numbers")
    try:
        return np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name} must be an array of numbers ({error})") from error


def _finite(values: np.ndarray, name: str) -> np.ndarray:
    if not np.isfinite(values).all():
        bad = len(values) - int(np.isfinite(values).all(axis=1).sum())
        raise ValueError(f"{name} has NaN or infinite numbers in {bad} of {len(values)} rows")
    return values


def _is_number(value: Any) -> bool:
    try:
        return not isinstance(value, str) and not math.isnan(float(value))
    except (TypeError, ValueError, RuntimeError, OverflowError):  # tensors of several numbers, huge whole numbers
        return False


def _shape(values: np.ndarray | Tensor) -> str:
    return "×".join(map(str, values.shape)) or "of one number"
