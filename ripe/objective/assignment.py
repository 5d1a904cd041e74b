"""What a matcher learns from: which matches of a pair are right and which keypoints have no partner, and its loss.

- Of two views of one photo the warp says all: which keypoints meet, and which are left alone.
- Of two photos that a known homography joins it says which keypoints meet; what lies off its plane may meet, too.
- Of two other photos of one scene, the epipolar geometry does that the matcher's own matches agree on, if these are
  more than chance gives (`ripe.judge`): those that agree are right, and everything far off their lines is wrong.
- In photos of two scenes no keypoint has a partner.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ripe.features import TwoViewGeometry
from ripe.geometry.epipolar import epipolar_distances
from ripe.geometry.homography import apply_homography
from ripe.geometry.verdict import judge
from ripe.networks.lightglue import Assignment, mutual_best
from ripe.objective.inliers import fit_epipolar, hardly_moves
from ripe.objective.tally import Tally
from ripe.recipe.config import MatcherConfig

PROPOSED = 0.02
"""Least probability of a match that the epipolar geometry of a pair is fitted to."""
ACCEPTED = 0.1
"""Least probability of a match when matchers are used, as published."""
ALMOST_ONE = 0.999


class Truth(NamedTuple):
    """What is known of a pair with N0 and N1 keypoints; of the rest nothing is known.

    Attributes:
        kind: "self", "real" or "negative".
        matches: K×2 int64, right ones.
        alone0: N0 bool, keypoints of the first view without a partner.
        alone1: N1 bool, likewise of the second.
        wrong: N0×N1 bool, wrong matches of keypoints that may have a partner; None if there are no others.
    """

    kind: str
    matches: Tensor
    alone0: Tensor
    alone1: Tensor
    wrong: Tensor | None = None


def of_strangers(count0: int, count1: int, device: torch.device) -> Truth:
    """The truth about photos of two scenes with so many keypoints."""
    alone0, alone1 = (torch.ones(count, dtype=torch.bool, device=device) for count in (count0, count1))
    return Truth("negative", alone0.new_zeros((0, 2), dtype=torch.int64), alone0, alone1)


def by_homography(
    keypoints0: Tensor,
    keypoints1: Tensor,
    H_0to1: Tensor,  # noqa: N803
    config: MatcherConfig,
    *,
    same: bool,
) -> Truth:
    """The truth about two views that a homography joins.

    Args:
        keypoints0: N0×2, in pixels of the first view; N0 of 1 or more.
        keypoints1: N1×2, likewise of the second.
        H_0to1: 3×3, first view to second.
        config: `max_error` of a right match, and `min_error` of a wrong one, in pixels of both views.
        same: whether they are views of one photo, so that the homography says all.
    """
    there = torch.cdist(apply_homography(H_0to1, keypoints0), keypoints1)
    back = torch.cdist(keypoints0, apply_homography(torch.linalg.inv(H_0to1), keypoints1))
    # Points at infinity, and beyond, are far from everything.
    errors = torch.maximum(there.nan_to_num(torch.inf), back.nan_to_num(torch.inf))
    indices, negative = mutual_best(-errors)
    matches = indices[-negative <= config.max_error]
    alone0, alone1 = ((errors.amin(dim=dim) > config.min_error) & same for dim in (1, 0))
    return Truth("self" if same else "real", matches, alone0, alone1)


def by_epipolar_geometry(
    keypoints0: Tensor,
    keypoints1: Tensor,
    log_scores: Tensor,
    config: MatcherConfig,
    *,
    seed: int,
    executor: Executor,
) -> Callable[[], Truth]:
    """Begin to find the truth about two photos of one scene, from what the matcher makes of them.

    Args:
        keypoints0: N0×2, in pixels of the first view; N0 of 1 or more.
        keypoints1: N1×2, likewise of the second.
        log_scores: N0×N1 of the last layer.
        config: `epipolar_error` of a right match, `far` of a wrong one.
        seed: of RANSAC's sampling.
        executor: RANSAC runs in its threads.

    Returns:
        What waits for RANSAC and gives the truth: nothing, if chance gives as many inliers.
    """
    indices, values = mutual_best(log_scores.detach())
    proposed = indices[values.exp() >= PROPOSED]
    points = keypoints0[proposed[:, 0]], keypoints1[proposed[:, 1]]
    fit = fit_epipolar(executor, *points, max_error=config.epipolar_error, seed=seed)

    def truth() -> Truth:
        geometry = fit.result()
        alone0, alone1 = (
            keypoints.new_zeros(len(keypoints), dtype=torch.bool) for keypoints in (keypoints0, keypoints1)
        )
        if not _believable(geometry, points, config.min_motion):
            return Truth("real", proposed[:0], alone0, alone1)
        assert geometry.model is not None
        model = geometry.model.to(keypoints0)
        wrong = epipolar_distances(model, keypoints0, keypoints1) > config.far
        return Truth("real", proposed[geometry.inliers.to(proposed.device)], alone0, alone1, wrong)

    return truth


def _believable(geometry: TwoViewGeometry, points: tuple[Tensor, Tensor], min_motion: float) -> bool:
    inliers = geometry.inliers.to(points[0].device)
    return bool(judge(geometry, *points)) and not hardly_moves(*points, inliers, min_motion)


def of_pair(assignments: Sequence[Assignment], index: int, count0: int, count1: int) -> list[Assignment]:
    """Of each layer's assignment of many pairs that of one, B of 1, without what fills it up."""

    def side(values: Tensor | None, count: int) -> Tensor | None:
        return None if values is None else values[index : index + 1, :count]

    return [
        Assignment(
            each.log_scores[index : index + 1, :count0, :count1],
            each.matchable0[index : index + 1, :count0],
            each.matchable1[index : index + 1, :count1],
            side(each.confident0, count0),
            side(each.confident1, count1),
        )
        for each in assignments
    ]


