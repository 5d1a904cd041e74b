"""Matching of descriptors."""

import torch
from torch import Tensor

from ripe import checks
from ripe.features import Features, Matches


def mutual_nearest_neighbours(descriptors0: Tensor, descriptors1: Tensor) -> tuple[Tensor, Tensor]:
    """Pairs of descriptors that are each other's nearest.

    Args:
        descriptors0: N0×D, of unit length.
        descriptors1: N1×D, of unit length.

    Returns:
        K×2 int64 indices, ordered by the first column, and their K cosine similarities. Of several equally near
        neighbours the first counts.

    Raises:
        ValueError: they cannot be compared: D, type or device differ.
    """
    _check_comparable(descriptors0, descriptors1)
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
        ValueError: these are not the features of two images, hold NaN, or cannot be compared, as descriptors of two
            models cannot.
    """
    checks.features(features0, "features0")
    checks.features(features1, "features1")
    if not -1 <= min_similarity <= 1:
        raise ValueError(f"min_similarity is {min_similarity}; it must be in −1..1, a cosine")
    indices, scores = mutual_nearest_neighbours(features0.descriptors, features1.descriptors)
    kept = scores >= min_similarity
    return Matches(indices[kept], scores[kept])


def _check_comparable(descriptors0: Tensor, descriptors1: Tensor) -> None:
    if descriptors0.shape[1] != descriptors1.shape[1]:
        raise ValueError(
            f"descriptors of {descriptors0.shape[1]} and {descriptors1.shape[1]} numbers cannot be matched; extract "
            "both images with the same model"
        )
    for name in ("device", "dtype"):
        kinds = getattr(descriptors0, name), getattr(descriptors1, name)
        if kinds[0] != kinds[1]:
            raise ValueError(f"descriptors of {name} {kinds[0]} and {kinds[1]} cannot be matched; use `Features.to`")
