"""Keypoints that come back: how probably both views of a self-pair put theirs on the same point, without sampling.

REINFORCE learns where in its cell a keypoint belongs from single draws. Where the warp between the views is known, the
expectation over all draws of both views is there in closed form, and with it a gradient that has no variance.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from ripe.geometry.homography import apply_homography
from ripe.objective.cells import from_cells, to_cells

FLOOR = 0.05
"""Added to the probability before its logarithm: cells of nothing but sky have no gradient worth following."""


def repeatability_loss(
    log_positions0: Tensor,
    log_positions1: Tensor,
    H_0to1: Tensor,  # noqa: N803
    taking_part: Tensor,
    size: tuple[int, int],
    spread: float,
    count: float | None = None,
) -> Tensor:
    """−log of the probability that a keypoint of the first view has one of the second where the warp takes it.

    Two keypoints at a distance d count exp(−d² / 2·spread²) of one. The probability is smallest for positions drawn
    anywhere in their cells, and near 1 where both views draw one position each, the same point of the scene.

    Args:
        log_positions0: B×N×64 log-probabilities of the positions in the cells of the first views.
        log_positions1: B×N×64, likewise of the second views.
        H_0to1: B×3×3, pixels of the first views to pixels of the second.
        taking_part: B×N bool, cells of the first views that count.
        size: (height, width) of the views in pixels.
        spread: in pixels.
        count: number of cells that the mean runs over, where these views are a part of a batch.

    Returns:
        A scalar, the mean over cells; a differentiable zero if no cell counts.
    """
    height, width = size
    density = _blur(from_cells(log_positions1.exp(), size), spread)
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    pixels = torch.stack([x, y], dim=-1).reshape(1, -1, 2).to(H_0to1)
    warped = apply_homography(H_0to1, pixels).reshape(-1, height, width, 2)
    grid = (2 * warped / warped.new_tensor([width - 1, height - 1]) - 1).nan_to_num(2.0).clamp(-2, 2)
    met = F.grid_sample(density[:, None], grid, align_corners=True)[:, 0]
    probability = (log_positions0.exp() * to_cells(met)).sum(dim=-1)
    counted = -(probability[taking_part] + FLOOR).log()
    return counted.sum() / max(counted.numel() if count is None else count, 1)


def _blur(maps: Tensor, spread: float) -> Tensor:
    """B×H×W maps, every pixel spread to a Gaussian whose peak keeps its value."""
    reach = int(3 * spread + 0.5)
    steps = torch.arange(-reach, reach + 1, device=maps.device, dtype=maps.dtype)
    kernel = torch.exp(-steps.square() / (2 * spread**2))
    columns = F.conv2d(maps[:, None], kernel.view(1, 1, -1, 1), padding=(reach, 0))
    return F.conv2d(columns, kernel.view(1, 1, 1, -1), padding=(0, reach))[:, 0]
