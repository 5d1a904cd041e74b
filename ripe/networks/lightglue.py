"""The network that matches two images' keypoints: LightGlue (Lindenberger, Sarlin and Pollefeys, ICCV 2023).

Descriptors of both images pass layers of attention within an image, which sees where keypoints lie to each other, and
of attention between the images. After every layer a head says how well each two keypoints match, and whether a keypoint
has a partner at all. Beside the published network it is small, and starts as what it is to surpass: with random weights
all layers change nothing, so that it finds the mutual nearest neighbours of the descriptors.
"""

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ripe import checks

WIDEST = 4096  # of what is between layers
DEEPEST = 100  # layers
SHARPNESS = 20.0
"""What cosine similarities are multiplied by at the start, before the softmax."""
CONFIDENT_SHARE = 0.95
"""Of the keypoints, that must be sure of their match for the remaining layers to be left out."""
HOPELESS = 0.01
"""Keypoints that surely have a partner with less than this probability take no part in the next layers."""
ABSENT = -1e4  # logarithm of a probability that counts as none; infinity would make NaN of rows without any

Size = tuple[int, int]


class Points(NamedTuple):
    """Keypoints of B images, filled up to the same number N.

    Attributes:
        positions: B×N×2, see `normalised`.
        descriptors: B×N×D, of unit length.
        present: B×N bool, False for what only fills up; None if all are there.
    """

    positions: Tensor
    descriptors: Tensor
    present: Tensor | None = None


class Assignment(NamedTuple):
    """What one layer makes of B pairs of images with N0 and N1 keypoints.

    Attributes:
        log_scores: B×N0×N1, logarithms of the probabilities that two keypoints match.
        matchable0: B×N0 logits that a keypoint of the first image has a partner.
        matchable1: B×N1, likewise of the second.
        confident0: B×N0 logits that later layers will not change its match; None for the last layer.
        confident1: B×N1, likewise.
    """

    log_scores: Tensor
    matchable0: Tensor
    matchable1: Tensor
    confident0: Tensor | None = None
    confident1: Tensor | None = None


def normalised(keypoints: Tensor, image_size: Size | Tensor) -> Tensor:
    """Keypoints …×2 in pixels as −1..1 along the longer side of an image of (width, height), 0 in its middle."""
    size = image_size if isinstance(image_size, Tensor) else keypoints.new_tensor(image_size)
    return (keypoints - (size - 1) / 2) / (size.max() / 2)


