"""Keypoints and matches as OpenCV's own types, for `cv2.drawMatches` and whatever else takes them.

OpenCV's pixel convention is ours (the centre of the top-left pixel at (0, 0)), so positions go over as they are.
"""

import cv2
from torch import Tensor

from ripe import checks
from ripe.features import Features, Matches

NO_ANGLE = -1.0  # OpenCV's own mark


def to_keypoints(features: Features) -> list[cv2.KeyPoint]:
    """The keypoints of an image, in order; `response` is the score, in the unit of `threshold`, `size` the scale."""
    return keypoints_of(features.keypoints, features.scores, features.scales)


def to_matches(matches: Matches) -> list[cv2.DMatch]:
    """Matches of two images, query being the first.

    The `distance` is that between the two unit descriptors, in 0..2, smaller being better: √(2 − 2·cosine). Of a
    learned matcher's matches it is √(2 − 2·probability), in the same order.
    """
    return matches_of((2 - 2 * matches.scores).clamp(min=0).sqrt(), matches.indices)


def keypoints_of(positions: Tensor, scores: Tensor, sizes: Tensor | None = None) -> list[cv2.KeyPoint]:
    """N×2 (x, y) positions, their N scores and N sizes (1 if None) as OpenCV's keypoints, without an angle.

    Raises:
        ValueError: the positions are not N×2 finite numbers, or there are not as many scores or sizes.
    """
    places = checks.points(positions, "keypoints").tolist()
    sizes = positions.new_ones(len(places)) if sizes is None else sizes
    _check_count(scores, len(places), "scores", "keypoints")
    _check_count(sizes, len(places), "scales", "keypoints")
    rows = zip(places, sizes.tolist(), scores.tolist(), strict=True)
    return [cv2.KeyPoint(x, y, size, NO_ANGLE, score) for (x, y), size, score in rows]


def matches_of(distances: Tensor, indices: Tensor) -> list[cv2.DMatch]:
    """Distances K×1 (or K) and indices K×2 (query, train) as OpenCV's matches.

    Raises:
        ValueError: the indices are not K×2 whole numbers of 0 or more, or there are not as many distances.
    """
    pairs = checks.index_pairs(indices, "indices").tolist()
    _check_count(distances, len(pairs), "distances", "indices")
    rows = zip(distances.flatten().tolist(), pairs, strict=True)
    return [cv2.DMatch(query, train, distance) for distance, (query, train) in rows]


def _check_count(values: Tensor, count: int, name: str, of: str) -> None:
    if values.numel() != count:
        raise ValueError(f"there are {values.numel()} {name} of {count} {of}")
