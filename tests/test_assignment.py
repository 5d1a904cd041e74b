"""What a matcher learns from: the truth about pairs, beside plain searches, and the loss, beside its definition."""

import itertools
import math
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import Tensor

from ripe.geometry.epipolar import epipolar_distances, fundamental_from_pose
from ripe.geometry.homography import apply_homography
from ripe.networks.lightglue import Assignment
from ripe.objective.assignment import (
    Truth,
    assignment_loss,
    by_epipolar_geometry,
    by_homography,
    confidence_loss,
    note,
    of_strangers,
)
from ripe.objective.tally import Tally
from ripe.recipe.config import MatcherConfig

CONFIG = MatcherConfig()
WARP = torch.tensor([[0.9, -0.2, 30.0], [0.25, 1.1, -20.0], [2e-4, -1e-4, 1.0]])


def points(count: int, seed: int) -> Tensor:
    return torch.rand(count, 2, generator=torch.Generator().manual_seed(seed)) * 300


def two_views(count: int) -> tuple[Tensor, Tensor, Tensor]:
    """Points of a cloud in two views, and the views' fundamental matrix."""
    cloud = torch.rand(count, 3, generator=torch.Generator().manual_seed(5)).double() * 2 + torch.tensor([-1.0, -1, 3])
    camera = torch.tensor([[300.0, 0, 160], [0, 300, 160], [0, 0, 1]]).double()
    angle = torch.tensor(0.3).double()
    c, s = angle.cos(), angle.sin()
    rotation = torch.tensor([[c, 0, s], [0, 1, 0], [-s, 0, c]]).double()
    translation = torch.tensor([-1.2, 0.3, 0.2]).double()
    seen = [cloud @ camera.T, (cloud @ rotation.T + translation) @ camera.T]
    first, second = (view[:, :2] / view[:, 2:] for view in seen)
    return first.float(), second.float(), fundamental_from_pose(camera, camera, rotation, translation).float()


def of_layer(log_scores: Tensor, sure: bool = True) -> Assignment:
    """An assignment with random logits of partners."""
    generator = torch.Generator().manual_seed(0)
    logits = [torch.randn(1, count, generator=generator) for count in (*log_scores.shape, *log_scores.shape)]
    return Assignment(log_scores[None], *logits[:2], *(logits[2:] if sure else (None, None)))


@pytest.mark.parametrize("same", [True, False])
def test_a_warp_says_who_meets_and_who_is_alone(same: bool) -> None:
    first = points(60, 0)
    noise = torch.randn(60, 2, generator=torch.Generator().manual_seed(1))
    second = torch.cat([apply_homography(WARP, first) + noise * torch.linspace(0, 6, 60)[:, None], points(40, 2)])
    truth = by_homography(first, second, WARP, CONFIG, same=same)
    back = torch.linalg.inv(WARP.double())

    def error(i: int, j: int) -> float:
        a, b = first[i].double(), second[j].double()
        there, here = apply_homography(WARP.double(), a[None])[0], apply_homography(back, b[None])[0]
        return max(math.dist(there.tolist(), b.tolist()), math.dist(here.tolist(), a.tolist()))

    errors = [[error(i, j) for j in range(100)] for i in range(60)]
    columns = list(zip(*errors, strict=True))
    expected = [
        [i, j]
        for i, j in itertools.product(range(60), range(100))
        if errors[i][j] == min(errors[i]) == min(columns[j]) and errors[i][j] <= 3
    ]
    assert truth.matches.tolist() == expected
    assert 20 < len(expected) < 60
    assert truth.alone0.tolist() == [same and min(row) > 5 for row in errors]
    assert truth.alone1.tolist() == [same and min(column) > 5 for column in columns]
    assert truth.kind == ("self" if same else "real")


def test_points_at_infinity_have_no_partner() -> None:
    vanishing = torch.tensor([[1.0, 0, 0], [0, 1, 0], [-0.01, 0, 1]])
    truth = by_homography(
        torch.tensor([[100.0, 50.0], [10.0, 10.0]]), torch.tensor([[11.1, 11.1]]), vanishing, CONFIG, same=True
    )
    assert truth.alone0.tolist() == [True, False]
    assert truth.matches.tolist() == [[1, 0]]


def test_strangers_are_alone() -> None:
    truth = of_strangers(3, 2, torch.device("cpu"))
    assert truth.alone0.tolist() == [True] * 3
    assert truth.alone1.tolist() == [True] * 2
    assert truth.matches.shape == (0, 2)


def epipolar_truth(first: Tensor, second: Tensor, log_scores: Tensor) -> Truth:
    with ThreadPoolExecutor(1) as executor:
        return by_epipolar_geometry(first, second, log_scores, CONFIG, seed=0, executor=executor)()


def test_real_photos_say_what_their_own_geometry_confirms() -> None:
    """Right matches are confirmed, wrong proposals are not, and what is far off the lines is known to be wrong."""
    first, second, fundamental = two_views(120)
    proposals = torch.full((120, 120), -10.0)
    proposals[range(120), range(120)] = -0.1
    wrong = list(range(0, 40))
    proposals[wrong, wrong] = -10.0
    proposals[wrong, [wrong[(i + 13) % 40] for i in wrong]] = -0.5
    truth = epipolar_truth(first, second, proposals)
    right = {(i, i) for i in range(40, 120)}
    found = {(i, j) for i, j in truth.matches.tolist()}
    assert len(found & right) >= 76
    assert len(found - right) <= 4
    assert truth.wrong is not None
    assert not truth.alone0.any()
    distances = epipolar_distances(fundamental, first, second)
    agreement = (truth.wrong == (distances > CONFIG.far)).float().mean()
    assert agreement > 0.97


