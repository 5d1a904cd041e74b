"""The objective against recorded results of the published implementation, and against dense references."""

import itertools
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ripe.objective.cells import sample_cells, to_cells
from ripe.objective.contrastive import infonce_loss, margin_loss
from ripe.objective.inliers import fit_epipolar, hardly_moves, warp_inliers
from ripe.objective.policy import keypoint_cost, policy_loss
from ripe.objective.rewards import PairRewards, inlier_worth, pair_rewards
from ripe.recipe.config import CELL

REFERENCE = np.load(Path(__file__).parent / "data" / "reference_losses.npz")
CASES = list(itertools.product((1, 0), ("ignore", "punish"), (0, 1)))


def dense_grid(rewards: PairRewards) -> torch.Tensor:
    """The whole N0×N1 reward grid, cells that take no part included."""
    grid = torch.full((len(rewards.cells0), len(rewards.cells1)), rewards.background)
    grid[rewards.matches[:, 0], rewards.matches[:, 1]] = rewards.rewards
    return grid


def dense_policy_loss(pairs: list[tuple[torch.Tensor, torch.Tensor, PairRewards]]) -> torch.Tensor:
    """The published form: every entry of every grid, held at once."""
    entries = [
        (dense_grid(rewards) * (log_probs0[:, None] + log_probs1[None]))[rewards.cells0][:, rewards.cells1].flatten()
        for log_probs0, log_probs1, rewards in pairs
    ]
    return -torch.cat(entries).mean()


@pytest.mark.parametrize(("label", "padding", "selected_only"), CASES)
def test_objective_equals_the_published_implementation(label: int, padding: str, selected_only: int) -> None:
    def read(name: str) -> torch.Tensor:
        return torch.from_numpy(REFERENCE[f"label={label},padding={padding},selected_only={selected_only}/{name}"])

    log_probs = read("logprob1"), read("logprob2")
    selected = read("selected1"), read("selected2")
    inside = read("inside1"), read("inside2")
    cells = inside if padding == "ignore" else tuple(torch.ones_like(side) for side in inside)
    if selected_only:
        cells = tuple(part & chosen for part, chosen in zip(cells, selected, strict=True))
    matches, inliers = read("matches"), read("inliers")
    rewards = pair_rewards(
        matches,
        inliers,
        positive=bool(label),
        cells0=cells[0],
        cells1=cells[1],
        inside0=inside[0],
        inside1=inside[1],
        miss_penalty=float(REFERENCE["penalty"]),
    )
    price = -float(REFERENCE["keypoint_penalty"])
    descriptors = read("desc1"), read("desc2")
    descriptor_loss = margin_loss(*descriptors, matches[inliers], positive=bool(label))

    assert rewards.total.item() == pytest.approx(read("sum_of_rewards").item(), rel=1e-5)
    assert -policy_loss([(*log_probs, rewards)]).item() == pytest.approx(read("policy_objective").item(), rel=1e-4)
    assert -price * keypoint_cost([log_probs], [selected]).item() == pytest.approx(
        read("keypoint_objective").item(), rel=1e-5
    )
    assert descriptor_loss.item() == pytest.approx(read("descriptor_loss").item(), rel=1e-5)


