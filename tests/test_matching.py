"""Mutual nearest neighbours."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import ripe
from ripe.features import Features
from ripe.matching import mutual_nearest_neighbours


def features(descriptors: torch.Tensor) -> Features:
    count = len(descriptors)
    return Features(torch.rand(count, 2), torch.rand(count), descriptors, (100, 100))


def unit(*shape: int, seed: int = 0) -> torch.Tensor:
    values = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.normalize(values, dim=-1)


@given(st.integers(0, 12), st.integers(0, 12), st.integers(0, 1000))
def test_agrees_with_a_plain_search(count0: int, count1: int, seed: int) -> None:
    a, b = unit(count0, 4, seed=seed), unit(count1, 4, seed=seed + 1)
    similarity = (a @ b.T).tolist()
    expected = [
        [i, j]
        for i in range(count0)
        for j in range(count1)
        if similarity[i][j] == max(similarity[i]) and similarity[i][j] == max(row[j] for row in similarity)
    ]
    indices, scores = mutual_nearest_neighbours(a, b)
    assert indices.tolist() == expected
    assert scores.tolist() == [similarity[i][j] for i, j in expected]


def test_a_permutation_is_undone() -> None:
    descriptors = unit(50, 16)
    order = torch.randperm(50, generator=torch.Generator().manual_seed(1))
    matches = ripe.match(features(descriptors), features(descriptors[order]))
    assert torch.equal(order[matches.indices[:, 1]], matches.indices[:, 0])
    torch.testing.assert_close(matches.scores, torch.ones(50))


@pytest.mark.parametrize(("count0", "count1"), [(0, 5), (5, 0), (0, 0)])
def test_no_keypoints_no_matches(count0: int, count1: int) -> None:
    first, second = features(unit(count0, 8)), features(unit(count1, 8))
    matches = ripe.match(first, second)
    assert matches.indices.shape == (0, 2)
    assert matches.indices.dtype == torch.int64
    assert [points.shape for points in matches.points(first, second)] == [(0, 2), (0, 2)]


def test_low_similarity_is_dropped() -> None:
    first, second = features(unit(40, 8, seed=1)), features(unit(40, 8, seed=2))
    every = ripe.match(first, second)
    some = ripe.match(first, second, min_similarity=0.8)
    assert 0 < len(some) < len(every)
    assert some.scores.min() >= 0.8


def test_points_are_those_of_the_matched_keypoints() -> None:
    descriptors = unit(10, 16)
    first, second = features(descriptors), features(descriptors.flip(0))
    points0, points1 = ripe.match(first, second).points(first, second)
    torch.testing.assert_close(points0, first.keypoints)
    torch.testing.assert_close(points1, second.keypoints.flip(0))


def test_features_of_two_models_cannot_be_matched() -> None:
    with pytest.raises(ValueError, match="same model"):
        ripe.match(features(unit(3, 8)), features(unit(3, 16)))


@pytest.mark.parametrize("row", [[0, 5], [3, 0], [-1, 0]])
def test_matches_of_other_features_are_refused(row: list[int]) -> None:
    """An index beyond the list, or below 0, which PyTorch would count from the end."""
    found = ripe.Matches(torch.tensor([[1, 2], row]), torch.ones(2))
    with pytest.raises(ValueError, match="which have 3 and 5"):
        found.points(features(unit(3, 4)), features(unit(5, 4)))
