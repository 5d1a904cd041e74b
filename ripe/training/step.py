"""One training step: both views through the network, matches, rewards, loss.

The algorithm, per pair of views:

1. The network scores every pixel; every 8×8 cell proposes one keypoint and accepts or rejects it (`objective.cells`).
2. The accepted keypoints of both views are matched by mutual nearest neighbours of their descriptors.
3. Matches are judged: by the known warp if the views are of one photo, by a fundamental matrix otherwise.
4. Right matches earn a reward if the photos show one scene and cost one if they do not (`objective.rewards`).
5. REINFORCE on the rewards moves the score map (`objective.policy`).
6. A contrastive loss on the right matches moves the descriptors (`objective.contrastive`).
"""

from concurrent.futures import Executor
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ripe.geometry.homography import apply_homography
from ripe.matching import mutual_nearest_neighbours
from ripe.model import RIPE
from ripe.objective.cells import CellSamples, sample_cells
from ripe.objective.contrastive import infonce_loss, margin_loss
from ripe.objective.inliers import epipolar_inliers, hardly_moves, warp_inliers
from ripe.objective.policy import keypoint_cost, policy_loss, reward_baseline, share_cost
from ripe.objective.repeatability import repeatability_loss
from ripe.objective.rewards import PairRewards, inlier_worth, pair_rewards
from ripe.training.config import ObjectiveConfig
from ripe.training.pairs import PairBatch


@dataclass(frozen=True)
class PolicyOutput:
    """What the network and the policy make of P pairs; the P first views come before the P second ones.

    Attributes:
        samples: of 2P views.
        descriptors: for each view N×D, of every cell's proposal.
        warped: 2P×N×2, every proposal's place in the other view by the known warp; NaN without one.
        counterparts: for each view N×D, descriptors of the other view at these places; meaningless without a warp.
        visible: 2P×N bool, whether that place lies in the other view's photo.
    """

    samples: CellSamples
    descriptors: tuple[Tensor, ...]
    warped: Tensor
    counterparts: tuple[Tensor, ...]
    visible: Tensor


@dataclass(frozen=True)
class PairMatches:
    """Matched cells of one pair (K×2 int64, absolute indices) and which of them are right (K bool)."""

    indices: Tensor
    inliers: Tensor


@dataclass(frozen=True)
class LossTerms:
    """The loss, its parts as they enter it, and figures to log."""

    total: Tensor
    figures: dict[str, float]


class Policy(nn.Module):
    """Both views of a batch through the network in a single `forward`."""

    def __init__(self, model: RIPE, border: int) -> None:
        super().__init__()
        self.model = model
        self.border = border

    def forward(self, images: Tensor, valid: Tensor, H_0to1: Tensor, generator: torch.Generator) -> PolicyOutput:  # noqa: N803
        """Sample keypoints in 2P×3×S×S float `images` and describe them; see `PairBatch` for the other arguments."""
        maps = self.model(images.contiguous(memory_format=torch.channels_last))
        samples = sample_cells(maps.logits, valid, generator, self.border)
        pairs, cells = len(H_0to1), samples.keypoints.shape[1]
        with torch.autocast(images.device.type, enabled=False):  # products in bfloat16 would be off by whole pixels
            warped = apply_homography(torch.cat([H_0to1, torch.linalg.inv(H_0to1)]), samples.keypoints)
        # Each view is described at its own proposals and where those of the other view land, in one go.
        landing = warped.roll(pairs, dims=0).nan_to_num(0.0).clamp(-1.0, float(images.shape[-1]))
        descriptors, landed = self.model.describe(maps, torch.cat([samples.keypoints, landing], dim=1)).split(cells, 1)
        visible = _looks_valid(warped, valid.roll(pairs, dims=0))
        return PolicyOutput(samples, descriptors.unbind(), warped, landed.roll(pairs, dims=0).unbind(), visible)


def compute_loss(
    output: PolicyOutput, batch: PairBatch, config: ObjectiveConfig, *, progress: float, seed: int, executor: Executor
) -> LossTerms:
    """The loss of a batch.

    Args:
        output: of `Policy` for this batch.
        batch: with the labels.
        config: weights and thresholds.
        progress: share of the run that is done, 0..1; moves the schedules.
        seed: of RANSAC's sampling.
        executor: threads for RANSAC.
    """
    pairs = len(batch)
    taking_part = _taking_part(output.samples, config)
    matches = _judge(output, batch, config, taking_part, progress, seed, executor)
    rewards = [_rewards(output, batch, config, taking_part, matches[p], p, progress) for p in range(pairs)]
    by_view = output.samples.log_probs.unbind()
    log_probs = [(by_view[p], by_view[pairs + p]) for p in range(pairs)]
    chosen = [(taking_part[p], taking_part[pairs + p]) for p in range(pairs)]
    descriptor_losses = [_descriptor_loss(output, batch, config, taking_part, matches[p], p) for p in range(pairs)]

    samples = output.samples
    entropies = samples.entropies[samples.inside]
    graded = [(*both, reward) for both, reward in zip(log_probs, rewards, strict=True)]
    parts = {
        "policy": config.policy_weight * (policy_loss(graded) + config.baseline * reward_baseline(graded, chosen)),
        "keypoint": penalty_share(progress, config) * config.keypoint_price * keypoint_cost(log_probs, chosen),
        "share": config.keypoint_share_weight
        * share_cost(samples.acceptance, samples.inside & samples.interior, keypoint_share(progress, config)),
        "entropy": -config.entropy_weight * (entropies.sum() / max(entropies.numel(), 1)),
        "repeatability": config.repeatability_weight * _repeatability(output, batch, config),
        "descriptor": config.descriptor_weight * torch.stack(descriptor_losses).mean(),
    }
    total = torch.stack(list(parts.values())).sum()
    figures = {f"loss/{name}": float(value.detach()) for name, value in parts.items()}
    figures["loss/total"] = float(total.detach())
    return LossTerms(total, figures | _figures(taking_part, matches, batch))


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


