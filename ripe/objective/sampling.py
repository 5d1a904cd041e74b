"""Both views of a batch through the network, and what the policy draws there."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ripe.data.batch import PairBatch
from ripe.geometry.homography import apply_homography
from ripe.model import RIPE
from ripe.objective.cells import CellSamples, sample_cells
from ripe.recipe.config import PaddingMode


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


class SampledView(NamedTuple):
    """One view of N cells; see `CellSamples` and `PolicyOutput`.

    Attributes:
        chosen: N bool, the selected cells that take part: where padding is ignored, those on it do not.
    """

    descriptors: Tensor
    counterparts: Tensor
    keypoints: Tensor
    log_probs: Tensor
    chosen: Tensor
    inside: Tensor
    warped: Tensor
    visible: Tensor


class SampledPair(NamedTuple):
    """Both views of a pair, whether they show one scene, and the 3×3 warp between them if it is known."""

    first: SampledView
    second: SampledView
    positive: bool
    warp: Tensor | None

    @property
    def views(self) -> tuple[SampledView, SampledView]:
        """The first and the second one."""
        return self.first, self.second

    @property
    def kind(self) -> str:
        """Of one photo, of two photos of a scene, or of two scenes."""
        return "negative" if not self.positive else "real" if self.warp is None else "self"


class PairMatches(NamedTuple):
    """Matched cells of one pair (K×2 int64) and which of them are right (K bool)."""

    indices: Tensor
    inliers: Tensor


def split_pairs(output: PolicyOutput, batch: PairBatch, padding_mode: PaddingMode) -> list[SampledPair]:
    """What the policy made of a batch, pair by pair."""
    samples = output.samples
    chosen = samples.selected & samples.inside if padding_mode == "ignore" else samples.selected
    columns = (samples.keypoints, samples.log_probs, chosen, samples.inside, output.warped, output.visible)
    rows = zip(output.descriptors, output.counterparts, *(column.unbind() for column in columns), strict=True)
    views = [SampledView(*row) for row in rows]
    warps = batch.H_0to1.to(samples.keypoints.device)
    known = [warp if by_warp else None for warp, by_warp in zip(warps, batch.by_warp.tolist(), strict=True)]
    count = len(batch)
    return [
        SampledPair(*both) for both in zip(views[:count], views[count:], batch.positive.tolist(), known, strict=True)
    ]


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
        places = torch.cat([samples.keypoints, landing(warped, images.shape[-1])], dim=1)
        descriptors, landed = self.model.describe(maps, places).split(cells, 1)
        visible = _looks_valid(warped, valid.roll(pairs, dims=0))
        return PolicyOutput(
            samples, maps.logits[:, 0], descriptors.unbind(), warped, landed.roll(pairs, dims=0).unbind(), visible
        )


def landing(warped: Tensor, side: int) -> Tensor:
    """Where each of 2P views of that side can be described at the other's proposals: 2P×N×2, by `PolicyOutput.warped`.

    Places far outside are moved to the border, and unknown ones anywhere.
    """
    return warped.roll(len(warped) // 2, dims=0).nan_to_num(0.0).clamp(-1.0, float(side))


def _looks_valid(points: Tensor, valid: Tensor) -> Tensor:
    height, width = valid.shape[-2:]
    nearest = points.nan_to_num(-1e6).round().long()
    inside = (nearest >= 0).all(dim=-1) & (nearest[..., 0] < width) & (nearest[..., 1] < height)
    index = nearest[..., 1].clamp(0, height - 1) * width + nearest[..., 0].clamp(0, width - 1)
    return inside & valid.flatten(1).gather(1, index)
