"""The distances between the same keypoints of two views, against peaks whose places are known."""

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from made_sets import astronaut

import ripe
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


def gradients(scores0: torch.Tensor, scores1: torch.Tensor, warp: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Of the sum of all distances, with respect to both maps; everything counts as photo."""
    first, second = (scores.detach().clone().requires_grad_() for scores in (scores0, scores1))
    everywhere = torch.ones(scores0.shape, dtype=torch.bool)
    localisation_errors(first, second, everywhere, everywhere, warp).sum().backward()
    assert first.grad is not None
    assert second.grad is not None
    return first.grad, second.grad


def dome(x: float, y: float, curvature: float) -> torch.Tensor:
    """A paraboloid of that curvature around (x, y)."""
    rows, columns = torch.meshgrid(torch.arange(SIZE[0]), torch.arange(SIZE[1]), indexing="ij")
    return -curvature / 2 * ((columns - x).square() + (rows - y).square())


@pytest.mark.parametrize("curvature", [2e-6, 1e-4, 0.01, 0.1, 1.0, 10.0])
def test_a_flat_peak_teaches_no_more_than_a_sharp_one(curvature: float) -> None:
    views = dome(40.2, 30.1, curvature), dome(40.4, 29.8, curvature)
    distances = localisation_errors(*views, EVERYWHERE, EVERYWHERE, shift(0, 0))
    # What is measured is not what is weighted.
    assert distances.tolist() == pytest.approx([0.36], abs=0.01)
    strongest = max(gradient.abs().max() for gradient in gradients(*views, shift(0, 0)))
    assert 0 < strongest <= 1


@st.composite
def score_maps(draw: st.DrawFn) -> torch.Tensor:
    """Maps of noise, of steps (plateaus) and of peaks, of any strength, a part of them flat or almost flat."""
    generator = torch.Generator().manual_seed(draw(st.integers(0, 999)))
    noise = torch.randn(SIZE, generator=generator)
    kind = draw(st.sampled_from(["noise", "steps", "peaks", "flat"]))
    scores = {"noise": noise, "steps": noise.round(), "peaks": bumps(PEAKS), "flat": torch.zeros(SIZE)}[kind]
    scores = scores * 10 ** draw(st.floats(-8, 3))
    scores[:, : draw(st.integers(0, SIZE[1]))] *= 10 ** draw(st.floats(-8, 0))
    return scores[:32, :40] + draw(st.sampled_from([0.0, -20.0, 300.0]))


@settings(deadline=None, max_examples=60)
@given(score_maps(), score_maps(), st.floats(-3, 3), st.floats(-3, 3))
def test_gradients_are_bounded_whatever_the_maps_are(
    first: torch.Tensor, second: torch.Tensor, x: float, y: float
) -> None:
    ours, others = gradients(first, second, shift(x, y))
    # A peak's weighted fit moves by at most 0.5 + 2·√½ per score, and nine pixels' windows hold a score. A keypoint of
    # the second view is the nearest of at most 25 within reach.
    most = 9 * (0.5 + 2 * 0.5**0.5)
    assert ours.isfinite().all()
    assert ours.abs().max() <= most
    assert others.isfinite().all()
    assert others.abs().max() <= 25 * most


def test_a_white_wall_teaches_less_than_what_stands_before_it() -> None:
    """The shipped weights on a photo whose left half is blown out, turned a little and compressed as a camera would."""
    photo = astronaut()[:256, 100:356].copy()
    photo[:, :128] = 255
    warp = np.vstack([cv2.getRotationMatrix2D((128, 128), 7, 1.05), [0, 0, 1]])
    turned = cv2.warpPerspective(photo, warp, (256, 256), borderMode=cv2.BORDER_REFLECT_101)
    turned = cv2.imdecode(cv2.imencode(".jpg", turned, [cv2.IMWRITE_JPEG_QUALITY, 70])[1], cv2.IMREAD_COLOR)
    images = torch.stack([torch.from_numpy(view).permute(2, 0, 1) / 255 for view in (photo, turned)])
    with torch.no_grad():
        scores = ripe.load(device="cpu")(images).logits[:, 0]
    strength = gradients(*scores, torch.from_numpy(warp).float())[0].abs()
    assert strength[:, :120].sum() < 0.7 * strength[:, 136:].sum()
