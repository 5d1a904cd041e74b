"""Figures that sum up per-pair errors."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike


def area_under_recall(errors: ArrayLike, thresholds: Sequence[float]) -> np.ndarray:
    """Area under the recall curve up to each threshold, divided by the threshold (the AUC of SuperGlue's evaluation).

    Recall rises by 1/N at each of the N sorted errors. The curve is a line from the origin through the points
    (error, recall) below the threshold and level from the last of them to the threshold: the convention of published
    tables. (A staircase, i.e. the mean of max(0, 1 − error/threshold), is lower by at most 1/(2N).)

    Args:
        errors: N errors; infinite (or NaN) for a failure.
        thresholds: upper ends of the curve, above 0, in the unit of the errors.

    Returns:
        One area in 0..1 per threshold; 0 where there are no errors.
    """
    values = np.asarray(errors, dtype=np.float64).ravel()
    if (values < 0).any():
        raise ValueError("errors must not be negative")
    if any(not threshold > 0 for threshold in thresholds):
        raise ValueError(f"thresholds are {list(thresholds)}; each must be above 0")
    if values.size == 0:
        return np.zeros(len(thresholds))
    curve_errors = np.concatenate([[0.0], np.sort(values)])
    curve_recall = np.arange(values.size + 1) / values.size
    return np.array([_area(curve_errors, curve_recall, threshold) for threshold in thresholds])


def _area(errors: np.ndarray, recall: np.ndarray, threshold: float) -> float:
    # At least the origin stays: it lies below every threshold. NaN sorts last, beyond infinity.
    count = int(np.searchsorted(errors, threshold))
    x = np.append(errors[:count], threshold)
    y = np.append(recall[:count], recall[count - 1])
    return float(np.sum(np.diff(x) * (y[1:] + y[:-1])) / 2 / threshold)