@st.composite
def pair_batches(draw: st.DrawFn) -> list[tuple[torch.Tensor, torch.Tensor, PairRewards]]:
    """Pairs of different sizes, labels, padding and matches, in double precision."""
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    pairs = []
    for _ in range(draw(st.integers(1, 3))):
        sizes = draw(st.integers(1, 30)), draw(st.integers(1, 30))
        log_probs = [torch.rand(size, generator=generator, dtype=torch.float64).log() for size in sizes]
        cells = [torch.rand(size, generator=generator) < 0.7 for size in sizes]
        cells[0][0] = cells[1][0] = True
        rows, columns = (part.nonzero()[:, 0] for part in cells)
        count = draw(st.integers(0, min(len(rows), len(columns))))
        order = (torch.randperm(len(part), generator=generator)[:count] for part in (rows, columns))
        matches = torch.stack([part[index] for part, index in zip((rows, columns), order, strict=True)], dim=1)
        rewards = pair_rewards(
            matches,
            torch.rand(count, generator=generator) < 0.5,
            positive=draw(st.booleans()),
            cells0=cells[0],
            cells1=cells[1],
            inside0=torch.rand(sizes[0], generator=generator) < 0.8,
            inside1=torch.rand(sizes[1], generator=generator) < 0.8,
            worth=draw(st.floats(0, 1)),
            miss_penalty=draw(st.sampled_from([0.0, -1e-3])),
            outlier_reward=draw(st.sampled_from([None, -0.1])),
        )
        pairs.append((*(values.requires_grad_() for values in log_probs), rewards))
    return pairs


@settings(max_examples=60, deadline=None)
@given(pairs=pair_batches())
def test_closed_form_and_its_gradient_equal_the_dense_grid(
    pairs: list[tuple[torch.Tensor, torch.Tensor, PairRewards]],
) -> None:
    inputs = [values for pair in pairs for values in pair[:2]]
    closed, dense = policy_loss(pairs), dense_policy_loss(pairs)
    torch.testing.assert_close(closed, dense, check_dtype=False, rtol=1e-6, atol=1e-9)
    gradients = zip(
        torch.autograd.grad(closed, inputs, allow_unused=True),
        torch.autograd.grad(dense, inputs, allow_unused=True),
        strict=True,
    )
    for ours, theirs in gradients:
        torch.testing.assert_close(ours, theirs, check_dtype=False, rtol=1e-6, atol=1e-9)
    for _, _, rewards in pairs:
        grid = dense_grid(rewards)[rewards.cells0][:, rewards.cells1]
        torch.testing.assert_close(rewards.total, grid.sum(), rtol=1e-4, atol=1e-4)


def test_rewards_by_label_and_padding() -> None:
    everywhere = torch.ones(4, dtype=torch.bool)
    inside = torch.tensor([True, True, True, False])
    matches = torch.tensor([[0, 0], [1, 1], [3, 2]])
    inliers = torch.tensor([True, False, True])

    def rewards(positive: bool, **options: float) -> list[float]:
        grid = pair_rewards(
            matches,
            inliers,
            positive=positive,
            cells0=everywhere,
            cells1=everywhere,
            inside0=inside,
            inside1=everywhere,
            **options,
        )
        return grid.rewards.tolist()

    assert rewards(True) == [1, 0, -1]
    assert rewards(False) == [-1, 0, -1]
    assert rewards(True, worth=0.5, outlier_reward=-0.25, miss_penalty=-0.125) == [0.5, -0.25, -1]
    assert rewards(False, outlier_reward=-0.25, miss_penalty=-0.125) == [-1, 0.125, -1]


def test_worth_of_an_inlier() -> None:
    assert inlier_worth(3, 12, "inlier") == 1
    assert inlier_worth(3, 12, "inlier_ratio") == 0.25
    assert inlier_worth(3, 12, "inlier+inlier_ratio", ratio_share=0.4) == pytest.approx(0.6 + 0.4 * 0.25)
    assert inlier_worth(0, 0, "inlier_ratio") == 0


def test_a_batch_without_any_match_has_a_finite_gradient() -> None:
    log_probs = [torch.zeros(5, requires_grad=True) for _ in range(2)]
    none = torch.zeros(5, dtype=torch.bool)
    empty = PairRewards(torch.zeros((0, 2), dtype=torch.int64), torch.zeros(0), 0.0, none, none)
    loss = policy_loss([(*log_probs, empty)]) + keypoint_cost([tuple(log_probs)], [(none, none)])
    loss.backward()
    assert loss.item() == 0
    assert all(values.grad is not None and (values.grad == 0).all() for values in log_probs)


