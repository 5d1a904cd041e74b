"""Matches of the selected keypoints, and which of them are right: by the known warp, or by RANSAC in threads."""

import math
import time
from collections.abc import Sequence
from concurrent.futures import Executor
from dataclasses import dataclass

import torch
from torch import Tensor

from ripe.data.pairs import PairBatch
from ripe.matching import mutual_nearest_neighbours
from ripe.objective.cells import CellSamples
from ripe.objective.inliers import fit_epipolar, hardly_moves, warp_inliers
from ripe.objective.sampling import PolicyOutput
from ripe.recipe.config import ObjectiveConfig


@dataclass(frozen=True)
class PairMatches:
    """Matched cells of one pair (K×2 int64, absolute indices) and which of them are right (K bool)."""

    indices: Tensor
    inliers: Tensor


def inlier_threshold(step: int, config: ObjectiveConfig) -> float:
    """Largest epipolar error of an inlier, in pixels."""
    return config.inlier_threshold + config.inlier_threshold_extra * math.exp(-config.inlier_threshold_decay * step)


def cells_taking_part(samples: CellSamples, config: ObjectiveConfig) -> Tensor:
    """Selected cells (2P×N bool); where padding is ignored, those on it are left out."""
    return samples.selected & samples.inside if config.padding_mode == "ignore" else samples.selected


class Judging:
    """Matches the selected keypoints of each pair and tells right matches from wrong ones.

    Making one begins the fits in the executor's threads; `collect` waits for them. `seconds` is how long the caller's
    own thread was busy or waited.
    """

    def __init__(
        self,
        output: PolicyOutput,
        batch: PairBatch,
        config: ObjectiveConfig,
        taking_part: Tensor,
        progress: float,
        step: int,
        seeds: Sequence[int],
        executor: Executor,
    ) -> None:
        started = time.perf_counter()
        pairs = len(batch)
        self._batch, self._config = batch, config
        self.by_warp: list[bool] = batch.by_warp.tolist()
        self._max_error = config.warp_threshold_start + progress * (
            config.warp_threshold_end - config.warp_threshold_start
        )
        self._indices: dict[int, Tensor] = {}
        self._points: dict[int, tuple[Tensor, Tensor]] = {}
        self._fits = {}
        for p in sorted(range(pairs), key=lambda p: self.by_warp[p]):  # first those that RANSAC has to judge
            views = (p, pairs + p)
            descriptors = output.descriptors[views[0]], output.descriptors[views[1]]
            indices = _match(*descriptors, taking_part[views[0]], taking_part[views[1]], config)
            first, second = (output.samples.keypoints[v][indices[:, side]] for side, v in enumerate(views))
            self._indices[p], self._points[p] = indices, (first, second)
            if not self.by_warp[p]:
                self._fits[p] = fit_epipolar(
                    executor,
                    first,
                    second,
                    max_error=inlier_threshold(step, config),
                    seed=seeds[p],
                    max_iterations=config.ransac_iterations,
                )
        self.seconds = time.perf_counter() - started

    def collect(self) -> list[PairMatches]:
        """The verdicts, in the order of the pairs."""
        started = time.perf_counter()
        verdicts = [PairMatches(self._indices[p], self._inliers(p)) for p in range(len(self._batch))]
        self.seconds += time.perf_counter() - started
        return verdicts

    def _inliers(self, pair: int) -> Tensor:
        points = self._points[pair]
        if self.by_warp[pair]:
            return warp_inliers(*points, self._batch.H_0to1[pair].to(points[0].device), max_error=self._max_error)
        inliers = self._fits[pair].result().inliers.to(points[0].device)
        if self._batch.positive[pair] and hardly_moves(*points, inliers, self._config.min_motion):
            return torch.zeros_like(inliers)
        return inliers


@torch.no_grad()
def _match(
    descriptors0: Tensor, descriptors1: Tensor, selected0: Tensor, selected1: Tensor, config: ObjectiveConfig
) -> Tensor:
    cells0, cells1 = selected0.nonzero()[:, 0], selected1.nonzero()[:, 0]
    if min(len(cells0), len(cells1)) < config.min_keypoints:
        return cells0.new_zeros((0, 2))
    indices, _ = mutual_nearest_neighbours(descriptors0[cells0], descriptors1[cells1])
    return torch.stack([cells0[indices[:, 0]], cells1[indices[:, 1]]], dim=-1)
