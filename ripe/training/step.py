"""One training step: both views through the network, matches, rewards, loss.

The algorithm, per pair of views:

1. The network scores every pixel; every 8×8 cell proposes one keypoint and accepts or rejects it (`objective.cells`).
2. The accepted keypoints of both views are matched by mutual nearest neighbours of their descriptors.
3. Matches are judged: by the known warp if the views are of one photo, by a fundamental matrix otherwise.
4. Right matches earn a reward if the photos show one scene and cost one if they do not (`objective.rewards`).
5. REINFORCE on the rewards moves the score map (`objective.policy`).
6. A contrastive loss on the right matches moves the descriptors (`objective.contrastive`).
"""

import math
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ripe.geometry.homography import apply_homography
from ripe.matching import mutual_nearest_neighbours
from ripe.model import RIPE
from ripe.objective.cells import CellSamples, sample_cells, to_cells
from ripe.objective.contrastive import infonce_loss, margin_loss
from ripe.objective.inliers import fit_epipolar, hardly_moves, warp_inliers
from ripe.objective.localisation import localisation_errors
from ripe.objective.policy import grid_entries, keypoint_cost, policy_loss, reward_baseline, share_cost
from ripe.objective.repeatability import repeatability_loss
from ripe.objective.rewards import PairRewards, inlier_worth, pair_rewards
from ripe.training.config import ObjectiveConfig
from ripe.training.pairs import PairBatch


class PolicyOutput(NamedTuple):
    """What the network and the policy make of P pairs; the P first views come before the P second ones.

    Attributes:
        samples: of 2P views.
        logits: 2P×S×S score maps.
        descriptors: for each view N×D, of every cell's proposal.
        warped: 2P×N×2, every proposal's place in the other view by the known warp; NaN without one.
        counterparts: for each view N×D, descriptors of the other view at these places; meaningless without a warp.
        visible: 2P×N bool, whether that place lies in the other view's photo.
    """

    samples: CellSamples
    logits: Tensor
    descriptors: tuple[Tensor, ...]
    warped: Tensor
    counterparts: tuple[Tensor, ...]
    visible: Tensor


@dataclass(frozen=True)
class PairMatches:
    """Matched cells of one pair (K×2 int64, absolute indices) and which of them are right (K bool)."""

    indices: Tensor
    inliers: Tensor


class Totals(NamedTuple):
    """What the parts of a loss are divided by: counts over all batches and processes of one update of the weights.

    Attributes:
        batches: that the update has, one after the other.
        pairs: of views.
        cells: inside the photos, of all views.
        entries: of all reward grids; None where it depends on what the policy selects.
    """

    batches: int
    pairs: float
    cells: float
    entries: float | None


@dataclass
class Tally:
    """Figures as sums and what they are to be divided by, so that batches' and processes' tallies add up."""

    sums: dict[str, float] = field(default_factory=dict)
    counts: dict[str, float] = field(default_factory=dict)

    def add(self, name: str, value: float, count: float = 1.0) -> None:
        """Add to one figure."""
        self.sums[name] = self.sums.get(name, 0.0) + value
        self.counts[name] = self.counts.get(name, 0.0) + count

    def merge(self, other: "Tally") -> None:
        """Add all figures of another tally."""
        for name, value in other.sums.items():
            self.add(name, value, other.counts[name])

    def figures(self) -> dict[str, float]:
        """The quotients; what has nothing to be divided by is left out."""
        return {name: value / self.counts[name] for name, value in self.sums.items() if self.counts[name] > 0}


@dataclass(frozen=True)
class LossTerms:
    """A batch's contribution to the loss of an update; the contributions of all batches and processes add up to it.

    Attributes:
        total: the contribution.
        tally: figures to log.
        judge_seconds: how long matching and RANSAC kept the caller's thread.
    """

    total: Tensor
    tally: Tally
    judge_seconds: float


