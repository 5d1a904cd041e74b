"""One training step: both views through the network, matches, rewards, loss.

The algorithm, per pair of views:

1. The network scores every pixel; every 8×8 cell proposes one keypoint and accepts or rejects it (`objective.cells`).
2. The accepted keypoints of both views are matched by mutual nearest neighbours of their descriptors.
3. Matches are judged: by the known warp if the views are of one photo, by a fundamental matrix otherwise.
4. Right matches earn a reward if the photos show one scene and cost one if they do not (`objective.rewards`).
5. REINFORCE on the rewards moves the score map (`objective.policy`).
6. A contrastive loss on the right matches moves the descriptors (`objective.contrastive`).
7. Where the warp is known, it says without samples how well the score maps of both views agree (`training.self_pairs`).
"""

from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from ripe.objective.cells import to_cells
from ripe.objective.contrastive import infonce_loss, margin_loss
from ripe.objective.policy import grid_entries, keypoint_cost, mean_reward_price, policy_loss, share_cost
from ripe.objective.rewards import PairRewards, inlier_worth, pair_rewards
from ripe.training.config import ObjectiveConfig
from ripe.training.judging import Judging, PairMatches, cells_taking_part
from ripe.training.pairs import PairBatch
from ripe.training.sampling import PolicyOutput
from ripe.training.self_pairs import localisation, repeatability, warp_descriptor_loss
from ripe.training.tally import Tally


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
    taking_part = cells_taking_part(output.samples, config)
    judging = Judging(output, batch, config, taking_part, progress, step, seeds, executor)
    # What needs no verdict is computed while RANSAC runs in its threads.
    by_warp_alone = [
        warp_descriptor_loss(output, batch, config, taking_part, p) if judging.by_warp[p] else None
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
    policy = policy_loss(graded, entries) + config.baseline * mean_reward_price(graded, chosen, entries)
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
        "repeatability": repeatability(output, batch, config, total_over_processes) / totals.batches,
        "localisation": localisation(output, batch, config, total_over_processes) / totals.batches,
        "descriptor": config.descriptor_weight * torch.stack(descriptor_losses).sum() / totals.pairs,
    }
    total = torch.stack(list(parts.values())).sum()
    tally = _tally(taking_part, matches, batch, pairs / totals.pairs)
    for name, value in {**parts, "total": total}.items():
        tally.add(f"loss/{name}", float(value.detach()), pairs / totals.pairs)
    return LossTerms(total, tally, judging.seconds)


def penalty_share(progress: float, config: ObjectiveConfig) -> float:
    """Share of the penalties in force, 0..1, rising linearly over the first `penalty_ramp` of the run."""
    return min(1.0, progress / config.penalty_ramp) if config.penalty_ramp > 0 else 1.0


def keypoint_share(progress: float, config: ObjectiveConfig) -> float:
    """Share of the cells that are to give a keypoint, 0..1, moving over the first `penalty_ramp` of the run."""
    fall = config.keypoint_share_end - config.keypoint_share_start
    return config.keypoint_share_start + penalty_share(progress, config) * fall


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


def _tally(taking_part: Tensor, matches: list[PairMatches], batch: PairBatch, part: float) -> Tally:
    """Keypoints per view, matches per pair, what was skipped in the whole update, inliers by kind of pair."""
    tally = Tally()
    tally.add("keypoints", float(taking_part.sum()), len(taking_part))
    tally.add("matches", sum(len(pair.indices) for pair in matches), len(matches))
    tally.add("skipped_pairs", sum(len(pair.indices) == 0 for pair in matches), part)
    tally.add("skipped_files", len(batch.skipped), part)
    kinds = {"self": batch.by_warp, "real": batch.positive & ~batch.by_warp, "negative": ~batch.positive}
    for kind, members in kinds.items():
        chosen = [pair for pair, member in zip(matches, members.tolist(), strict=True) if member]
        inliers = sum(int(pair.inliers.sum()) for pair in chosen)
        tally.add(f"inlier_ratio/{kind}", inliers, sum(len(pair.indices) for pair in chosen))
    return tally