def _judge(
    output: PolicyOutput,
    batch: PairBatch,
    config: ObjectiveConfig,
    taking_part: Tensor,
    progress: float,
    seed: int,
    executor: Executor,
) -> list[PairMatches]:
    """Match the selected keypoints of each pair and tell right matches from wrong ones."""
    pairs = len(batch)
    matched = [
        _match(output.descriptors[p], output.descriptors[pairs + p], taking_part[p], taking_part[pairs + p], config)
        for p in range(pairs)
    ]
    points = [
        (output.samples.keypoints[p][indices[:, 0]], output.samples.keypoints[pairs + p][indices[:, 1]])
        for p, indices in enumerate(matched)
    ]
    by_warp = batch.H_0to1.isfinite().all(dim=-1).all(dim=-1).tolist()
    fitted = [p for p in range(pairs) if not by_warp[p]]
    fits = epipolar_inliers(
        [points[p] for p in fitted],
        max_error=config.inlier_threshold,
        seed=seed,
        executor=executor,
        max_iterations=config.ransac_iterations,
    )
    max_error = config.warp_threshold_start + progress * (config.warp_threshold_end - config.warp_threshold_start)
    inliers: dict[int, Tensor] = {}
    for p, fit in zip(fitted, fits, strict=True):
        inliers[p] = fit.to(matched[p].device)
        if batch.positive[p] and hardly_moves(*points[p], inliers[p], config.min_motion):
            inliers[p] = torch.zeros_like(inliers[p])
    for p in range(pairs):
        if by_warp[p]:
            inliers[p] = warp_inliers(*points[p], batch.H_0to1[p], max_error=max_error)
    return [PairMatches(matched[p], inliers[p]) for p in range(pairs)]


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


def _descriptor_loss(
    output: PolicyOutput,
    batch: PairBatch,
    config: ObjectiveConfig,
    taking_part: Tensor,
    matches: PairMatches,
    pair: int,
) -> Tensor:
    views = (pair, pair + len(batch))
    descriptors0, descriptors1 = output.descriptors[views[0]], output.descriptors[views[1]]
    trusted = matches.indices[matches.inliers] if int(matches.inliers.sum()) >= 8 else matches.indices
    positive = bool(batch.positive[pair])
    if config.descriptor_loss == "margin" or not positive:
        margins = {"positive_margin": config.positive_margin, "negative_margin": config.negative_margin}
        return margin_loss(descriptors0, descriptors1, trusted, positive=positive, **margins)
    if batch.H_0to1[pair].isfinite().all():
        there = _warp_infonce(output, config, taking_part, *views)
        back = _warp_infonce(output, config, taking_part, *views[::-1])
        return (there + back) / 2
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


def _repeatability(output: PolicyOutput, batch: PairBatch, config: ObjectiveConfig) -> Tensor:
    """The self-pairs' loss of repeatability, each view in turn being the first."""
    samples, pairs = output.samples, len(batch)
    by_warp = batch.H_0to1.isfinite().flatten(1).all(dim=1).to(samples.inside.device)
    if not by_warp.any():
        return samples.log_positions.sum() * 0
    first, second = (samples.log_positions[half][by_warp] for half in (slice(pairs), slice(pairs, None)))
    part0, part1 = ((samples.inside & output.visible)[half][by_warp] for half in (slice(pairs), slice(pairs, None)))
    warp = batch.H_0to1.to(first.device)[by_warp]
    size = (batch.images.shape[-2], batch.images.shape[-1])
    there = repeatability_loss(first, second, warp, part0, size, config.repeatability_spread)
    back = repeatability_loss(second, first, torch.linalg.inv(warp), part1, size, config.repeatability_spread)
    return (there + back) / 2


def _figures(taking_part: Tensor, matches: list[PairMatches], batch: PairBatch) -> dict[str, float]:
    """Counts of the batch, in keypoints per view and matches per pair; shares by kind of pair where there is one."""
    by_warp = batch.H_0to1.isfinite().all(dim=-1).all(dim=-1)
    kinds = {"self": by_warp, "real": batch.positive & ~by_warp, "negative": ~batch.positive}
    figures = {
        "keypoints": float(taking_part.sum() / len(taking_part)),
        "matches": sum(len(pair.indices) for pair in matches) / max(len(matches), 1),
        "skipped_pairs": float(sum(len(pair.indices) == 0 for pair in matches)),
        "skipped_files": float(len(batch.skipped)),
    }
    for kind, members in kinds.items():
        chosen = [pair for pair, member in zip(matches, members.tolist(), strict=True) if member]
        total = sum(len(pair.indices) for pair in chosen)
        if total > 0:
            figures[f"inlier_ratio/{kind}"] = sum(int(pair.inliers.sum()) for pair in chosen) / total
    return figures
