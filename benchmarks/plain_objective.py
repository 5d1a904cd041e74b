"""The published training objective, written down plainly, to measure ours against.

Every pair's rewards fill the whole grid of cell pairs, as do the sums of log-probabilities; distances of descriptors
are taken between all of them; RANSAC runs pair after pair with PoseLib's own limits. It gives the same loss as
`ripe.objective.loss` with the published settings (`padding_mode` "ignore", rewards of type "inlier"), which a test
confirms.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import poselib
import torch
import torch.nn.functional as F
from torch import Tensor

MIN_KEYPOINTS = 16
MIN_MATCHES = 8


@dataclass(frozen=True)
class View:
    """What the policy drew in one view of N cells.

    Attributes:
        keypoints: N×2 (x, y) in pixels.
        log_probs: N.
        descriptors: N×D unit descriptors.
        selected: N bool, accepted and not near the border.
        inside: N bool, False on padding.
    """

    keypoints: Tensor
    log_probs: Tensor
    descriptors: Tensor
    selected: Tensor
    inside: Tensor


@dataclass(frozen=True)
class Weights:
    """Of the loss's parts, by their published names, and the inlier threshold in pixels."""

    fp_penalty: float = -1e-7
    kp_penalty: float = -7e-7
    desc_loss_weight: float = 5.0
    margin: float = 0.2
    inlier_threshold: float = 1.0


Judge = Callable[[Tensor, Tensor], Tensor]
"""From K×2 and K×2 matched points to K bool."""


def ransac(max_epipolar_error: float) -> Judge:
    """PoseLib's fundamental matrix, with its own limits on the number of iterations."""

    def judge(points0: Tensor, points1: Tensor) -> Tensor:
        if len(points0) < MIN_MATCHES:
            return torch.zeros(len(points0), dtype=torch.bool, device=points0.device)
        arrays = [points.double().cpu().numpy() for points in (points0, points1)]
        _, info = poselib.estimate_fundamental(*arrays, {"max_epipolar_error": max_epipolar_error}, {})
        return torch.as_tensor(np.asarray(info["inliers"], dtype=bool)).to(points0.device)

    return judge


def match(view0: View, view1: View) -> Tensor:
    """K×2 indices of mutual nearest neighbours among the selected cells."""
    cells0, cells1 = (torch.nonzero(view.selected & view.inside)[:, 0] for view in (view0, view1))
    if min(len(cells0), len(cells1)) < MIN_KEYPOINTS:
        return cells0.new_zeros((0, 2))
    with torch.no_grad():
        distances = torch.cdist(view0.descriptors[cells0], view1.descriptors[cells1])
        nearest1, nearest0 = distances.argmin(dim=1), distances.argmin(dim=0)
    mutual = nearest0[nearest1] == torch.arange(len(cells0), device=cells0.device)
    return torch.stack([cells0[mutual], cells1[nearest1[mutual]]], dim=1)


def loss(
    first: Sequence[View], second: Sequence[View], positive: Sequence[bool], judge: Judge, weights: Weights
) -> Tensor:
    """The loss of a batch of pairs."""
    grids, costs, contrasts = [], [], []
    for view0, view1, is_positive in zip(first, second, positive, strict=True):
        matches = match(view0, view1)
        points = view0.keypoints[matches[:, 0]], view1.keypoints[matches[:, 1]]
        inliers = judge(*points)
        grids.append(graded_grid(view0, view1, matches[inliers], is_positive, weights.fp_penalty))
        costs.append(sum(view.log_probs[view.selected & view.inside].mean() for view in (view0, view1)))
        trusted = matches[inliers] if int(inliers.sum()) >= MIN_MATCHES else matches
        contrasts.append(contrastive(view0, view1, trusted, is_positive, weights.margin))
    policy = -torch.cat([grid.flatten() for grid in grids]).mean()
    keypoints = -weights.kp_penalty * torch.stack(costs).mean()
    return policy + keypoints + weights.desc_loss_weight * torch.stack(contrasts).mean()


def graded_grid(view0: View, view1: View, inliers: Tensor, positive: bool, fp_penalty: float) -> Tensor:
    """N0×N1: reward times log-probability of every pair of cells that are not padding."""
    sign = 1.0 if positive else -1.0
    size = len(view0.log_probs), len(view1.log_probs)
    rewards = torch.full(size, sign * fp_penalty, device=view0.log_probs.device)
    rewards[inliers[:, 0], inliers[:, 1]] = sign
    log_probs = view0.log_probs[:, None] + view1.log_probs[None, :]
    return (rewards * log_probs)[view0.inside][:, view1.inside]


def contrastive(view0: View, view1: View, matches: Tensor, positive: bool, margin: float) -> Tensor:
    """The contrastive loss of a pair's matches."""
    if len(matches) == 0:
        return view0.descriptors.sum() * 0
    a, b = view0.descriptors[matches[:, 0]], view1.descriptors[matches[:, 1]]
    distances = (a - b).norm(dim=1)
    if not positive:
        return F.relu(margin - distances).mean()
    all_distances = torch.cdist(view0.descriptors, view1.descriptors)
    second1 = all_distances[matches[:, 0]].topk(2, dim=1, largest=False).values[:, 1]
    second0 = all_distances.T[matches[:, 1]].topk(2, dim=1, largest=False).values[:, 1]
    return F.relu(margin + distances - torch.minimum(second0, second1)).mean()