class Policy(nn.Module):
    """Both views of a batch through the network in a single `forward`."""

    def __init__(self, model: RIPE, border: int) -> None:
        super().__init__()
        self.model = model
        self.border = border

    def forward(
        self,
        images: Tensor,
        valid: Tensor,
        H_0to1: Tensor,  # noqa: N803
        generator: torch.Generator | Sequence[torch.Generator],
    ) -> PolicyOutput:
        """Sample keypoints in 2P×3×S×S float `images` and describe them.

        `generator` is one for all views or one for each; see `PairBatch` for the other arguments.
        """
        maps = self.model(images.contiguous(memory_format=torch.channels_last))
        samples = sample_cells(maps.logits, valid, generator, self.border)
        if not H_0to1.isfinite().any():  # without self-pairs no place but the proposals is asked for
            proposals = self.model.describe(maps, samples.keypoints).unbind()
            nowhere = torch.full_like(samples.keypoints, torch.nan)
            return PolicyOutput(
                samples, maps.logits[:, 0], proposals, nowhere, proposals, torch.zeros_like(samples.inside)
            )
        pairs, cells = len(H_0to1), samples.keypoints.shape[1]
        with torch.autocast(images.device.type, enabled=False):  # products in bfloat16 would be off by whole pixels
            warped = apply_homography(torch.cat([H_0to1, torch.linalg.inv(H_0to1)]), samples.keypoints)
        # Each view is described at its own proposals and where those of the other view land, in one go.
        landing = warped.roll(pairs, dims=0).nan_to_num(0.0).clamp(-1.0, float(images.shape[-1]))
        descriptors, landed = self.model.describe(maps, torch.cat([samples.keypoints, landing], dim=1)).split(cells, 1)
        visible = _looks_valid(warped, valid.roll(pairs, dims=0))
        return PolicyOutput(
            samples, maps.logits[:, 0], descriptors.unbind(), warped, landed.roll(pairs, dims=0).unbind(), visible
        )


def count_totals(batches: Sequence[PairBatch], config: ObjectiveConfig) -> Totals:
    """The totals of one process's batches."""
    cells, entries = 0, 0
    for batch in batches:
        inside = to_cells(batch.valid).all(dim=-1)
        counts = inside.sum(dim=1)
        if config.padding_mode == "punish":
            counts = torch.full_like(counts, inside.shape[1])
        first, second = counts.chunk(2)
        cells += int(inside.sum())
        entries += int((first * second).sum())
    pairs = sum(len(batch) for batch in batches)
    return Totals(len(batches), pairs, cells, None if config.selected_only else entries)


def compute_loss(
    output: PolicyOutput,
    batch: PairBatch,
    config: ObjectiveConfig,
    *,
    progress: float,
    seeds: Sequence[int],
    executor: Executor,
    step: int = 0,
    totals: Totals | None = None,
    total_over_processes: Callable[[Tensor], Tensor] = lambda values: values,
) -> LossTerms:
    """The loss of a batch, or its contribution where the batch is a part of a larger one.

    Args:
        output: of `Policy` for this batch.
        batch: with the labels.
        config: weights and thresholds.
        progress: share of the run that is done, 0..1; moves the schedules.
        seeds: of RANSAC's sampling, one for each pair.
        executor: threads for RANSAC.
        step: of the run; moves the inlier threshold.
        totals: of the large batch that this one is a part of; those of this one alone if None.
        total_over_processes: adds a tensor up over all processes.
    """
    pairs = len(batch)
    totals = count_totals([batch], config) if totals is None else totals
    taking_part = _taking_part(output.samples, config)
    judging = _Judging(output, batch, config, taking_part, progress, step, seeds, executor)
    # What needs no verdict is computed while RANSAC runs in its threads.
    by_warp_alone = [
        _warp_descriptor_loss(output, batch, config, taking_part, p) if judging.by_warp[p] else None
        for p in range(pairs)
    ]
    matches = judging.collect()
    rewards = [_rewards(output, batch, config, taking_part, matches[p], p, progress) for p in range(pairs)]
    by_view = output.samples.log_probs.unbind()
    log_probs = [(by_view[p], by_view[pairs + p]) for p in range(pairs)]
    chosen = [(taking_part[p], taking_part[pairs + p]) for p in range(pairs)]
    descriptor_losses = [
        _descriptor_loss(output, batch, config, matches[p], p) if loss is None else loss
        for p, loss in enumerate(by_warp_alone)
    ]

    samples = output.samples
    graded = [(*both, reward) for both, reward in zip(log_probs, rewards, strict=True)]
    entries = totals.entries
    if entries is None:
        here = samples.log_probs.new_tensor(float(grid_entries(graded)), dtype=torch.float64)
        entries = float(total_over_processes(here)) * totals.batches
    policy = policy_loss(graded, entries) + config.baseline * reward_baseline(graded, chosen, entries)
    held = keypoint_share(progress, config)
    parts = {
        "policy": config.policy_weight * policy,
        "keypoint": -penalty_share(progress, config)
        * config.keypoint_penalty
        * (keypoint_cost(log_probs, chosen) * pairs / totals.pairs),
        "share": config.keypoint_share_weight
        * share_cost(samples.acceptance, samples.inside & samples.interior, held, total_over_processes)
        / totals.batches,
        "entropy": -config.entropy_weight * (samples.entropies[samples.inside].sum() / max(totals.cells, 1)),
        "repeatability": _repeatability(output, batch, config, total_over_processes) / totals.batches,
        "localisation": _localisation(output, batch, config, total_over_processes) / totals.batches,
        "descriptor": config.descriptor_weight * torch.stack(descriptor_losses).sum() / totals.pairs,
    }
    total = torch.stack(list(parts.values())).sum()
    tally = _tally(taking_part, matches, batch, pairs / totals.pairs)
    for name, value in {**parts, "total": total}.items():
        tally.add(f"loss/{name}", float(value.detach()), pairs / totals.pairs)
    return LossTerms(total, tally, judging.seconds)


