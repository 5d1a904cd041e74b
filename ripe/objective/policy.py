"""The policy's part of the loss: REINFORCE on the rewards, and what holds the number of keypoints."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ripe.objective.rewards import PairRewards


def policy_loss(pairs: Sequence[tuple[Tensor, Tensor, PairRewards]], entries: float | None = None) -> Tensor:
    """Minus the mean of reward(i, j) · (log_prob0(i) + log_prob1(j)) over all grid entries of all pairs together.

    The grid never exists. With the reward r on matches and a constant p elsewhere, the sum over a pair's grid is
    Σ_matches (r − p)(log_prob0 + log_prob1) + p (N1 Σ log_prob0 + N0 Σ log_prob1): linear in the number of cells.

    Args:
        pairs: for each pair log_prob0 (N0) and log_prob1 (N1) of all cells, and its rewards.
        entries: number of grid entries that the mean runs over, where these pairs are a part of a batch; see
            `grid_entries`.

    Returns:
        A scalar; a differentiable zero where no cell takes part.
    """
    total = sum((log_probs0.sum() + log_probs1.sum()) * 0 for log_probs0, log_probs1, _ in pairs)
    for log_probs0, log_probs1, rewards in pairs:
        first, second = rewards.matches.unbind(dim=1)
        excess = rewards.rewards - rewards.background
        total = total + (excess * (log_probs0[first] + log_probs1[second])).sum()
        if rewards.background != 0:
            rows, columns = rewards.cells0.sum(), rewards.cells1.sum()
            kept = columns * log_probs0[rewards.cells0].sum() + rows * log_probs1[rewards.cells1].sum()
            total = total + rewards.background * kept
    return -torch.as_tensor(total) / max(grid_entries(pairs) if entries is None else entries, 1)


def grid_entries(pairs: Sequence[tuple[Tensor, Tensor, PairRewards]]) -> int:
    """Number of grid entries of all pairs together."""
    return sum(int(rewards.cells0.sum()) * int(rewards.cells1.sum()) for _, _, rewards in pairs)


def keypoint_cost(log_probs: Sequence[tuple[Tensor, Tensor]], selected: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
    """Mean over pairs of mean log_prob0 + mean log_prob1 of the selected cells.

    Minimising it makes keypoints dearer; its weight is the (positive) price. An image without selected cells adds 0.
    """
    terms = [
        _mean_or_zero(log_probs0[selected0]) + _mean_or_zero(log_probs1[selected1])
        for (log_probs0, log_probs1), (selected0, selected1) in zip(log_probs, selected, strict=True)
    ]
    return torch.stack(terms).mean() if terms else torch.zeros(())


def mean_reward_price(
    pairs: Sequence[tuple[Tensor, Tensor, PairRewards]],
    selected: Sequence[tuple[Tensor, Tensor]],
    entries: float | None = None,
) -> Tensor:
    """A price on every keypoint: what an average keypoint of its image earned.

    Added to `policy_loss`, it makes a choice more likely where it earned more than the image's mean keypoint, and less
    likely where it earned less. It is no baseline in Williams' sense (1992): it depends on what was drawn and only
    accepted proposals pay it, so its expected gradient is not zero. As it grows with the rewards, it is no obstacle
    early in training, when hardly a match is right, and selective later. It is indifferent to the number of keypoints;
    `share_cost` is not.

    Args:
        pairs: as in `policy_loss`.
        selected: for each pair which cells of both images were selected, N0 and N1 bool.
        entries: as in `policy_loss`.

    Returns:
        Σ over pairs of (Σ rewards) · (mean log_prob0 + mean log_prob1 of the selected cells), divided by the number of
        grid entries of all pairs, like the policy loss.
    """
    total = sum((log_probs0.sum() + log_probs1.sum()) * 0 for log_probs0, log_probs1, _ in pairs)
    for (log_probs0, log_probs1, rewards), (selected0, selected1) in zip(pairs, selected, strict=True):
        earned = rewards.rewards.sum()
        total = total + earned * (_mean_or_zero(log_probs0[selected0]) + _mean_or_zero(log_probs1[selected1]))
    return torch.as_tensor(total) / max(grid_entries(pairs) if entries is None else entries, 1)


def share_cost(
    acceptance: Tensor, inside: Tensor, target: float, total: Callable[[Tensor], Tensor] = lambda sums: sums
) -> Tensor:
    """Squared difference between the share of cells that accept their proposal, in expectation, and `target`.

    The share is that of all images together, so photos with much to see may have more keypoints than others.

    Args:
        acceptance: B×N probabilities.
        inside: B×N bool, cells that count.
        target: 0..1.
        total: adds a tensor up over all processes. The share is that of all processes' images; the results of all
            processes, and their gradients, add up to the cost and its gradient.
    """
    accepted = acceptance[inside].sum()
    mine = torch.stack([accepted.detach(), inside.sum()])
    sums = total(mine).clamp_min(torch.finfo(mine.dtype).tiny)
    off = sums[0] / sums[1] - target
    # The value and the gradient of the square, as others' acceptances are constants here.
    return off.square() * (mine[1] / sums[1]) + 2 * off * (accepted - accepted.detach()) / sums[1]


def _mean_or_zero(values: Tensor) -> Tensor:
    return values.sum() / max(values.numel(), 1)
