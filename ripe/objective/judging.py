"""Matches of the selected keypoints, and which of them are right: by the known warp, or by RANSAC in threads."""

from collections.abc import Callable
from concurrent.futures import Executor
from typing import NamedTuple

import torch
from torch import Tensor

from ripe.matching import mutual_nearest_neighbours
from ripe.objective.inliers import fit_epipolar, hardly_moves, warp_inliers
from ripe.objective.sampling import SampledPair
from ripe.recipe.config import ObjectiveConfig
from ripe.recipe.schedule import Now


class PairMatches(NamedTuple):
    """Matched cells of one pair (K×2 int64) and which of them are right (K bool)."""

    indices: Tensor
    inliers: Tensor


@torch.no_grad()
def match_chosen(pair: SampledPair, min_keypoints: int) -> Tensor:
    """Mutual nearest neighbours of the chosen cells' descriptors, K×2 int64 cells; none with too few keypoints."""
    cells0, cells1 = (view.chosen.nonzero()[:, 0] for view in pair.views)
    if min(len(cells0), len(cells1)) < min_keypoints:
        return cells0.new_zeros((0, 2))
    indices, _ = mutual_nearest_neighbours(pair.first.descriptors[cells0], pair.second.descriptors[cells1])
    return torch.stack([cells0[indices[:, 0]], cells1[indices[:, 1]]], dim=-1)


def judge(
    pair: SampledPair, matches: Tensor, config: ObjectiveConfig, now: Now, seed: int, executor: Executor
) -> Callable[[], PairMatches]:
    """Begin to tell right matches from wrong ones: RANSAC runs in the executor's threads.

    Returns:
        What waits for the verdict and gives it.
    """
    points = pair.first.keypoints[matches[:, 0]], pair.second.keypoints[matches[:, 1]]
    warp = pair.warp
    if warp is not None:
        return lambda: PairMatches(matches, warp_inliers(*points, warp, max_error=now.warp_threshold))
    limits = {"max_error": now.epipolar_threshold, "max_iterations": config.ransac_iterations}
    fit = fit_epipolar(executor, *points, seed=seed, **limits)  # type: ignore[arg-type]

    def verdict() -> PairMatches:
        inliers = fit.result().inliers.to(matches.device)
        if pair.positive and hardly_moves(*points, inliers, config.min_motion):
            inliers = torch.zeros_like(inliers)
        return PairMatches(matches, inliers)

    return verdict
