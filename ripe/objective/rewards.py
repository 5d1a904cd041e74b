"""Rewards: what a match is worth, and which cells of a pair take part."""

from dataclasses import dataclass

import torch
from torch import Tensor

from ripe.objective.sampling import PairMatches, SampledPair
from ripe.recipe.config import ObjectiveConfig, RewardType
from ripe.recipe.schedule import Now


@dataclass(frozen=True)
class PairRewards:
    """The N0×N1 reward grid of a pair, kept sparse.

    Attributes:
        matches: K×2 int64, the cells (i, j) of the entries below; both take part.
        rewards: K float32, the grid at those entries.
        background: the grid everywhere else.
        cells0: N0 bool, the rows of the grid: cells of the first image that take part.
        cells1: N1 bool, its columns.
    """

    matches: Tensor
    rewards: Tensor
    background: float
    cells0: Tensor
    cells1: Tensor

    @property
    def total(self) -> Tensor:
        """Sum of the whole grid."""
        rest = int(self.cells0.sum()) * int(self.cells1.sum()) - len(self.matches)
        return self.rewards.sum() + self.background * rest


def reward(pair: SampledPair, matches: PairMatches, config: ObjectiveConfig, now: Now) -> PairRewards:
    """The reward grid of a pair of a batch, as the settings have it now; see `pair_rewards`."""
    if config.selected_only:
        cells0, cells1 = pair.first.chosen, pair.second.chosen
    elif config.padding_mode == "ignore":
        cells0, cells1 = pair.first.inside, pair.second.inside
    else:
        cells0, cells1 = torch.ones_like(pair.first.inside), torch.ones_like(pair.second.inside)
    num_inliers = int(matches.inliers.sum())
    return pair_rewards(
        matches.indices,
        matches.inliers,
        positive=pair.positive,
        cells0=cells0,
        cells1=cells1,
        inside0=pair.first.inside,
        inside1=pair.second.inside,
        worth=inlier_worth(num_inliers, len(matches.inliers), config.reward_type, now.ratio_share),
        miss_penalty=now.penalties * config.miss_penalty,
        outlier_reward=None if config.outlier_reward is None else now.penalties * config.outlier_reward,
    )


def inlier_worth(num_inliers: int, num_matches: int, reward_type: RewardType, ratio_share: float = 0.0) -> float:
    """Size of the reward of one inlier match.

    Args:
        num_inliers: inliers of the pair.
        num_matches: matches of the pair.
        reward_type: 1, the pair's inlier ratio, or a blend of the two.
        ratio_share: share of the inlier ratio in the blend, 0..1 ("beta" of the published run).
    """
    ratio = num_inliers / max(num_matches, 1)
    match reward_type:
        case "inlier":
            return 1.0
        case "inlier_ratio":
            return ratio
        case "inlier+inlier_ratio":
            return (1 - ratio_share) + ratio_share * ratio


def pair_rewards(
    matches: Tensor,
    inliers: Tensor,
    *,
    positive: bool,
    cells0: Tensor,
    cells1: Tensor,
    inside0: Tensor,
    inside1: Tensor,
    worth: float = 1.0,
    miss_penalty: float = 0.0,
    outlier_reward: float | None = None,
) -> PairRewards:
    """The reward grid of one pair.

    An inlier earns `worth` in a positive pair and costs it in a negative one, where it is a mistake. Inliers that touch
    the padding cost 1; where padding is ignored, `cells0` and `cells1` leave it out beforehand.

    Args:
        matches: K×2 int64 indices of matched cells that take part.
        inliers: K bool.
        positive: whether both photos show one scene.
        cells0: N0 bool, cells of the first image that take part.
        cells1: N1 bool, likewise.
        inside0: N0 bool, False on padding.
        inside1: N1 bool, likewise.
        worth: reward of an inlier; see `inlier_worth`.
        miss_penalty: reward (0 or less) of every other cell pair of a positive pair; sign flipped for a negative one.
        outlier_reward: reward of a match of a positive pair that is no inlier; `miss_penalty` if None.
    """
    sign = 1.0 if positive else -1.0
    background = sign * miss_penalty
    rewards = torch.full(inliers.shape, background, device=inliers.device)
    if outlier_reward is not None and positive:
        rewards = torch.full_like(rewards, outlier_reward)
    rewards = torch.where(inliers, sign * worth, rewards)
    touching = inliers & ~(inside0[matches[:, 0]] & inside1[matches[:, 1]])
    rewards = torch.where(touching, -1.0, rewards)
    return PairRewards(matches, rewards, background, cells0, cells1)
