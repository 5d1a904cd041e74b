"""Matching of descriptors."""

import torch
from torch import Tensor

from ripe.features import Features, Matches


def mutual_nearest_neighbours(descriptors0: Tensor, descriptors1: Tensor) -> tuple[Tensor, Tensor]:
    """Pairs of descriptors that are each other's nearest.

    Args:
        descriptors0: N0×D, of unit length.
        descriptors1: N1×D, of unit length.

    Returns:
        K×2 int64 indices, ordered by the first column, and their K cosine similarities. Of several equally near
        neighbours the first counts.
    """
    if len(descriptors0) == 0 or len(descriptors1) == 0:
        return descriptors0.new_zeros((0, 2), dtype=torch.int64), descriptors0.new_zeros(0)
    similarity = descriptors0 @ descriptors1.T
    scores, nearest1 = similarity.max(dim=1)
    nearest0 = similarity.argmax(dim=0)
    index0 = torch.arange(len(descriptors0), device=descriptors0.device)
    mutual = nearest0[nearest1] == index0
    return torch.stack([index0[mutual], nearest1[mutual]], dim=-1), scores[mutual]


def match(features0: Features, features1: Features, *, min_similarity: float = -1.0) -> Matches:
    """Match two images' features by mutual nearest neighbours.

    Args:
        features0: features of the first image.
        features1: features of the second image, from the same model.
        min_similarity: drop matches with a lower cosine similarity (−1..1).

    Raises:
        ValueError: the descriptors' lengths differ, as those of two different models do.
    """
    if features0.descriptors.shape[1] != features1.descriptors.shape[1]:
        raise ValueError(
            f"descriptors of {features0.descriptors.shape[1]} and {features1.descriptors.shape[1]} numbers cannot be "
            "matched; extract both images with the same model"
        )
    indices, scores = mutual_nearest_neighbours(features0.descriptors, features1.descriptors)
    kept = scores >= min_similarity
    return Matches(indices[kept], scores[kept])