class LightGlue(nn.Module):
    """Matches keypoints by descriptors and positions.

    Args:
        descriptor_dim: numbers of a descriptor.
        width: numbers of a keypoint inside the network.
        layers: each of attention within the images, and between them.
        heads: of each attention; they share `width`, and each has an even part of it.

    Raises:
        ValueError: a number is no whole one from 1 on, or beyond all use, or `width` cannot be shared so.
    """

    def __init__(self, descriptor_dim: int = 128, width: int = 128, layers: int = 4, heads: int = 2) -> None:
        super().__init__()
        checks.whole_number(descriptor_dim, "descriptor_dim", 1, WIDEST)
        checks.whole_number(width, "width", 1, WIDEST)
        checks.whole_number(layers, "layers", 1, DEEPEST)
        checks.whole_number(heads, "heads", 1, WIDEST)
        if width % (2 * heads):
            raise ValueError(f"width is {width}; {heads} heads need a multiple of {2 * heads}")
        self.descriptor_dim, self.width, self.heads = descriptor_dim, width, heads
        self.input = nn.Identity() if descriptor_dim == width else nn.Linear(descriptor_dim, width)
        self.positions = _Rotary(width // heads)
        self.within = nn.ModuleList([_Within(width, heads) for _ in range(layers)])
        self.between = nn.ModuleList([_Between(width, heads) for _ in range(layers)])
        self.assign = nn.ModuleList([_Assign(width) for _ in range(layers)])
        self.confidence = nn.ModuleList([nn.Linear(width, 1) for _ in range(layers - 1)])

    def options(self) -> dict[str, int]:
        """What it was built with."""
        layers = len(self.assign)
        return {"descriptor_dim": self.descriptor_dim, "width": self.width, "layers": layers, "heads": self.heads}

    def forward(self, first: Points, second: Points) -> list[Assignment]:
        """What each layer makes of the pairs, the last one's being the answer; differentiable."""
        states = [self._entered(points) for points in (first, second)]
        rotations = [self.positions(points.positions) for points in (first, second)]
        masks = [None if points.present is None else points.present[:, None, None] for points in (first, second)]
        both = None
        if first.present is not None and second.present is not None:
            both = first.present[:, :, None] & second.present[:, None]
        found = []
        for layer, assign in enumerate(self.assign):
            states = self._layer(layer, states, rotations, masks)
            assignment = assign(*states, both)
            if layer < len(self.confidence):
                # That a keypoint is sure of itself must not change what it is.
                sure = [self.confidence[layer](state.detach())[..., 0] for state in states]
                assignment = assignment._replace(confident0=sure[0], confident1=sure[1])
            found.append(assignment)
        return found

    @torch.no_grad()
    def match(self, first: Points, second: Points, *, early: bool = True) -> tuple[Tensor, Tensor]:
        """Matches of one pair of images.

        Args:
            first: of one image, all present.
            second: likewise.
            early: whether layers are left out once nearly all keypoints are sure of their match, and keypoints that
                surely have no partner.

        Returns:
            K×2 int64 indices of keypoints that are each other's best, ordered by the first column, and K probabilities.
        """
        counts = first.positions.shape[1], second.positions.shape[1]
        if 0 in counts:
            return first.positions.new_zeros((0, 2), dtype=torch.int64), first.positions.new_zeros(0)
        kept = [torch.arange(count, device=first.positions.device) for count in counts]
        states = [self._entered(points) for points in (first, second)]
        rotations = [self.positions(points.positions) for points in (first, second)]
        for layer in range(len(self.assign)):
            states = self._layer(layer, states, rotations, [None, None])
            if not early or layer == len(self.confidence):
                continue
            limit = _sure(layer, len(self.assign))
            sure = [self.confidence[layer](state)[0, :, 0].sigmoid() > limit for state in states]
            # Those that were left out were sure.
            unsure = sum(int((~side).sum()) for side in sure)
            if unsure < (1 - CONFIDENT_SHARE) * sum(counts):
                break
            assign = self.assign[layer]
            assert isinstance(assign, _Assign)
            for side in (0, 1):
                hopeful = assign.partner(states[side])[0, :, 0].sigmoid() > HOPELESS
                stays = (hopeful | ~sure[side]).nonzero()[:, 0]
                if len(stays) == 0:
                    return kept[0].new_zeros((0, 2)), first.positions.new_zeros(0)
                states[side], kept[side] = states[side][:, stays], kept[side][stays]
                rotations[side] = tuple(part[:, :, stays] for part in rotations[side])
        indices, scores = mutual_best(self.assign[layer](*states).log_scores[0])
        return torch.stack([kept[0][indices[:, 0]], kept[1][indices[:, 1]]], dim=-1), scores.exp()

    def _entered(self, points: Points) -> Tensor:
        # Numbers of about one, as attention wants them.
        return self.input(points.descriptors) * math.sqrt(self.width)

    def _layer(self, layer: int, states: list[Tensor], rotations: list, masks: list) -> list[Tensor]:
        states = [self.within[layer](*side) for side in zip(states, rotations, masks, strict=True)]
        return list(self.between[layer](*states, *masks))


def mutual_best(log_scores: Tensor) -> tuple[Tensor, Tensor]:
    """Entries of an N0×N1 matrix (N0, N1 of 1 or more) that are largest in row and column: K×2 int64, and their values.

    They are ordered by the first column.
    """
    best = log_scores.argmax(dim=1)
    rows = torch.arange(best.shape[0], device=best.device)  # len() would be a constant where this is exported
    mutual = log_scores.argmax(dim=0)[best] == rows
    return torch.stack([rows[mutual], best[mutual]], dim=-1), log_scores[rows[mutual], best[mutual]]


def _sure(layer: int, layers: int) -> float:
    """From which confidence on a keypoint is sure of its match; less is asked for of later layers, as published."""
    return 0.8 + 0.1 * math.exp(-4.0 * layer / layers)


class _Rotary(nn.Module):
    """Positions as rotations of pairs of numbers, by learned frequencies (Su et al. 2021; Li et al. 2021)."""

    def __init__(self, head_dim: int) -> None:
        super().__init__()
        self.frequencies = nn.Linear(2, head_dim // 2, bias=False)
        nn.init.normal_(self.frequencies.weight)

    def forward(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Cosines and sines, each B×1×N×head_dim, of B×N×2 positions."""
        angles = self.frequencies(positions).repeat_interleave(2, dim=-1)[:, None]
        return angles.cos(), angles.sin()


def _rotated(values: Tensor, rotation: tuple[Tensor, Tensor]) -> Tensor:
    cosine, sine = rotation
    first, second = values.unflatten(-1, (-1, 2)).unbind(dim=-1)
    return values * cosine + torch.stack([-second, first], dim=-1).flatten(-2) * sine


class _Within(nn.Module):
    """Attention of an image's keypoints to each other, by what they are and how they lie to each other."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.project = nn.Linear(width, 3 * width)
        self.change = _Change(width)

    def forward(self, state: Tensor, rotation: tuple[Tensor, Tensor], mask: Tensor | None) -> Tensor:
        query, key, value = (_split(part, self.heads) for part in self.project(state).chunk(3, dim=-1))
        query, key = _rotated(query, rotation), _rotated(key, rotation)
        return self.change(state, F.scaled_dot_product_attention(query, key, value, attn_mask=mask))


class _Between(nn.Module):
    """Attention of each image's keypoints to those of the other, alike in both directions."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.project = nn.Linear(width, 2 * width)
        self.change = _Change(width)

    def forward(
        self, state0: Tensor, state1: Tensor, mask0: Tensor | None, mask1: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        (key0, value0), (key1, value1) = (
            (_split(part, self.heads) for part in self.project(state).chunk(2, dim=-1)) for state in (state0, state1)
        )
        return (
            self.change(state0, F.scaled_dot_product_attention(key0, key1, value1, attn_mask=mask1)),
            self.change(state1, F.scaled_dot_product_attention(key1, key0, value0, attn_mask=mask0)),
        )


class _Change(nn.Module):
    """What a message does to the keypoints that it reaches; nothing, before it is trained."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.message = nn.Linear(width, width)
        last = nn.Linear(2 * width, width)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        self.layers = nn.Sequential(nn.Linear(2 * width, 2 * width), nn.LayerNorm(2 * width), nn.GELU(), last)

    def forward(self, state: Tensor, message: Tensor) -> Tensor:
        message = self.message(message.transpose(1, 2).flatten(-2))
        return state + self.layers(torch.cat([state, message], dim=-1))


class _Assign(nn.Module):
    """How well keypoints match: softmax along both images, times the probabilities that both have a partner."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.project = nn.Linear(width, width)
        self.partner = nn.Linear(width, 1)
        nn.init.eye_(self.project.weight)
        nn.init.zeros_(self.project.bias)
        with torch.no_grad():
            self.project.weight *= math.sqrt(SHARPNESS / width)

    def forward(self, state0: Tensor, state1: Tensor, both: Tensor | None = None) -> Assignment:
        # In float32, as sums over thousands of keypoints are taken of it.
        similarity = (self.project(state0) @ self.project(state1).mT).float()
        if both is not None:
            similarity = similarity.masked_fill(~both, ABSENT)
        partner0, partner1 = (self.partner(state)[..., 0].float() for state in (state0, state1))
        log_scores = similarity.log_softmax(dim=1) + similarity.log_softmax(dim=2)
        log_scores = log_scores + F.logsigmoid(partner0)[:, :, None] + F.logsigmoid(partner1)[:, None]
        if both is not None:
            log_scores = log_scores.masked_fill(~both, ABSENT)
        return Assignment(log_scores, partner0, partner1)


def _split(values: Tensor, heads: int) -> Tensor:
    """B×heads×N×(width / heads) of B×N×width."""
    return values.unflatten(-1, (heads, -1)).transpose(1, 2)