def assignment_loss(assignments: Sequence[Assignment], truth: Truth) -> Tensor:
    """Loss of all layers' assignments of one pair, B of 1: the mean of −log probability of what is known to be true.

    Right matches and what is known to be none have equal weight, as published; the mean is over the layers.
    """
    layers = []
    for assignment in assignments:
        log_scores = assignment.log_scores[0]
        right = log_scores[truth.matches[:, 0], truth.matches[:, 1]]
        none = [
            -F.logsigmoid(-logits[0][alone]).sum() / max(int(alone.sum()), 1)
            for logits, alone in ((assignment.matchable0, truth.alone0), (assignment.matchable1, truth.alone1))
        ]
        loss = -right.sum() / max(len(right), 1) + (none[0] + none[1]) / 2
        if truth.wrong is not None:
            mass = log_scores.exp() * truth.wrong
            rows, columns = (mass.sum(dim=dim).clamp(max=ALMOST_ONE) for dim in (1, 0))
            loss = loss - (torch.log1p(-rows).mean() + torch.log1p(-columns).mean()) / 2
        layers.append(loss / 2)
    return torch.stack(layers).mean()


def confidence_loss(assignments: Sequence[Assignment]) -> Tensor:
    """Loss of how sure layers but the last are that the last one decides as they do, of one pair."""
    final = _decisions(assignments[-1])
    losses = []
    for assignment in assignments[:-1]:
        for decided, last, sure in zip(
            _decisions(assignment), final, (assignment.confident0, assignment.confident1), strict=True
        ):
            assert sure is not None
            losses.append(F.binary_cross_entropy_with_logits(sure[0], (decided == last).to(sure.dtype)))
    return torch.stack(losses).mean() if losses else assignments[-1].log_scores.new_zeros(())


def note(tally: Tally, assignment: Assignment, truth: Truth) -> None:
    """Add how the last layer's matches of a pair compare with the truth, to the figures that are logged."""
    indices, values = mutual_best(assignment.log_scores[0].detach())
    found = indices[values.exp() >= ACCEPTED]
    tally.add("matches", len(found))
    known = {(int(i), int(j)) for i, j in truth.matches.tolist()}
    right = sum((int(i), int(j)) in known for i, j in found.tolist())
    for kind in ("self", "real"):
        mine = kind == truth.kind and len(known) > 0
        tally.add(f"precision/{kind}", right * mine, len(found) * mine)
        tally.add(f"recall/{kind}", right * mine, len(known) * mine)
    strangers = truth.kind == "negative"
    tally.add("matches/negative", len(found) * strangers, float(strangers))


def _decisions(assignment: Assignment) -> tuple[Tensor, Tensor]:
    """The partner of each keypoint of both views, −1 for none: N0 and N1 int64."""
    log_scores = assignment.log_scores[0].detach()
    indices, values = mutual_best(log_scores)
    indices = indices[values.exp() >= ACCEPTED]
    partners = tuple(torch.full((count,), -1, device=log_scores.device) for count in log_scores.shape)
    partners[0][indices[:, 0]], partners[1][indices[:, 1]] = indices[:, 1], indices[:, 0]
    return partners[0], partners[1]
