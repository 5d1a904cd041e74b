"""The policy: one keypoint proposed in every 8×8 cell of the score map, then accepted or rejected."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ripe.recipe.config import CELL


class CellSamples(NamedTuple):
    """What the policy drew for B images of N cells each, row by row.

    Attributes:
        keypoints: B×N×2 float32, the proposed (x, y) in pixels.
        log_positions: B×N×64, log p of every position in a cell; differentiable.
        log_probs: B×N, log p(position) + log p(accepted or rejected, as drawn); differentiable.
        entropies: B×N, entropy of both draws; differentiable.
        acceptance: B×N, probability that the proposal is accepted; differentiable.
        interior: B×N bool, whether the proposal is not near the image border.
        selected: B×N bool, accepted and interior.
        inside: B×N bool, False where any pixel of the cell is padding.
    """

    keypoints: Tensor
    log_positions: Tensor
    log_probs: Tensor
    entropies: Tensor
    acceptance: Tensor
    interior: Tensor
    selected: Tensor
    inside: Tensor


def to_cells(maps: Tensor) -> Tensor:
    """Rearrange B×H×W maps (H, W multiples of 8) to B×N×64: cells row by row, pixels of a cell row by row."""
    batch, height, width = maps.shape
    cells = maps.reshape(batch, height // CELL, CELL, width // CELL, CELL).transpose(2, 3)
    return cells.reshape(batch, -1, CELL * CELL)


def from_cells(cells: Tensor, size: tuple[int, int]) -> Tensor:
    """Rearrange B×N×64 values of cells to B×H×W maps of (H, W) `size`: the inverse of `to_cells`."""
    height, width = size
    grid = cells.reshape(-1, height // CELL, width // CELL, CELL, CELL).transpose(2, 3)
    return grid.reshape(-1, height, width)


def sample_cells(
    logits: Tensor, valid: Tensor, generator: torch.Generator | Sequence[torch.Generator], border: int = 16
) -> CellSamples:
    """Draw position ~ Categorical(64 logits) and acceptance ~ Bernoulli(logit of the drawn pixel) in every cell.

    Args:
        logits: B×1×H×W score maps, H and W multiples of 8.
        valid: B×H×W bool, False on padding.
        generator: source of randomness, on the device of `logits`; or one for each image, so that what an image draws
            does not depend on the images beside it.
        border: keypoints nearer than this many pixels to the image border are not selected.
    """
    height, width = logits.shape[-2:]
    cells = to_cells(logits[:, 0].float())
    log_positions = F.log_softmax(cells, dim=-1)
    race, uniform = _noise(cells, generator)
    # The least of exponential waiting times with rates p is number k with probability p_k.
    choice = (log_positions.detach().exp() / race).argmax(dim=-1, keepdim=True)
    chosen = cells.gather(-1, choice)[..., 0]
    acceptance = torch.sigmoid(chosen)
    accepted = uniform < acceptance.detach()
    log_accept = torch.where(accepted, F.logsigmoid(chosen), F.logsigmoid(-chosen))

    keypoints = _cell_origins(height, width, logits.device) + torch.cat([choice % CELL, choice // CELL], dim=-1)
    low, high = keypoints.new_tensor([border, border]), keypoints.new_tensor([width, height]) - border
    interior = ((keypoints >= low) & (keypoints < high)).all(dim=-1)
    return CellSamples(
        keypoints=keypoints.float(),
        log_positions=log_positions,
        log_probs=log_positions.gather(-1, choice)[..., 0] + log_accept,
        entropies=-(log_positions.exp() * log_positions).sum(dim=-1) + _bernoulli_entropy(chosen),
        acceptance=acceptance,
        interior=interior,
        selected=accepted & interior,
        inside=to_cells(valid).all(dim=-1),
    )


def _noise(cells: Tensor, generator: torch.Generator | Sequence[torch.Generator]) -> tuple[Tensor, Tensor]:
    """Exponential noise B×N×64 and uniform noise B×N for B×N×64 `cells`."""
    if isinstance(generator, torch.Generator):
        uniform = torch.rand(cells.shape[:2], generator=generator, device=cells.device)
        return torch.empty_like(cells).exponential_(generator=generator), uniform
    races, uniforms = zip(*(_noise(image[None], own) for image, own in zip(cells, generator, strict=True)), strict=True)
    return torch.cat(races), torch.cat(uniforms)


def _cell_origins(height: int, width: int, device: torch.device) -> Tensor:
    y = torch.arange(0, height, CELL, device=device)
    x = torch.arange(0, width, CELL, device=device)
    return torch.stack(torch.meshgrid(x, y, indexing="xy"), dim=-1).reshape(-1, 2)


def _bernoulli_entropy(logits: Tensor) -> Tensor:
    return F.softplus(logits) - logits * torch.sigmoid(logits)
