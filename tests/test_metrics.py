import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ripe.evaluation.metrics import area_under_recall

errors_of_pairs = st.lists(st.one_of(st.floats(0, 30), st.just(math.inf)), min_size=1, max_size=40)
limits = st.floats(0.5, 25)


def trapezoids(errors: list[float], threshold: float) -> float:
    """The area as SuperGlue's evaluation defines it: trapezoids over the sorted errors, cut at the threshold."""
    ordered = np.concatenate([[0.0], np.sort(errors)])
    recall = np.arange(len(ordered)) / len(errors)
    last = int(np.searchsorted(ordered, threshold))
    x, y = np.append(ordered[:last], threshold), np.append(recall[:last], recall[last - 1])
    return float(np.sum(np.diff(x) * (y[1:] + y[:-1]) / 2) / threshold)


@given(errors_of_pairs, limits)
def test_equals_the_trapezoids_of_published_tables(errors, threshold):
    assert area_under_recall(errors, [threshold])[0] == pytest.approx(trapezoids(errors, threshold), abs=1e-9)


@given(errors_of_pairs, limits)
def test_agrees_with_numeric_integration_of_recall_within_half_a_pair(errors, threshold):
    centres = (np.arange(4000) + 0.5) / 4000 * threshold
    recall = np.mean(np.asarray(errors)[:, None] <= centres, axis=0)
    excess = area_under_recall(errors, [threshold])[0] - recall.mean()
    assert -1e-3 <= excess <= 0.5 / len(errors) + 1e-3


@given(errors_of_pairs, limits)
def test_is_a_share_and_does_not_depend_on_the_order(errors, threshold):
    area = area_under_recall(errors, [threshold])[0]
    assert 0 <= area <= 1
    assert area_under_recall(errors[::-1], [threshold])[0] == pytest.approx(area)


def test_closed_forms():
    np.testing.assert_allclose(area_under_recall([0, 0, 0], [1, 5]), [1, 1])
    np.testing.assert_allclose(area_under_recall([math.inf, math.nan, 180], [5, 20]), [0, 0])
    # One pair with half the threshold's error: a triangle up to it and a full rectangle after it.
    np.testing.assert_allclose(area_under_recall([2.5], [5]), [0.75])
    np.testing.assert_allclose(area_under_recall([1, math.inf], [2]), [0.375])
    np.testing.assert_allclose(area_under_recall([5.0], [5]), [0])
    np.testing.assert_allclose(area_under_recall([], [5, 10]), [0, 0])


@pytest.mark.parametrize(("errors", "thresholds"), [([-1.0], [5]), ([1.0], [0]), ([1.0], [math.nan])])
def test_senseless_arguments_are_refused(errors, thresholds):
    with pytest.raises(ValueError, match=r"negative|above 0"):
        area_under_recall(errors, thresholds)
