"""Verdicts on fitted models: against a direct count of false alarms, closed forms, and matches made by chance."""

import math
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import skimage.data
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import comb

import ripe
from ripe.attempts import attempt_match
from ripe.features import TwoViewGeometry
from ripe.filters import MatchFilter
from ripe.geometry.epipolar import fundamental_from_pose, sampson_distance
from ripe.geometry.homography import apply_homography
from ripe.geometry.verdict import MINIMAL, log10_nfa

CAMERA = torch.tensor([[500.0, 0, 320], [0, 500, 240], [0, 0, 1]], dtype=torch.float64)
KINDS = {"fundamental": 1.0, "homography": 2.0, "essential": 1.0}


def anywhere(count: int, generator: torch.Generator) -> torch.Tensor:
    return torch.rand(count, 2, generator=generator, dtype=torch.float64) * torch.tensor([640.0, 480.0])


def judged(kind: str, points0: torch.Tensor, points1: torch.Tensor) -> ripe.Verdict:
    options = {"intrinsics": (CAMERA, CAMERA)} if kind == "essential" else {}
    geometry = ripe.estimate_geometry(kind, points0, points1, max_error=KINDS[kind], **options)
    return ripe.judge(geometry, points0, points1)


def related(kind: str, count: int, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Matches without error: of a plane, or of points in space seen by two cameras."""
    points0 = anywhere(count, generator)
    if kind == "homography":
        plane = torch.tensor([[1.1, 0.1, -20], [-0.05, 0.9, 15], [1e-4, -2e-4, 1]], dtype=torch.float64)
        return points0, apply_homography(plane, points0)
    depth = 3 + 5 * torch.rand(count, 1, generator=generator, dtype=torch.float64)
    rays = torch.cat([points0, torch.ones(count, 1, dtype=torch.float64)], dim=1) @ torch.linalg.inv(CAMERA).mT
    seen = (rays * depth + torch.tensor([0.8, 0.1, -0.2], dtype=torch.float64)) @ CAMERA.mT
    return points0, seen[:, :2] / seen[:, 2:]


@given(st.integers(10, 300), st.floats(0, 1), st.floats(1e-4, 0.5), st.sampled_from(sorted(MINIMAL)))
def test_the_number_of_false_alarms_is_the_formulas(n: int, share: float, p: float, kind: str) -> None:
    m, models = MINIMAL[kind]
    k = max(m + 1, round(share * n))
    direct = models * (n - m) * comb(n, k, exact=True) * comb(k, m, exact=True)
    assert log10_nfa(kind, n, k, p) == pytest.approx(math.log10(direct) + (k - m) * math.log10(p), rel=1e-6, abs=1e-6)


@given(st.integers(20, 500), st.floats(1e-4, 0.3))
def test_more_inliers_are_never_worth_less(n: int, p: float) -> None:
    """Beyond the share that chance gives."""
    first = max(8, math.ceil(2 * p * n) + 8)
    values = [log10_nfa("fundamental", n, k, p) for k in range(first, n + 1)]
    assert all(later <= earlier + 1e-9 for earlier, later in pairwise(values))


@pytest.mark.parametrize("kind", KINDS)
def test_related_points_are_matched_among_many_wrong_ones(kind: str) -> None:
    generator = torch.Generator().manual_seed(0)
    right0, right1 = related(kind, 120, generator)
    wrong0, wrong1 = anywhere(300, generator), anywhere(300, generator)
    verdict = judged(kind, torch.cat([right0, wrong0]), torch.cat([right1, wrong1]))
    assert verdict
    assert str(verdict) == "matched"
    assert verdict.log10_nfa < -20
    assert verdict.inlier_share == pytest.approx(120 / 420, abs=0.05)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("crowded", [False, True])
def test_random_points_are_never_matched(kind: str, crowded: bool) -> None:
    """Also where they crowd together, which gives many inliers."""
    names = []
    for seed in range(20):
        generator = torch.Generator().manual_seed(seed)
        points0, points1 = anywhere(300, generator), anywhere(300, generator)
        if crowded:
            points0 = torch.tensor([320.0, 240.0]) + 0.05 * (points0 - torch.tensor([320.0, 240.0]))
        names.append(judged(kind, points0, points1).name)
    assert "matched" not in names
    assert names.count("chance") >= 18


def test_matches_that_were_chosen_by_how_they_lie_are_judged_by_all() -> None:
    """A filter that keeps what agrees on one homography makes a perfect pair of any two photos."""
    generator = torch.Generator().manual_seed(5)
    points0, points1 = anywhere(2000, generator), anywhere(2000, generator)
    chosen = (points0 - points1).norm(dim=1) < 30
    right0, right1 = related("homography", 60, generator)
    for first, second, together in (
        (points0[chosen], points1[chosen], "chance"),
        (right0, right1, "matched"),
    ):
        geometry = ripe.estimate_geometry("homography", first, second, max_error=30.0)
        everything = torch.cat([points0, right0]), torch.cat([points1, right1])
        assert ripe.judge(geometry, first, second).name == "matched"
        verdict = ripe.judge(geometry, first, second, evidence=everything)
        assert verdict.name == together
        assert verdict.inlier_share == geometry.num_inliers / len(first)
    nothing = torch.zeros(0, 2), torch.zeros(0, 2)
    assert ripe.judge(geometry, right0, right1, evidence=nothing).name == "chance"


@pytest.mark.parametrize("how", [MatchFilter("mutual", 0.8), MatchFilter("lightglue")], ids=["ratio", "lightglue"])
def test_the_same_evidence_counts_whatever_the_filter(photos: list[Path], how: MatchFilter) -> None:
    """As if the model had been fitted to the mutual nearest neighbours."""
    features0, features1 = ripe.load(device="cpu").extract(photos, max_keypoints=512)
    found = attempt_match(features0, features1, geometry="fundamental", max_error=1.0, how=how)
    assert found.geometry is not None
    assert found.verdict
    mutual = ripe.match(features0, features1).points(features0, features1)
    assert len(found.matches) < len(mutual[0])
    model = found.geometry.model
    inliers = sampson_distance(model, *(side.double() for side in mutual)) <= 1.0
    assert found.verdict.log10_nfa == ripe.judge(TwoViewGeometry("fundamental", 1.0, model, inliers), *mutual).log10_nfa


def test_a_failed_fit_is_chance() -> None:
    points = torch.rand(5, 2)
    verdict = ripe.judge(ripe.estimate_geometry("fundamental", points, points, max_error=1.0), points, points)
    assert verdict.name == "chance"
    assert not verdict
    assert str(verdict) == "no better than chance"


def test_chance_is_counted_on_the_points_themselves() -> None:
    """For a known model: the share of all joined pairs that agree with it."""
    generator = torch.Generator().manual_seed(3)
    points0, points1 = anywhere(60, generator), anywhere(60, generator)
    fundamental = fundamental_from_pose(CAMERA, CAMERA, torch.eye(3).double(), torch.tensor([1.0, 0, 0]).double())
    agrees = (points0[:, None, 1] - points1[None, :, 1]).abs() / 2**0.5 <= 5.0
    agrees.fill_diagonal_(False)
    geometry = TwoViewGeometry("fundamental", 5.0, fundamental, torch.arange(60) < 10)
    share = ripe.judge(geometry, points0, points1).chance_share
    assert share == pytest.approx(float(agrees.sum()) / (60 * 59), rel=0.35)


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 40), st.sampled_from(sorted(KINDS)), st.integers(0, 100))
def test_any_number_of_points_gets_a_verdict(count: int, kind: str, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    verdict = judged(kind, anywhere(count, generator), anywhere(count, generator))
    assert 0 <= verdict.inlier_share <= 1
    assert 0 <= verdict.chance_share <= 1
    assert not math.isnan(verdict.log10_nfa)


def test_points_that_the_model_was_not_fitted_to_are_refused() -> None:
    geometry = TwoViewGeometry.failed("homography", 2.0, 7)
    with pytest.raises(ValueError, match="fitted to 7 matches; there are 3"):
        ripe.judge(geometry, torch.rand(3, 2), torch.rand(3, 2))


def test_photos_of_one_thing_are_matched_and_others_are_not(photos: list[Path]) -> None:
    model = ripe.load(device="cpu")
    others = [np.ascontiguousarray(photo()) for photo in (skimage.data.astronaut, skimage.data.coffee)]
    left, right, astronaut, coffee = model.extract([*photos, *others], max_keypoints=1024)
    for first, second, expected in (
        (left, right, {"matched"}),
        (left, astronaut, {"chance"}),
        (astronaut, coffee, {"chance"}),
    ):
        points = ripe.match(first, second).points(first, second)
        assert {judged(kind, *points).name for kind in ("fundamental", "homography")} <= expected
