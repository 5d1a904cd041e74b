"""Whether the inliers of a fitted model are more than chance gives: an a-contrario test.

Two unrelated photos have matches, too, and RANSAC always finds a model that some of them agree with. The test asks how
many models with so many inliers are to be expected among matches that join points at random, the number of false alarms

    NFA = models · (n − m) · C(n, k) · C(k, m) · p^(k − m)

for k inliers of n matches, where m matches determine up to `models` models, and p is the probability that a match of
random points agrees with the model (Moisan and Stival, "A probabilistic criterion to detect rigid point matches between
two images and estimate the fundamental matrix", IJCV 2004). They take p from the images' areas; here it is counted on
the matched points themselves, joined anew at random, so that points that crowd together are no evidence.
"""

import math
from dataclasses import dataclass, replace
from typing import Literal, Self

import torch
from torch import Tensor

from ripe import checks
from ripe.features import GeometryKind, TwoViewGeometry
from ripe.geometry.epipolar import sampson_distance
from ripe.geometry.homography import apply_homography
from ripe.geometry.pose import CalibratedGeometry

# How many matches determine a model, and how many models they determine at most.
MINIMAL: dict[GeometryKind, tuple[int, int]] = {"fundamental": (7, 3), "homography": (4, 1), "essential": (5, 10)}
# Powers of ten of the NFA: below the first, chance gives less than one such model in a hundred pairs of photos; the
# second is passed by chance in about one of a hundred unrelated pairs. docs/benchmarks.md has the rates that were
# measured.
MATCHED_BELOW = -2.0
DOUBTFUL_BELOW = 5.0
RANDOM_PAIRS = 200_000
Name = Literal["matched", "doubtful", "chance"]
WORDS: dict[Name, str] = {"matched": "matched", "doubtful": "doubtful", "chance": "no better than chance"}


class UnrelatedPhotosError(ValueError):
    """Photos that were to be joined have no more in common than chance gives."""


@dataclass(frozen=True)
class Verdict:
    """What the inliers of a pair of images are worth; true if the pair is matched.

    Where a pair was tried in several ways and the best result kept, `best_of` keeps the rate of false alarms.

    Attributes:
        name: "matched", "doubtful" (more inliers than chance mostly gives) or "chance" (no better than chance).
        log10_nfa: power of ten of the number of such models that chance is expected to give; infinite without a model.
        inlier_share: inliers by matches, 0..1.
        chance_share: share of random matches that agree with the model, 0..1.
    """

    name: Name
    log10_nfa: float
    inlier_share: float
    chance_share: float

    def best_of(self, tries: int) -> Self:
        """The verdict on the best of several tries, of which chance would have had as many; `log10_nfa` grows so."""
        nfa = self.log10_nfa + math.log10(tries)
        return replace(self, name=_name(nfa), log10_nfa=nfa)

    def __bool__(self) -> bool:
        return self.name == "matched"

    def __str__(self) -> str:
        return WORDS[self.name]


def judge(
    geometry: TwoViewGeometry,
    points0: Tensor,
    points1: Tensor,
    *,
    evidence: tuple[Tensor, Tensor] | None = None,
    seed: int = 0,
) -> Verdict:
    """Tell whether a model that was fitted to matches is more than chance gives.

    The test takes matches for drawn at random. Those that a filter has chosen by how they lie to each other, or that
    are few because the others were left out, agree by more than chance in photos that share nothing, too. Of such
    matches the model is judged by all mutual nearest neighbours, its `evidence`.

    Args:
        geometry: what `estimate_geometry` fitted.
        points0: K×2 matched points of the first image, in pixels, to which it was fitted.
        points1: K×2 matched points of the second image.
        evidence: L×2 matched points of both images that `log10_nfa` is computed of; None for those that it was
            fitted to, which the shares are of in any case.
        seed: of the random matches that it is compared with.

    Raises:
        ValueError: the points are not as many as the geometry has been fitted to, or are no (x, y).
    """
    matched = checks.matched_points(points0, points1)
    if len(matched[0]) != len(geometry.inliers):
        raise ValueError(f"the geometry was fitted to {len(geometry.inliers)} matches; there are {len(matched[0])}")
    if geometry.model is None:
        return Verdict("chance", math.inf, 0.0, 0.0)
    chance = _chance_share(geometry, torch.from_numpy(matched[0]), torch.from_numpy(matched[1]), seed)
    if evidence is None:
        nfa = log10_nfa(geometry.kind, len(matched[0]), geometry.num_inliers, chance)
    else:
        nfa = _nfa_of_others(geometry, evidence, seed)
    return Verdict(_name(nfa), nfa, geometry.num_inliers / len(matched[0]), chance)


def _nfa_of_others(geometry: TwoViewGeometry, evidence: tuple[Tensor, Tensor], seed: int) -> float:
    """`log10_nfa` of a model among matches to which it was not fitted."""
    points0, points1 = (torch.from_numpy(points) for points in checks.matched_points(*evidence))
    if len(points0) == 0:
        return math.inf
    inliers = int((_errors(geometry, points0, points1) <= geometry.max_error).sum())
    return log10_nfa(geometry.kind, len(points0), inliers, _chance_share(geometry, points0, points1, seed))


def _name(nfa: float) -> Name:
    return "matched" if nfa < MATCHED_BELOW else "doubtful" if nfa < DOUBTFUL_BELOW else "chance"


def log10_nfa(kind: GeometryKind, matches: int, inliers: int, chance_share: float) -> float:
    """Power of ten of the number of models with at least so many inliers that random matches are expected to give.

    Args:
        kind: of the model.
        matches: how many there are.
        inliers: how many of them agree with the model.
        chance_share: probability that a random match agrees with it, above 0.
    """
    minimal, models = MINIMAL[kind]
    if inliers <= minimal:
        return math.inf
    natural = (
        math.log(models * (matches - minimal))
        + _log_binomial(matches, inliers)
        + _log_binomial(inliers, minimal)
        + (inliers - minimal) * math.log(chance_share)
    )
    return natural / math.log(10)


def _chance_share(geometry: TwoViewGeometry, points0: Tensor, points1: Tensor, seed: int) -> float:
    """Share of the points' pairs, joined at random, that agree with the model; above 0."""
    generator = torch.Generator().manual_seed(seed)
    count = len(points0)
    first, second = torch.randint(count, (2, min(RANDOM_PAIRS, count**2)), generator=generator)
    joined = first != second
    errors = _errors(geometry, points0[first[joined]], points1[second[joined]])
    return (int((errors <= geometry.max_error).sum()) + 1) / (len(errors) + 1)


def _errors(geometry: TwoViewGeometry, points0: Tensor, points1: Tensor) -> Tensor:
    """Distance of matches from the model in pixels, as PoseLib measures it."""
    assert geometry.model is not None
    if geometry.kind == "homography":
        return torch.linalg.vector_norm(apply_homography(geometry.model, points0) - points1, dim=-1)
    fundamental = geometry.model
    if isinstance(geometry, CalibratedGeometry) and geometry.intrinsics is not None:
        inverse0, inverse1 = (torch.linalg.inv(camera) for camera in geometry.intrinsics)
        fundamental = inverse1.mT @ geometry.model @ inverse0
    return sampson_distance(fundamental, points0, points1)


def _log_binomial(n: int, k: int) -> float:
    return math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)