def inlier_threshold(step: int, config: ObjectiveConfig) -> float:
    """Largest epipolar error of an inlier, in pixels."""
    return config.inlier_threshold + config.inlier_threshold_extra * math.exp(-config.inlier_threshold_decay * step)


def penalty_share(progress: float, config: ObjectiveConfig) -> float:
    """Share of the penalties in force, 0..1, rising linearly over the first `penalty_ramp` of the run."""
    return min(1.0, progress / config.penalty_ramp) if config.penalty_ramp > 0 else 1.0


def keypoint_share(progress: float, config: ObjectiveConfig) -> float:
    """Share of the cells that are to give a keypoint, 0..1, moving over the first `penalty_ramp` of the run."""
    fall = config.keypoint_share_end - config.keypoint_share_start
    return config.keypoint_share_start + penalty_share(progress, config) * fall


def _looks_valid(points: Tensor, valid: Tensor) -> Tensor:
    height, width = valid.shape[-2:]
    nearest = points.nan_to_num(-1e6).round().long()
    inside = (nearest >= 0).all(dim=-1) & (nearest[..., 0] < width) & (nearest[..., 1] < height)
    index = nearest[..., 1].clamp(0, height - 1) * width + nearest[..., 0].clamp(0, width - 1)
    return inside & valid.flatten(1).gather(1, index)


def _taking_part(samples: CellSamples, config: ObjectiveConfig) -> Tensor:
    """Selected cells (2P×N bool); where padding is ignored, those on it are left out."""
    return samples.selected & samples.inside if config.padding_mode == "ignore" else samples.selected


class _Judging:
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
        self.by_warp: list[bool] = batch.H_0to1.isfinite().all(dim=-1).all(dim=-1).tolist()
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


def _rewards(
    output: PolicyOutput,
    batch: PairBatch,
    config: ObjectiveConfig,
    taking_part: Tensor,
    matches: PairMatches,
    pair: int,
    progress: float,
) -> PairRewards:
    other = pair + len(batch)
    inside = output.samples.inside
    share = penalty_share(progress, config)
    if config.selected_only:
        cells = taking_part
    else:
        cells = inside if config.padding_mode == "ignore" else torch.ones_like(inside)
    return pair_rewards(
        matches.indices,
        matches.inliers,
        positive=bool(batch.positive[pair]),
        cells0=cells[pair],
        cells1=cells[other],
        inside0=inside[pair],
        inside1=inside[other],
        worth=inlier_worth(int(matches.inliers.sum()), len(matches.inliers), config.reward_type, progress),
        miss_penalty=share * config.miss_penalty,
        outlier_reward=None if config.outlier_reward is None else share * config.outlier_reward,
    )


def _warp_descriptor_loss(
    output: PolicyOutput, batch: PairBatch, config: ObjectiveConfig, taking_part: Tensor, pair: int
) -> Tensor | None:
    """The descriptors' loss of a self-pair where the warp alone gives it; None where the matches are needed."""
    if config.descriptor_loss == "margin" or not batch.positive[pair]:
        return None
    views = (pair, pair + len(batch))
    there = _warp_infonce(output, config, taking_part, *views)
    back = _warp_infonce(output, config, taking_part, *views[::-1])
    return (there + back) / 2


def _descriptor_loss(
    output: PolicyOutput, batch: PairBatch, config: ObjectiveConfig, matches: PairMatches, pair: int
) -> Tensor:
    views = (pair, pair + len(batch))
    descriptors0, descriptors1 = output.descriptors[views[0]], output.descriptors[views[1]]
    trusted = matches.indices[matches.inliers] if int(matches.inliers.sum()) >= 8 else matches.indices
    positive = bool(batch.positive[pair])
    if config.descriptor_loss == "margin" or not positive:
        margins = {"positive_margin": config.positive_margin, "negative_margin": config.negative_margin}
        return margin_loss(descriptors0, descriptors1, trusted, positive=positive, **margins)
    first, second = matches.indices[matches.inliers].unbind(dim=1)
    keypoints0, keypoints1 = output.samples.keypoints[views[0]], output.samples.keypoints[views[1]]
    forward = infonce_loss(
        descriptors0[first],
        descriptors1[second],
        descriptors1,
        torch.cdist(keypoints1[second], keypoints1) < config.exclusion_radius,
        temperature=config.temperature,
    )
    backward = infonce_loss(
        descriptors1[second],
        descriptors0[first],
        descriptors0,
        torch.cdist(keypoints0[first], keypoints0) < config.exclusion_radius,
        temperature=config.temperature,
    )
    return (forward + backward) / 2


