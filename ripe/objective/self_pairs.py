"""What the known warps of a batch's self-pairs teach without any match: where keypoints belong."""

from collections.abc import Callable

import torch
from torch import Tensor

from ripe.data.batch import PairBatch
from ripe.objective.localisation import localisation_errors
from ripe.objective.repeatability import repeatability_loss
from ripe.objective.sampling import PolicyOutput
from ripe.recipe.config import ObjectiveConfig


def repeatability(
    output: PolicyOutput,
    batch: PairBatch,
    config: ObjectiveConfig,
    total_over_processes: Callable[[Tensor], Tensor],
) -> Tensor:
    """The self-pairs' loss of repeatability, each view in turn being the first, weighted."""
    samples, pairs = output.samples, len(batch)
    if config.repeatability_weight == 0:
        return samples.log_positions.new_zeros(())
    by_warp = batch.by_warp.to(samples.inside.device)
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


def localisation(
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
        localisation_errors(logits[p], logits[pairs + p], valid[p], valid[pairs + p], batch.H_0to1[p].to(logits.device))
        for p in batch.by_warp.nonzero()[:, 0].tolist()
    ]
    distances = torch.cat([logits.new_zeros(0), *errors])
    count = float(total_over_processes(distances.new_tensor(len(distances), dtype=torch.float64)))
    return config.localisation_weight * distances.sum() / max(count, 1.0)
