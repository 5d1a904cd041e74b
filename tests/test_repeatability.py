"""The closed form of repeatability against sums over all pairs of pixels, and against sampling."""

import numpy as np
import pytest
import torch

from ripe.geometry.homography import apply_homography
from ripe.objective.cells import from_cells, sample_cells, to_cells
from ripe.objective.repeatability import FLOOR, repeatability_loss

SIZE = (24, 32)
CELLS = SIZE[0] * SIZE[1] // 64
EVERYWHERE = torch.ones(1, CELLS, dtype=torch.bool)


def random_positions(seed: int, sharpness: float = 2.0) -> torch.Tensor:
    logits = sharpness * torch.randn(1, CELLS, 64, generator=torch.Generator().manual_seed(seed))
    return logits.log_softmax(dim=-1)


def shift(x: float, y: float) -> torch.Tensor:
    return torch.tensor([[[1.0, 0.0, x], [0.0, 1.0, y], [0.0, 0.0, 1.0]]])


def quarter_turn() -> torch.Tensor:
    """(x, y) to (−y + 26, x − 3): whole pixels land on whole pixels."""
    return torch.tensor([[[0.0, -1.0, 26.0], [1.0, 0.0, -3.0], [0.0, 0.0, 1.0]]])


def by_all_pairs_of_pixels(
    first: torch.Tensor, second: torch.Tensor, warp: torch.Tensor, spread: float
) -> torch.Tensor:
    """Sum over each position of a cell and each pixel of the other view; far pixels and those outside count nothing."""
    height, width = SIZE
    pixels = torch.stack(torch.meshgrid(torch.arange(width), torch.arange(height), indexing="xy"), dim=-1)
    pixels = pixels.reshape(-1, 2).double()
    difference = apply_homography(warp[0].double(), pixels)[:, None] - pixels[None]
    weight = torch.exp(-difference.square().sum(-1) / (2 * spread**2))
    weight[difference.abs().amax(-1) > int(3 * spread + 0.5)] = 0
    warped = apply_homography(warp[0].double(), pixels)
    outside = (warped < 0).any(1) | (warped[:, 0] > width - 1) | (warped[:, 1] > height - 1)
    weight[outside] = 0
    density = from_cells(second.double().exp(), SIZE).reshape(-1)
    met = (weight @ density).reshape(1, height, width)
    probability = (first.double().exp() * to_cells(met)).sum(-1)
    return -(probability + FLOOR).log().mean()


@pytest.mark.parametrize("warp", [shift(0, 0), shift(5, -3), quarter_turn()])
@pytest.mark.parametrize("spread", [0.7, 1.5])
def test_equals_the_sum_over_all_pairs_of_pixels(warp: torch.Tensor, spread: float) -> None:
    first, second = random_positions(0), random_positions(1)
    loss = repeatability_loss(first, second, warp, EVERYWHERE, SIZE, spread)
    assert float(loss) == pytest.approx(float(by_all_pairs_of_pixels(first, second, warp, spread)), rel=1e-5)


def test_is_what_sampling_gives_on_average() -> None:
    logits = 3 * torch.randn(1, 1, *SIZE, generator=torch.Generator().manual_seed(0))
    generator = torch.Generator().manual_seed(1)
    valid = torch.ones(1, *SIZE, dtype=torch.bool)
    drawn = sample_cells(logits.expand(4000, -1, -1, -1), valid.expand(4000, -1, -1), generator)
    first, second = drawn.keypoints[:2000], drawn.keypoints[2000:]
    distance = torch.cdist(first + torch.tensor([2.0, 1.0]), second)
    counted = torch.exp(-distance.square() / 2).sum(-1).mean(0)
    # A cell whose keypoints leave the view, or that lies within the kernel's reach of its border, is another matter.
    log_positions = drawn.log_positions[:1]
    for cell in (0, 1, 4, 5):
        part = torch.zeros_like(EVERYWHERE)
        part[0, cell] = True
        loss = repeatability_loss(log_positions, log_positions, shift(2, 1), part, SIZE, 1.0)
        assert float((-loss).exp() - FLOOR) == pytest.approx(float(counted[cell]), abs=0.04)


def test_is_least_for_the_same_point_and_teaches_to_meet_there() -> None:
    """One view is sure of its keypoint; gradient descent brings the other's to the same point of the scene."""
    sure = torch.full((1, CELLS, 64), -20.0)
    sure[..., 3 * 8 + 2] = 0  # (2, 3) of every cell
    sure = sure.log_softmax(dim=-1)
    assert float(repeatability_loss(sure, sure, shift(0, 0), EVERYWHERE, SIZE, 1.0)) == pytest.approx(
        -np.log(1 + FLOOR), abs=1e-4
    )
    learner = torch.zeros(1, CELLS, 64, requires_grad=True)
    optimizer = torch.optim.Adam([learner], lr=0.3)
    for _ in range(40):
        optimizer.zero_grad()
        loss = repeatability_loss(learner.log_softmax(-1), sure, shift(1, 2), EVERYWHERE, SIZE, 1.0)
        loss.backward()
        optimizer.step()
    assert learner.argmax(dim=-1)[0, 5] == 1 * 8 + 1  # (1, 1) goes to (2, 3)


def test_without_cells_it_is_zero_with_a_gradient() -> None:
    first = random_positions(0).requires_grad_()
    loss = repeatability_loss(first, random_positions(1), shift(0, 0), ~EVERYWHERE, SIZE, 1.0)
    loss.backward()
    assert float(loss.detach()) == 0
    assert first.grad is not None
    assert not first.grad.any()


def test_points_at_infinity_have_finite_gradients() -> None:
    vanishing = torch.tensor([[[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [1 / 16, 0.0, -1.0]]])
    first = random_positions(0).requires_grad_()
    repeatability_loss(first, random_positions(1), vanishing, EVERYWHERE, SIZE, 1.0).backward()
    assert first.grad is not None
    assert first.grad.isfinite().all()


def test_from_cells_is_the_inverse_of_to_cells() -> None:
    maps = torch.rand(2, *SIZE)
    assert torch.equal(from_cells(to_cells(maps), SIZE), maps)