def test_reinforce_raises_rewarded_choices_and_lowers_punished_ones() -> None:
    log_probs = [torch.full((3,), -1.0, requires_grad=True) for _ in range(2)]
    everywhere = torch.ones(3, dtype=torch.bool)
    grid = PairRewards(torch.tensor([[0, 0], [1, 1]]), torch.tensor([1.0, -0.1]), 0.0, everywhere, everywhere)
    policy_loss([(*log_probs, grid)]).backward()
    for values in log_probs:
        assert values.grad[0] < 0 < values.grad[1]
        assert values.grad[2] == 0


def test_cells_run_row_by_row() -> None:
    image = torch.arange(16 * 24).reshape(1, 16, 24)
    cells = to_cells(image)
    for cell, (row, column) in enumerate(itertools.product(range(2), range(3))):
        block = image[0, 8 * row : 8 * row + 8, 8 * column : 8 * column + 8]
        assert torch.equal(cells[0, cell], block.flatten())


def test_samples_follow_the_policy() -> None:
    """Frequencies and log-probabilities of draws from one cell against probabilities worked out by hand."""
    logits = torch.full((1, 1, CELL, CELL), -1e9)
    logits[0, 0, 2, 3], logits[0, 0, 5, 1] = 1.0, -0.5
    draws = 4000
    samples = sample_cells(
        logits.expand(draws, -1, -1, -1),
        torch.ones(draws, CELL, CELL, dtype=torch.bool),
        torch.Generator().manual_seed(0),
        border=0,
    )
    first = (samples.keypoints[:, 0] == torch.tensor([3.0, 2.0])).all(dim=1)
    second = (samples.keypoints[:, 0] == torch.tensor([1.0, 5.0])).all(dim=1)
    assert (first | second).all()
    choose = torch.tensor([1.0, -0.5]).softmax(0)
    accept = torch.tensor([1.0, -0.5]).sigmoid()
    assert first.float().mean().item() == pytest.approx(choose[0].item(), abs=0.03)
    assert samples.selected[first].float().mean().item() == pytest.approx(accept[0].item(), abs=0.03)
    taken = first & samples.selected[:, 0]
    assert samples.log_probs[taken].unique().item() == pytest.approx((choose[0] * accept[0]).log().item(), abs=1e-5)
    left = second & ~samples.selected[:, 0]
    expected = (choose[1] * (1 - accept[1])).log().item()
    assert samples.log_probs[left].unique().item() == pytest.approx(expected, abs=1e-5)
    bernoulli = -(accept * accept.log() + (1 - accept) * (1 - accept).log())
    categorical = -(choose * choose.log()).sum()
    assert samples.entropies[first].unique().item() == pytest.approx((categorical + bernoulli[0]).item(), abs=1e-4)


def test_border_and_padding_are_never_selected_or_inside() -> None:
    logits = torch.full((2, 1, 64, 64), 5.0)
    valid = torch.ones(2, 64, 64, dtype=torch.bool)
    valid[:, :, 41] = False
    samples = sample_cells(logits, valid, torch.Generator().manual_seed(1), border=16)
    x, y = samples.keypoints.unbind(dim=-1)
    near = (x < 16) | (x >= 48) | (y < 16) | (y >= 48)
    assert not samples.selected[near].any()
    assert samples.selected.any()
    assert torch.equal(samples.inside, ~((x >= 40) & (x < 48)))


def test_equal_generators_draw_equal_samples() -> None:
    logits = torch.randn(1, 1, 32, 32, generator=torch.Generator().manual_seed(2))
    valid = torch.ones(1, 32, 32, dtype=torch.bool)
    one, two, other = (sample_cells(logits, valid, torch.Generator().manual_seed(seed)) for seed in (7, 7, 8))
    assert torch.equal(one.keypoints, two.keypoints)
    assert not torch.equal(one.keypoints, other.keypoints)


