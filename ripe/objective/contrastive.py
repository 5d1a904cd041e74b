"""The descriptors' part of the loss: a margin against the hardest descriptor, or a softmax over all of them."""

import torch
import torch.nn.functional as F
from torch import Tensor

from ripe.objective.sampling import PairMatches, SampledPair, SampledView
from ripe.recipe.config import ObjectiveConfig

FEWEST_TRUSTED = 8
"""Inliers; of fewer, the margin loss takes all matches instead, as published."""


def warp_descriptor_loss(pair: SampledPair, config: ObjectiveConfig) -> Tensor | None:
    """The descriptors' loss of a self-pair where the warp alone gives it; None where the matches are needed."""
    if config.descriptor_loss == "margin" or not pair.positive or pair.warp is None:
        return None
    return (_warp_infonce(*pair.views, config) + _warp_infonce(*pair.views[::-1], config)) / 2


def descriptor_loss(pair: SampledPair, matches: PairMatches, config: ObjectiveConfig) -> Tensor:
    """The descriptors' loss of a pair by its matches."""
    indices, inliers = matches
    if config.descriptor_loss == "margin" or not pair.positive:
        return margin_loss(
            pair.first.descriptors,
            pair.second.descriptors,
            indices[inliers] if int(inliers.sum()) >= FEWEST_TRUSTED else indices,
            positive=pair.positive,
            positive_margin=config.positive_margin,
            negative_margin=config.negative_margin,
        )
    first, second = indices[inliers].unbind(dim=1)
    there = _match_infonce(pair.first, pair.second, first, second, config)
    back = _match_infonce(pair.second, pair.first, second, first, config)
    return (there + back) / 2


def margin_loss(
    descriptors0: Tensor,
    descriptors1: Tensor,
    matches: Tensor,
    *,
    positive: bool,
    positive_margin: float = 0.2,
    negative_margin: float = 0.2,
) -> Tensor:
    """The published contrastive loss of one pair's matches, averaged over them.

    Positive pair: max(0, margin + d(a, b) − d_hard) with d_hard the smaller of two second-nearest distances, a to all
    cells of image 1 and b to all of image 0. Negative pair: max(0, margin − d(a, b)).

    Args:
        descriptors0: N0×D unit descriptors of all cells of the first image.
        descriptors1: N1×D, likewise of the second.
        matches: K×2 int64.
        positive: whether both photos show one scene.
        positive_margin: margin of positive pairs.
        negative_margin: margin of negative pairs.

    Returns:
        A scalar; zero without matches.
    """
    if len(matches) == 0:
        return (descriptors0.sum() + descriptors1.sum()) * 0
    a, b = descriptors0[matches[:, 0]], descriptors1[matches[:, 1]]
    distances = (a - b).norm(dim=-1)
    if not positive:
        return F.relu(negative_margin - distances).mean()
    hardest = torch.minimum(_second_nearest(a, descriptors1), _second_nearest(b, descriptors0))
    return F.relu(positive_margin + distances - hardest).mean()


def infonce_loss(
    queries: Tensor, targets: Tensor, candidates: Tensor, excluded: Tensor, *, temperature: float = 0.07
) -> Tensor:
    """Cross-entropy of finding each query's target among all candidates (InfoNCE, van den Oord et al. 2018).

    Args:
        queries: K×D unit descriptors of one image.
        targets: K×D unit descriptors of the same points in the other image.
        candidates: N×D unit descriptors of the other image's cells.
        excluded: K×N bool, candidates too near to the target to be wrong.
        temperature: of the softmax.

    Returns:
        A scalar; zero without queries.
    """
    if len(queries) == 0:
        return (queries.sum() + targets.sum() + candidates.sum()) * 0
    right = (queries * targets).sum(dim=-1) / temperature
    wrong = ((queries / temperature) @ candidates.T).masked_fill(excluded, -torch.inf)
    return (torch.logaddexp(right, wrong.logsumexp(dim=1)) - right).mean()


def _match_infonce(
    view: SampledView, other: SampledView, cells: Tensor, matched: Tensor, config: ObjectiveConfig
) -> Tensor:
    """InfoNCE of K matched cells of one view against those of the other, by their right matches."""
    near = torch.cdist(other.keypoints[matched], other.keypoints) < config.exclusion_radius
    queries, targets = view.descriptors[cells], other.descriptors[matched]
    return infonce_loss(queries, targets, other.descriptors, near, temperature=config.temperature)


def _warp_infonce(view: SampledView, other: SampledView, config: ObjectiveConfig) -> Tensor:
    """InfoNCE of a self-pair's selected keypoints against their known places in the other view."""
    chosen = view.chosen & view.visible
    near = torch.cdist(view.warped[chosen], other.keypoints) < config.exclusion_radius
    # Beyond the photo's border the view is mirrored: what looks like the target there is no mistake.
    near = near | ~other.inside
    queries, targets = view.descriptors[chosen], view.counterparts[chosen]
    return infonce_loss(queries, targets, other.descriptors, near, temperature=config.temperature)


def _second_nearest(queries: Tensor, descriptors: Tensor) -> Tensor:
    # Chosen by inner product, measured as a difference: the gradient of a distance taken from an inner product
    # explodes where two descriptors nearly coincide.
    similarity = queries.detach() @ descriptors.detach().T
    second = similarity.topk(min(2, len(descriptors)), dim=1).indices[:, -1]
    return (queries - descriptors[second]).norm(dim=-1)