def test_matches_that_chance_gives_teach_nothing() -> None:
    first, second = points(100, 0), points(100, 1)
    truth = epipolar_truth(first, second, torch.full((100, 100), -9.0).fill_diagonal_(-0.1))
    assert len(truth.matches) == 0
    assert truth.wrong is None
    assert not truth.alone0.any()


def test_matches_that_hardly_move_teach_nothing() -> None:
    first, second, _ = two_views(100)
    near = first + (second - first) * 0.01
    truth = epipolar_truth(first, near, torch.full((100, 100), -9.0).fill_diagonal_(-0.1))
    assert len(truth.matches) == 0


def test_epipolar_distances_are_those_from_lines() -> None:
    first, second, fundamental = two_views(7)
    found = epipolar_distances(fundamental, first, second)
    for i, j in itertools.product(range(7), range(7)):
        x0, x1 = (torch.cat([p, p.new_ones(1)]).double() for p in (first[i], second[j]))
        line1, line0 = fundamental.double() @ x0, fundamental.double().T @ x1
        value = max(abs(float(line @ x)) / math.hypot(*line[:2].tolist()) for line, x in ((line1, x1), (line0, x0)))
        assert float(found[i, j]) == pytest.approx(value, rel=1e-3, abs=1e-3)


def test_the_loss_is_the_mean_negative_log_probability() -> None:
    log_scores = torch.randn(4, 5, generator=torch.Generator().manual_seed(3)) - 4
    layers = [of_layer(log_scores), of_layer(log_scores * 0.5, sure=False)]
    alone0, alone1 = torch.tensor([False, False, True, True]), torch.tensor([True, False, False, False, False])
    truth = Truth("self", torch.tensor([[0, 1], [1, 4]]), alone0, alone1)
    expected = 0.0
    for layer in layers:
        matched = -(layer.log_scores[0, 0, 1] + layer.log_scores[0, 1, 4]) / 2
        none0 = -sum(math.log(1 - torch.sigmoid(layer.matchable0[0, i])) for i in (2, 3)) / 2
        none1 = -math.log(1 - torch.sigmoid(layer.matchable1[0, 0]))
        expected += float(matched + (none0 + none1) / 2) / 2 / 2
    assert float(assignment_loss(layers, truth)) == pytest.approx(expected, rel=1e-5)


def test_probability_of_wrong_matches_costs() -> None:
    log_scores = torch.tensor([[-0.2, -3.0], [-2.5, -1.0]], requires_grad=True)
    wrong = torch.tensor([[False, True], [False, False]])
    nobody = torch.zeros(2, dtype=torch.bool)
    truth = Truth("real", torch.zeros(0, 2, dtype=torch.int64), nobody, nobody, wrong)
    loss = assignment_loss([of_layer(log_scores)], truth)
    assert float(loss.detach()) == pytest.approx(-math.log(1 - math.exp(-3.0)) / 2 / 2, rel=1e-5)
    loss.backward()
    assert log_scores.grad is not None
    assert (log_scores.grad != 0).tolist() == wrong.tolist()


def test_nothing_known_is_no_loss() -> None:
    nobody = torch.zeros(3, dtype=torch.bool)
    truth = Truth("real", torch.zeros(0, 2, dtype=torch.int64), nobody, nobody)
    assert float(assignment_loss([of_layer(torch.randn(3, 3))], truth)) == 0


def test_layers_learn_whether_the_last_one_agrees() -> None:
    certain, other = torch.full((3, 3), -9.0).fill_diagonal_(-0.1), torch.full((3, 3), -9.0)
    other[0, 0] = -0.1
    layers = [of_layer(certain), of_layer(other, sure=False)]
    target = torch.tensor([True, False, False])
    sure0, sure1 = layers[0].confident0, layers[0].confident1
    assert sure0 is not None
    assert sure1 is not None
    expected = [
        -math.log(torch.sigmoid(logit if agrees else -logit))
        for side in (sure0, sure1)
        for logit, agrees in zip(side[0], target, strict=True)
    ]
    assert float(confidence_loss(layers)) == pytest.approx(sum(expected) / 6, rel=1e-5)
    assert float(confidence_loss(layers[1:])) == 0


def test_the_figures_are_counts() -> None:
    tally = Tally()
    log_scores = torch.full((3, 3), -9.0).fill_diagonal_(-0.1)
    nobody = torch.zeros(3, dtype=torch.bool)
    note(tally, of_layer(log_scores), Truth("self", torch.tensor([[0, 0], [1, 2]]), nobody, nobody))
    note(tally, of_layer(log_scores), of_strangers(3, 3, torch.device("cpu")))
    figures = tally.figures()
    assert figures["precision/self"] == pytest.approx(1 / 3)
    assert figures["recall/self"] == pytest.approx(1 / 2)
    assert figures["matches/negative"] == 3
    assert "precision/real" not in figures
