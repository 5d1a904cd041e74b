import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ripe.evaluation.detectors import THRESHOLDS, score_detector
from ripe.evaluation.metrics import area_under_recall
from ripe.evaluation.pair_sets import HomographyPair, MatchedPair, PosePair

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


HOMOGRAPHY = [[0.9, 0.15, 8], [-0.1, 1.05, -6], [3e-4, 1e-4, 1]]


def homography_pair(homography):
    matrix = torch.tensor(homography, dtype=torch.float64)
    corners = torch.tensor([[0.0, 0], [9, 0], [9, 9], [0, 9]], dtype=torch.float64)
    return HomographyPair("p", "a", "b", matrix, corners, corners)


def detected(homography, keypoints0, keypoints1, matches, sizes=((100, 80), (90, 70))):
    pairs = torch.tensor(matches, dtype=torch.int64).reshape(-1, 2)
    return MatchedPair(homography_pair(homography), torch.tensor(keypoints0), torch.tensor(keypoints1), pairs, sizes)


def brute_force(homography, keypoints0, keypoints1, matches, sizes, threshold):
    """The four figures by the formulas, one keypoint at a time."""

    def moved(matrix, point):
        x, y, w = np.asarray(matrix) @ [*point, 1.0]
        return x / w, y / w

    def inside(point, size):
        return -0.5 <= point[0] <= size[0] - 0.5 and -0.5 <= point[1] <= size[1] - 0.5

    back = np.linalg.inv(homography)
    seen0 = [moved(homography, point) for point in keypoints0]
    seen1 = [moved(back, point) for point in keypoints1]
    shared0 = [index for index, point in enumerate(seen0) if inside(point, sizes[1])]
    shared1 = [index for index, point in enumerate(seen1) if inside(point, sizes[0])]
    distances = [min(math.dist(seen0[index], other) for other in keypoints1) for index in shared0]
    distances += [min(math.dist(seen1[index], other) for other in keypoints0) for index in shared1]
    close = [distance for distance in distances if distance <= threshold]
    right = [(i, j) for i, j in matches if math.dist(seen0[i], keypoints1[j]) <= threshold]
    counted = sum(i in shared0 and j in shared1 for i, j in right)
    return (
        len(close) / len(distances),
        np.mean(close) if close else math.nan,
        (counted / len(shared0) + counted / len(shared1)) / 2,
        len(right) / len(matches),
    )


@pytest.mark.parametrize("seed", range(3))
def test_detector_figures_equal_brute_force(seed):
    rng = np.random.default_rng(seed)
    sizes = (100, 80), (90, 70)
    keypoints0 = (rng.random((60, 2)) * sizes[0]).astype(np.float32).tolist()
    keypoints1 = (rng.random((50, 2)) * sizes[1]).astype(np.float32).tolist()
    matches = [(int(i), int(j)) for i, j in zip(rng.permutation(60)[:40], rng.permutation(50)[:40], strict=True)]
    pair = detected(HOMOGRAPHY, keypoints0, keypoints1, matches, sizes)
    score = score_detector([pair])
    for index, threshold in enumerate(THRESHOLDS):
        wanted = brute_force(HOMOGRAPHY, keypoints0, keypoints1, matches, sizes, threshold)
        ours = [figures[index] for figures in vars(score).values()]
        np.testing.assert_allclose(ours, wanted, rtol=1e-6)


def test_detector_figures_in_closed_form():
    """Shifted by 10: of three keypoints one repeats exactly, one is 2 px off, one is outside of the other image."""
    shift = [[1, 0, 10], [0, 1, 0], [0, 0, 1]]
    pair = detected(shift, [[20.0, 20], [50, 50], [85, 30]], [[30.0, 20], [60, 52]], [(0, 0), (1, 1)])
    score = score_detector([pair])
    assert (score.repeatability[0], score.repeatability[1]) == (0.5, 1)
    assert (score.localisation_error[0], score.localisation_error[1]) == (0, 1)
    assert (score.matching_score[0], score.matching_score[2]) == (0.5, 1)
    assert (score.matching_accuracy[0], score.matching_accuracy[2]) == (0.5, 1)


def test_no_keypoints_and_no_matches_are_zero_and_unknown():
    empty = torch.zeros(0, 2)
    blind = MatchedPair(homography_pair(HOMOGRAPHY), empty, empty, torch.zeros(0, 2).long(), ((9, 9), (9, 9)))
    score = score_detector([blind])
    assert set(score.repeatability) == set(score.matching_score) == set(score.matching_accuracy) == {0}
    assert all(map(math.isnan, score.localisation_error))
    seen = detected(np.eye(3).tolist(), [[5.0, 5]], [[5.0, 5]], [(0, 0)])
    assert score_detector([blind, seen]).localisation_error[0] == 0
    assert score_detector([blind, seen]).repeatability[0] == 0.5


def test_detectors_need_a_homography():
    pose = PosePair("p", "a", "b", *[torch.eye(3)] * 3, torch.ones(3))
    empty = torch.zeros(0, 2)
    with pytest.raises(ValueError, match="p: detectors are measured on pairs with a homography"):
        score_detector([MatchedPair(pose, empty, empty, torch.zeros(0, 2).long(), ((9, 9), (9, 9)))])
