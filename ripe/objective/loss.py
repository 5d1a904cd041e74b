"""The loss of one training step, as the paper's algorithm has it.

1. The network scores every pixel; every 8×8 cell proposes one keypoint and accepts or rejects it (`sampling`).
2. The accepted keypoints of both views are matched by mutual nearest neighbours of their descriptors, and
3. matches are judged: by the known warp if the views are of one photo, by a fundamental matrix otherwise (`judging`).
4. Right matches earn a reward if the photos show one scene and cost one if they do not (`rewards`).
5. REINFORCE on the rewards moves the score map (`policy`).
6. A contrastive loss on the right matches moves the descriptors (`contrastive`).
7. Where the warp is known, it says without samples how well both score maps agree (`self_pairs`).
8. A trained extractor, if there is one to learn from, shows its descriptors and its score maps (`distillation`).
"""

import time
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from ripe.data.batch import PairBatch
from ripe.objective.cells import to_cells
from ripe.objective.contrastive import descriptor_loss, warp_descriptor_loss
from ripe.objective.distillation import Lesson, descriptor_distance, score_divergence
from ripe.objective.judging import judge, match_chosen
from ripe.objective.policy import grid_entries, keypoint_cost, mean_reward_price, policy_loss, share_cost
from ripe.objective.rewards import reward
from ripe.objective.sampling import PairMatches, PolicyOutput, SampledPair, split_pairs
from ripe.objective.self_pairs import localisation, repeatability
from ripe.objective.tally import Tally
from ripe.recipe.config import ObjectiveConfig
from ripe.recipe.schedule import Now

Total = Callable[[Tensor], Tensor]
"""Adds a tensor up over all processes."""


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
    now: Now,
    *,
    seeds: Sequence[int],
    executor: Executor,
    taught: Lesson | None = None,
    totals: Totals | None = None,
    total_over_processes: Total = lambda values: values,
) -> LossTerms:
    """The loss of a batch, or its contribution where the batch is a part of a larger one.

    Args:
        output: of `Policy` for this batch.
        batch: with the labels.
        config: weights and thresholds.
        now: what the schedule has them be.
        seeds: of RANSAC's sampling, one for each pair.
        executor: threads for RANSAC.
        taught: what a teacher says of this batch; None without a teacher.
        totals: of the large batch that this one is a part of; those of this one alone if None.
        total_over_processes: adds a tensor up over all processes.
    """
    totals = count_totals([batch], config) if totals is None else totals
    part = len(batch) / totals.pairs
    pairs = split_pairs(output, batch, config.padding_mode)

    # Match, and judge; what needs no verdict is computed while RANSAC runs in its threads.
    started = time.perf_counter()
    verdicts: dict[int, Callable[[], PairMatches]] = {}
    for p in sorted(range(len(pairs)), key=lambda p: pairs[p].warp is not None):  # first those that RANSAC has to judge
        found = match_chosen(pairs[p], config.min_keypoints)
        verdicts[p] = judge(pairs[p], found, config, now, seeds[p], executor)
    begun = time.perf_counter()
    by_warp = [warp_descriptor_loss(pair, config) for pair in pairs]
    waiting = time.perf_counter()
    matches = [verdicts[p]() for p in range(len(pairs))]
    judge_seconds = time.perf_counter() - waiting + begun - started

    # Reward, and learn from it: the policy, what the warps of self-pairs teach it besides, and the descriptors.
    descriptors = [
        descriptor_loss(pair, found, config) if known is None else known
        for pair, found, known in zip(pairs, matches, by_warp, strict=True)
    ]
    parts = {
        **_policy_parts(output, pairs, matches, config, now, totals, total_over_processes),
        "repeatability": repeatability(output, batch, config, total_over_processes) / totals.batches,
        "localisation": localisation(output, batch, config, total_over_processes) / totals.batches,
        "descriptor": config.descriptor_weight * torch.stack(descriptors).sum() / totals.pairs,
    }
    if taught is not None:
        cells = max(totals.cells, 1)
        parts["teacher_descriptor"] = config.teacher_descriptor_weight * descriptor_distance(output, taught) / cells
        parts["teacher_score"] = config.teacher_score_weight * score_divergence(output, taught) / cells
    total = torch.stack(list(parts.values())).sum()
    tally = _tally(pairs, matches, part)
    tally.add("skipped_files", len(batch.skipped), part)
    for name, value in {**parts, "total": total}.items():
        tally.add(f"loss/{name}", float(value.detach()), part)
    return LossTerms(total, tally, judge_seconds)


def _policy_parts(
    output: PolicyOutput,
    pairs: Sequence[SampledPair],
    matches: Sequence[PairMatches],
    config: ObjectiveConfig,
    now: Now,
    totals: Totals,
    total_over_processes: Total,
) -> dict[str, Tensor]:
    """REINFORCE on the rewards, and what holds the number of keypoints and their variety."""
    samples = output.samples
    log_probs = [(pair.first.log_probs, pair.second.log_probs) for pair in pairs]
    chosen = [(pair.first.chosen, pair.second.chosen) for pair in pairs]
    rewards = [reward(*each, config, now) for each in zip(pairs, matches, strict=True)]
    graded = [(*both, earned) for both, earned in zip(log_probs, rewards, strict=True)]
    entries = totals.entries
    if entries is None:
        here = samples.log_probs.new_tensor(float(grid_entries(graded)), dtype=torch.float64)
        entries = float(total_over_processes(here)) * totals.batches
    policy = policy_loss(graded, entries) + config.baseline * mean_reward_price(graded, chosen, entries)
    price = -now.penalties * config.keypoint_penalty
    counted = samples.inside & samples.interior
    share = share_cost(samples.acceptance, counted, now.keypoint_share, total_over_processes) / totals.batches
    return {
        "policy": config.policy_weight * policy,
        "keypoint": price * keypoint_cost(log_probs, chosen) * len(pairs) / totals.pairs,
        "share": config.keypoint_share_weight * share,
        "entropy": -config.entropy_weight * samples.entropies[samples.inside].sum() / max(totals.cells, 1),
    }


def _tally(pairs: Sequence[SampledPair], matches: Sequence[PairMatches], part: float) -> Tally:
    """Keypoints per view, matches per pair, what was skipped in the whole update, inliers by kind of pair."""
    tally = Tally()
    chosen = torch.stack([view.chosen for pair in pairs for view in pair.views])
    tally.add("keypoints", float(chosen.sum()), len(chosen))
    tally.add("matches", sum(len(found.indices) for found in matches), len(matches))
    tally.add("skipped_pairs", sum(len(found.indices) == 0 for found in matches), part)
    # Every kind, also one of which there is no pair: processes add their figures up in one order.
    for kind in ("self", "real", "negative"):
        members = [found for pair, found in zip(pairs, matches, strict=True) if pair.kind == kind]
        inliers = sum(int(found.inliers.sum()) for found in members)
        tally.add(f"inlier_ratio/{kind}", inliers, sum(len(found.indices) for found in members))
    return tally
