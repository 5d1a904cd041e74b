"""Which pairs of photos are matched."""

from collections.abc import Mapping, Sequence
from itertools import combinations

import torch
from torch import Tensor

from ripe.matching import similarity
from ripe.storage import Pair

LOOKED_AT = 256


def exhaustive(names: Sequence[str]) -> list[Pair]:
    """Every pair."""
    return list(combinations(names, 2))


def sequential(names: Sequence[str], neighbours: int) -> list[Pair]:
    """Every photo with the `neighbours` ones that follow it: for photos in the order in which they were taken."""
    return [(name, other) for index, name in enumerate(names) for other in names[index + 1 : index + 1 + neighbours]]


def similar(descriptors: Mapping[str, Tensor], neighbours: int) -> list[Pair]:
    """Every photo with the `neighbours` ones that resemble it most.

    No network for retrieval is needed: two photos are as similar as the descriptors of their best 256 keypoints are.
    That costs about a hundredth of matching 2048 keypoints.

    Args:
        descriptors: of each photo, N×D, best keypoint first, of unit length; of which the first 256 are looked at.
        neighbours: how many partners each photo chooses; it may be chosen by others besides.
    """
    names = list(descriptors)
    best = [descriptors[name][:LOOKED_AT] for name in names]
    scores = torch.full((len(names), len(names)), -torch.inf)
    for first, second in combinations(range(len(names)), 2):
        scores[first, second] = scores[second, first] = similarity(best[first], best[second])
    chosen = set()
    for index in range(len(names)):
        partners = scores[index].topk(min(neighbours, len(names) - 1)).indices.tolist()
        chosen |= {(min(index, partner), max(index, partner)) for partner in partners}
    return [(names[first], names[second]) for first, second in sorted(chosen)]
