"""Ratio test, FGINN and AdaLAM, beside brute force and kornia; and matching by a part of the similarities at a time."""

import itertools
import math
import subprocess
import sys
from pathlib import Path

import kornia.feature
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import ripe
from ripe.features import Features
from ripe.filters import MatchFilter
from ripe.matching import nearest_neighbours


def features(count: int, seed: int, near: Features | None = None) -> Features:
    """Random features, or ones that are near others in place and descriptor, and in another order."""
    generator = torch.Generator().manual_seed(seed)
    keypoints = torch.rand(count, 2, generator=generator) * 400
    descriptors = torch.randn(count, 8, generator=generator)
    if near is not None:
        order = torch.randperm(count, generator=generator)
        keypoints = near.keypoints[order] * 1.1 + torch.rand(count, 2, generator=generator)
        descriptors = near.descriptors[order] + 0.12 * descriptors
    return Features(keypoints, torch.ones(count), torch.nn.functional.normalize(descriptors, dim=-1), (480, 440))


PAIR = features(300, 0), features(300, 1, near=features(300, 0))


@given(
    st.lists(st.tuples(*[st.integers(-2, 2)] * 3), min_size=1, max_size=9),
    st.lists(st.tuples(*[st.integers(-2, 2)] * 3), min_size=1, max_size=9),
    st.integers(1, 40),
)
def test_parts_give_what_the_whole_matrix_gives(rows: list, columns: list, block: int) -> None:
    """Whole numbers, whose products are exact and often equal, so that ties are settled alike, too."""
    first, second = torch.tensor(rows).float(), torch.tensor(columns).float()
    similarity = first @ second.T
    found = nearest_neighbours(first, second, seconds=True, block=block)
    for nearest, matrix in zip(found, (similarity, similarity.T), strict=True):
        values = [sorted(row, reverse=True) for row in matrix.tolist()]
        assert nearest.at.tolist() == [row.index(max(row)) for row in matrix.tolist()]
        assert nearest.similarity.tolist() == [row[0] for row in values]
        assert nearest.second is not None
        assert nearest.second.tolist() == [row[1] if len(row) > 1 else -math.inf for row in values]


@pytest.mark.parametrize("ratio", [0.6, 0.9, 1.0])
def test_the_ratio_test_is_a_plain_search(ratio: float) -> None:
    first, second = (side[:60] for side in PAIR)
    distances = torch.cdist(first.descriptors.double(), second.descriptors.double()).tolist()

    def passes(row: list[float], index: int) -> bool:
        nearest, next_nearest = sorted(row)[:2]
        return row[index] == nearest and nearest <= ratio * next_nearest

    expected = [
        [i, j]
        for i, j in itertools.product(range(60), range(60))
        if passes(distances[i], j) and passes([row[j] for row in distances], i)
    ]
    assert ripe.match(first, second, ratio=ratio).indices.tolist() == expected
    assert len(expected) > 5


def test_the_ratio_test_is_kornias() -> None:
    _, expected = kornia.feature.match_smnn(PAIR[0].descriptors, PAIR[1].descriptors, 0.7)
    assert ripe.match(*PAIR, ratio=0.7).indices.tolist() == expected.tolist()
    assert 20 < len(expected) < len(ripe.match(*PAIR))


@pytest.mark.parametrize("ratio", [None, 0.6])
def test_fginn_is_a_plain_search(ratio: float | None) -> None:
    """A second neighbour is one that is 10 px or more away from the first; kornia looks among the ten nearest."""
    distances = torch.cdist(PAIR[0].descriptors, PAIR[1].descriptors)
    backward = distances.argmin(dim=0).tolist()
    places = PAIR[1].keypoints
    expected = []
    for i, row in enumerate(distances.tolist()):
        nearest, *others = sorted(range(len(row)), key=row.__getitem__)[:10]
        rivals = [row[j] for j in others if torch.dist(places[j], places[nearest]) >= 10]
        if backward[nearest] == i and row[nearest] <= (ratio or 0.85) * min(rivals, default=math.inf):
            expected.append([i, nearest])
    found = ripe.match(*PAIR, method="fginn", ratio=ratio)
    assert found.indices.tolist() == expected
    assert 20 < len(expected) < len(ripe.match(*PAIR))


def test_adalam_is_kornias_and_leaves_the_random_numbers_alone() -> None:
    torch.manual_seed(5)
    found = ripe.match(*PAIR, method="adalam")
    drawn = torch.rand(1)
    torch.manual_seed(5)
    assert torch.rand(1) == drawn
    frames = [kornia.feature.laf_from_center_scale_ori(side.keypoints[None]) for side in PAIR]
    torch.manual_seed(0)
    _, indices = kornia.feature.match_adalam(
        PAIR[0].descriptors, PAIR[1].descriptors, *frames, hw1=(440, 480), hw2=(440, 480)
    )
    assert set(map(tuple, found.indices.tolist())) <= set(map(tuple, indices.tolist()))
    # Where kornia joins several keypoints to one, the most similar one stays.
    similarity = PAIR[0].descriptors @ PAIR[1].descriptors.T
    best: dict[int, int] = {}
    for i, j in indices.tolist():
        if j not in best or similarity[i, j] > similarity[best[j], j]:
            best[j] = i
    assert found.indices.tolist() == sorted([i, j] for j, i in best.items())
    torch.testing.assert_close(found.scores, similarity[tuple(found.indices.T)])
    assert len(found) > 100


@pytest.mark.parametrize("method", ["mutual", "fginn", "adalam"])
def test_no_keypoint_is_matched_twice_and_none_or_one_is_no_error(method: str) -> None:
    found = ripe.match(*PAIR, method=method).indices
    assert [len(found[:, side].unique()) for side in (0, 1)] == [len(found)] * 2
    for count in (0, 1):
        assert len(ripe.match(PAIR[0][:count], PAIR[1], method=method)) == (count if method == "mutual" else 0)
    assert len(ripe.match(PAIR[0][:1], PAIR[1], ratio=0.9)) == 0


@pytest.mark.parametrize("method", ["mutual", "fginn", "adalam"])
def test_low_similarity_is_dropped_by_every_method(method: str) -> None:
    every = ripe.match(*PAIR, method=method)
    some = ripe.match(*PAIR, method=method, min_similarity=0.95)
    assert some.indices.tolist() == every.indices[every.scores >= 0.95].tolist()
    assert 0 < len(some) < len(every)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"method": "nearest"}, "one of mutual, fginn, adalam"),
        ({"ratio": 0.0}, "ratio is 0.0"),
        ({"ratio": 1.5}, "ratio is 1.5"),
        ({"min_similarity": 2.0}, "min_similarity is 2.0"),
        ({"method": "adalam", "ratio": 0.8}, "adalam has a test of its own"),
    ],
)
def test_filters_that_make_no_sense_are_refused(settings: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ripe.match(*PAIR, **settings)


def test_a_filter_says_what_it_is() -> None:
    assert str(MatchFilter()) == "mutual nearest neighbours"
    assert str(MatchFilter("fginn", min_similarity=0.5)) == (
        "mutual nearest neighbours by FGINN, ratio at most 0.85, similarity at least 0.5"
    )


def test_without_kornia_the_message_says_what_to_install(photos: list[Path], random_weights: Path) -> None:
    command = ["match", *map(str, photos), "--model", str(random_weights), "--method", "adalam", "--resize", "200"]
    script = f"import sys; sys.modules['kornia'] = None; from ripe.cli import main; sys.exit(main({command}))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.startswith("ripe: error: method adalam needs kornia: pip install 'ripe-keypoints[eval]'")
    assert done.stderr.count("\n") == 1
