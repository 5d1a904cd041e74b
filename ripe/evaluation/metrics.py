"""Figures that sum up per-pair errors."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike


def area_under_recall(errors: ArrayLike, thresholds: Sequence[float]) -> np.ndarray:
    """Area under the recall curve up to each threshold, divided by the threshold (the AUC of SuperGlue's evaluation).

    The curve of N errors runs in straight lines from the origin through the points (i-th smallest error, i/N) below the
    threshold, and level from the last of them on. Published tables use this convention; that of a staircase, which is
    the mean of max(0, 1 − error/threshold), gives up to 1/(2N) less.

    Args:
        errors: N errors, 0 or more; infinite or NaN for a failure.
        thresholds: upper ends of the curve, above 0, in the unit of the errors.

    Returns:
        One area in 0..1 per threshold; 0 where there are no errors.
    """
    values = np.asarray(errors, dtype=np.float64).ravel()
    if (values < 0).any():
        raise ValueError("an error is negative")
    if not all(threshold > 0 for threshold in thresholds):
        raise ValueError(f"thresholds are {list(thresholds)}; each must be above 0")
    return np.array([_area(values[values < threshold] / threshold, values.size) for threshold in thresholds])


def _area(errors: np.ndarray, count: int) -> float:
    """The area for a threshold of 1, of which `errors` are the smaller ones of `count` errors.

    The lines enclose the staircase and triangles of height 1/count upon its steps, which reach to the largest error.
    """
    return float((np.sum(1 - errors) + errors.max() / 2) / count) if errors.size else 0.0
