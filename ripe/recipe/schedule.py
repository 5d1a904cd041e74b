"""The whole schedule: what moves over a run, and when. All else stays as it is set.

| what | from | to | when |
|---|---|---|---|
| learning rate | 0 | `optimizer.lr` | the first `warmup_steps` |
| | `optimizer.lr` | `final_lr` | the last `decay_share` of the run |
| penalties (alpha) | 0 | as they are set | the first `objective.penalty_ramp` of the run |
| share of cells with a keypoint | `keypoint_share_start` | `keypoint_share_end` | likewise |
| inlier ratio in the blended reward (beta) | 0 | 1 | the whole run |
| epipolar error of an inlier | `inlier_threshold` + `_extra` | `inlier_threshold` | exponentially, by the step |
| error of a self-pair's inlier | `warp_threshold_start` | `warp_threshold_end` | the whole run |
| warps of self-pairs | a shift | `data.warp` | the first `data.warp_ramp` of the run |
"""

import math
from typing import NamedTuple

from ripe.recipe.config import DataConfig, TrainConfig, WarpConfig


class Now(NamedTuple):
    """What the moving settings are at a step.

    Attributes:
        learning_rate: of AdamW.
        penalties: share of `miss_penalty`, `outlier_reward` and `keypoint_penalty` that is in force, 0..1.
        keypoint_share: share of the cells that is to give a keypoint, 0..1.
        ratio_share: share of the inlier ratio in the reward `inlier+inlier_ratio`, 0..1.
        epipolar_threshold: largest epipolar error of an inlier, pixels.
        warp_threshold: largest error of an inlier of a self-pair, pixels.
    """

    learning_rate: float
    penalties: float
    keypoint_share: float
    ratio_share: float
    epipolar_threshold: float
    warp_threshold: float


def at(step: int, config: TrainConfig) -> Now:
    """The moving settings at a step, 0 to `config.steps`."""
    objective, optimizer = config.objective, config.optimizer
    progress = step / config.steps
    warm = min(1.0, (step + 1) / max(optimizer.warmup_steps, 1))
    decay = min(1.0, (config.steps - step) / max(optimizer.decay_share * config.steps, 1))
    ramp = _risen(progress, objective.penalty_ramp)
    return Now(
        learning_rate=_between(optimizer.final_lr, optimizer.lr, min(warm, decay)),
        penalties=ramp,
        keypoint_share=_between(objective.keypoint_share_start, objective.keypoint_share_end, ramp),
        ratio_share=progress,
        epipolar_threshold=objective.inlier_threshold
        + objective.inlier_threshold_extra * math.exp(-objective.inlier_threshold_decay * step),
        warp_threshold=_between(objective.warp_threshold_start, objective.warp_threshold_end, progress),
    )


def warp_at(progress: float, data: DataConfig) -> WarpConfig:
    """How strongly the views of a self-pair differ when the share `progress` of the run is done."""
    strength = _risen(progress, data.warp_ramp)
    return data.warp if strength == 1 else data.warp.weakened(strength)


def _risen(progress: float, ramp: float) -> float:
    return min(1.0, progress / ramp) if ramp > 0 else 1.0


def _between(start: float, end: float, share: float) -> float:
    return start + (end - start) * share