def _warp_infonce(output: PolicyOutput, config: ObjectiveConfig, taking_part: Tensor, view: int, other: int) -> Tensor:
    """InfoNCE of a self-pair's selected keypoints against their known places in the other view."""
    chosen = taking_part[view] & output.visible[view]
    near = torch.cdist(output.warped[view][chosen], output.samples.keypoints[other]) < config.exclusion_radius
    # Beyond the photo's border the view is mirrored: what looks like the target there is no mistake.
    near = near | ~output.samples.inside[other]
    return infonce_loss(
        output.descriptors[view][chosen],
        output.counterparts[view][chosen],
        output.descriptors[other],
        near,
        temperature=config.temperature,
    )


def _repeatability(
    output: PolicyOutput,
    batch: PairBatch,
    config: ObjectiveConfig,
    total_over_processes: Callable[[Tensor], Tensor],
) -> Tensor:
    """The self-pairs' loss of repeatability, each view in turn being the first, weighted."""
    samples, pairs = output.samples, len(batch)
    if config.repeatability_weight == 0:
        return samples.log_positions.new_zeros(())
    by_warp = batch.H_0to1.isfinite().flatten(1).all(dim=1).to(samples.inside.device)
    first, second = (samples.log_positions[half][by_warp] for half in (slice(pairs), slice(pairs, None)))
    part0, part1 = ((samples.inside & output.visible)[half][by_warp] for half in (slice(pairs), slice(pairs, None)))
    counts = total_over_processes(torch.stack([part0.sum(), part1.sum()]).double())
    if not by_warp.any():
        return samples.log_positions.sum() * 0
    warp = batch.H_0to1.to(first.device)[by_warp]
    size = (batch.images.shape[-2], batch.images.shape[-1])
    spread = config.repeatability_spread
    there = repeatability_loss(first, second, warp, part0, size, spread, float(counts[0]))
    back = repeatability_loss(second, first, torch.linalg.inv(warp), part1, size, spread, float(counts[1]))
    return config.repeatability_weight * (there + back) / 2


def _localisation(
    output: PolicyOutput,
    batch: PairBatch,
    config: ObjectiveConfig,
    total_over_processes: Callable[[Tensor], Tensor],
) -> Tensor:
    """Mean distance of the same keypoints of the self-pairs, weighted."""
    if config.localisation_weight == 0:
        return output.logits.new_zeros(())
    pairs, logits, valid = len(batch), output.logits.float(), batch.valid.to(output.logits.device)
    errors = [
        localisation_errors(logits[p], logits[pairs + p], valid[p], valid[pairs + p], H_0to1)
        for p, H_0to1 in enumerate(batch.H_0to1.to(logits.device))
        if H_0to1.isfinite().all()
    ]
    distances = torch.cat([logits.new_zeros(0), *errors])
    count = float(total_over_processes(distances.new_tensor(len(distances), dtype=torch.float64)))
    return config.localisation_weight * distances.sum() / max(count, 1.0)


def _tally(taking_part: Tensor, matches: list[PairMatches], batch: PairBatch, part: float) -> Tally:
    """Keypoints per view, matches per pair, what was skipped in the whole update, inliers by kind of pair."""
    tally = Tally()
    tally.add("keypoints", float(taking_part.sum()), len(taking_part))
    tally.add("matches", sum(len(pair.indices) for pair in matches), len(matches))
    tally.add("skipped_pairs", sum(len(pair.indices) == 0 for pair in matches), part)
    tally.add("skipped_files", len(batch.skipped), part)
    by_warp = batch.H_0to1.isfinite().all(dim=-1).all(dim=-1)
    kinds = {"self": by_warp, "real": batch.positive & ~by_warp, "negative": ~batch.positive}
    for kind, members in kinds.items():
        chosen = [pair for pair, member in zip(matches, members.tolist(), strict=True) if member]
        inliers = sum(int(pair.inliers.sum()) for pair in chosen)
        tally.add(f"inlier_ratio/{kind}", inliers, sum(len(pair.indices) for pair in chosen))
    return tally
