"""The distances between the same keypoints of two views, against peaks whose places are known."""

import pytest
import torch

from ripe.objective.localisation import REACH, localisation_errors

SIZE = (64, 80)
EVERYWHERE = torch.ones(SIZE, dtype=torch.bool)
PEAKS = torch.tensor([[20.3, 15.1], [41.8, 30.6], [60.0, 50.45], [12.2, 47.7]])


def bumps(peaks: torch.Tensor, width: float = 2.0) -> torch.Tensor:
    """A score map with a maximum at each of K×2 places (x, y), 0 far from them."""
    y, x = torch.meshgrid(torch.arange(SIZE[0]), torch.arange(SIZE[1]), indexing="ij")
    distance = (x - peaks[:, 0, None, None]).square() + (y - peaks[:, 1, None, None]).square()
    return torch.exp(-distance / (2 * width**2)).sum(dim=0)


def shift(x: float, y: float) -> torch.Tensor:
    return torch.tensor([[1.0, 0.0, x], [0.0, 1.0, y], [0.0, 0.0, 1.0]])


def near(peaks: torch.Tensor) -> torch.Tensor:
    """Where maxima are looked for: the flat rest of the map is full of them."""
    return bumps(peaks) > 0.5


def test_distances_are_those_of_the_peaks() -> None:
    moved = PEAKS + torch.tensor([3.0, -2.0]) + torch.tensor([[0.5, 0.0], [0.0, -0.7], [0.3, 0.4], [-1.0, 0.0]])
    errors = localisation_errors(bumps(PEAKS), bumps(moved), near(PEAKS), near(moved), shift(3, -2))
    # A quadratic is not the peak of a Gaussian to the last digit.
    assert sorted(errors.tolist()) == pytest.approx([0.5, 0.5, 0.7, 1.0], abs=0.05)


def test_what_is_farther_apart_than_the_reach_is_not_the_same_keypoint() -> None:
    far = PEAKS + torch.tensor([REACH + 0.5, 0.0])
    assert len(localisation_errors(bumps(PEAKS), bumps(far), near(PEAKS), near(far), shift(0, 0))) == 0


def test_keypoints_beyond_the_photo_are_left_out() -> None:
    left = EVERYWHERE.clone()
    left[:, 30:] = False
    both = near(PEAKS) & left
    assert len(localisation_errors(bumps(PEAKS), bumps(PEAKS), both, near(PEAKS), shift(0, 0))) == 2
    nothing = torch.zeros_like(EVERYWHERE)
    assert len(localisation_errors(bumps(PEAKS), bumps(PEAKS), nothing, near(PEAKS), shift(0, 0))) == 0


def test_descent_brings_the_peaks_together() -> None:
    other = PEAKS + 0.6
    scores = bumps(PEAKS).requires_grad_()
    optimizer = torch.optim.SGD([scores], lr=0.05)
    errors = []
    for _ in range(60):
        optimizer.zero_grad()
        distances = localisation_errors(scores, bumps(other), near(PEAKS), near(other), shift(0, 0))
        distances.mean().backward()
        optimizer.step()
        errors.append(float(distances.detach().mean()))
    assert errors[0] == pytest.approx(0.6 * 2**0.5, abs=0.05)
    assert errors[-1] < 0.6 * errors[0]


def test_flat_maps_and_points_at_infinity_have_finite_gradients() -> None:
    vanishing = torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [1 / 16, 0.0, -1.0]])
    for scores in (torch.zeros(SIZE), bumps(PEAKS)):
        scores = scores.requires_grad_()
        localisation_errors(scores, scores, EVERYWHERE, EVERYWHERE, vanishing).sum().backward()
        assert scores.grad is not None
        assert scores.grad.isfinite().all()