def test_infonce_equals_a_loop() -> None:
    generator = torch.Generator().manual_seed(0)
    queries, targets, candidates = (
        torch.nn.functional.normalize(torch.randn(n, 8, generator=generator), dim=1) for n in (5, 5, 12)
    )
    excluded = torch.rand(5, 12, generator=generator) < 0.3
    losses = []
    for k in range(5):
        right = np.exp(float(queries[k] @ targets[k]) / 0.07)
        wrong = sum(np.exp(float(queries[k] @ candidates[n]) / 0.07) for n in range(12) if not excluded[k, n])
        losses.append(-np.log(right / (right + wrong)))
    assert infonce_loss(queries, targets, candidates, excluded).item() == pytest.approx(np.mean(losses), rel=1e-4)


def test_infonce_with_every_candidate_excluded_is_zero_with_finite_gradients() -> None:
    descriptors = torch.nn.functional.normalize(torch.randn(3, 8), dim=1).requires_grad_()
    loss = infonce_loss(descriptors, descriptors, descriptors, torch.ones(3, 3, dtype=torch.bool))
    loss.backward()
    assert loss.item() == 0
    assert descriptors.grad.isfinite().all()


def test_losses_without_matches_are_zero_with_gradients() -> None:
    descriptors = torch.randn(4, 8, requires_grad=True)
    nothing = torch.zeros((0, 2), dtype=torch.int64)
    empty = descriptors[:0]
    loss = margin_loss(descriptors, descriptors, nothing, positive=True) + infonce_loss(
        empty, empty, descriptors, torch.zeros(0, 4, dtype=torch.bool)
    )
    loss.backward()
    assert loss.item() == 0
    assert (descriptors.grad == 0).all()


def two_views(outliers: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Points of a synthetic scene in two cameras; the last `outliers` matches are random."""
    rng = np.random.default_rng(0)
    points = rng.uniform([-2, -2, 4], [2, 2, 8], (100, 3))
    angle = 0.2
    rotation = np.array([[np.cos(angle), 0, np.sin(angle)], [0, 1, 0], [-np.sin(angle), 0, np.cos(angle)]])
    second = points @ rotation.T + [0.8, 0.1, 0.0]
    projected = [300 * view[:, :2] / view[:, 2:] + 128 for view in (points, second)]
    projected[1][len(points) - outliers :] = rng.uniform(0, 256, (outliers, 2))
    return torch.from_numpy(projected[0]), torch.from_numpy(projected[1])


def test_epipolar_inliers_are_found_and_seeded() -> None:
    points = two_views(outliers=40)
    few = points[0][:5], points[1][:5]
    with ThreadPoolExecutor(2) as executor:
        first, again, nothing = (
            fit_epipolar(executor, *chosen, max_error=1.0, seed=3) for chosen in (points, points, few)
        )
        inliers = first.result().inliers
        assert inliers[:60].all()
        assert inliers[60:].float().mean() < 0.3
        assert torch.equal(again.result().inliers, inliers)
        assert nothing.result().inliers.tolist() == [False] * 5


def test_warp_inliers_and_motion() -> None:
    shift = torch.tensor([[1.0, 0, 10], [0, 1, 0], [0, 0, 1]])
    points0 = torch.tensor([[20.0, 30.0], [50.0, 60.0], [90.0, 10.0]])
    points1 = points0 + torch.tensor([[10.0, 0.0], [12.9, 0.0], [13.1, 0.0]])
    assert warp_inliers(points0, points1, shift, max_error=3.0).tolist() == [True, True, False]
    everything = torch.ones(3, dtype=torch.bool)
    assert hardly_moves(points0, points0 + 2, everything, min_motion=8)
    assert not hardly_moves(points0, points1, everything, min_motion=8)
    assert not hardly_moves(points0, points0, ~everything, min_motion=8)
