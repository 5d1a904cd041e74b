"""How well keypoints themselves come back, on pairs whose homography is known.

With keypoints a of the first image and b of the second, their places H·a and H⁻¹·b in the other image, and only those
that lie inside the other image counted (N0 and N1 of them):

- repeatability at ε: (#{a: some b within ε of H·a} + #{b: some a within ε of H⁻¹·b}) / (N0 + N1);
- localisation error at ε: mean of the distances to the nearest that are within ε;
- matching score at ε: (C/N0 + C/N1) / 2, with C the mutual nearest-neighbour matches within ε of the truth;

as DeTone, Malisiewicz and Rabinovich define them ("SuperPoint", CVPRW 2018, appendix), with distances to each keypoint
in the image where it was found. And

- mean matching accuracy at ε: the share of matches whose H·a is within ε of its b, all matches counted, as Dusmanu et
  al. define it ("D2-Net", CVPR 2019).

Each is taken per pair and averaged over pairs. A pair without matches has an accuracy of 0, one without keypoints in
the shared area a repeatability and matching score of 0; pairs with nothing within ε have no localisation error.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ripe.evaluation.pair_sets import HomographyPair, MatchedPair, Size
from ripe.geometry.homography import apply_homography

THRESHOLDS = tuple(range(1, 11))
"""ε in pixels."""


@dataclass(frozen=True)
class DetectorScore:
    """Figures for each of `THRESHOLDS`, means over pairs.

    Attributes:
        repeatability: in 0..1.
        localisation_error: in pixels; NaN where nothing repeats.
        matching_score: in 0..1.
        matching_accuracy: in 0..1.
    """

    repeatability: tuple[float, ...]
    localisation_error: tuple[float, ...]
    matching_score: tuple[float, ...]
    matching_accuracy: tuple[float, ...]


def score_detector(matched: Sequence[MatchedPair]) -> DetectorScore:
    """Figures of pairs whose homography is known.

    Raises:
        ValueError: a pair has no homography.
    """
    figures = np.stack([_figures(pair) for pair in matched])
    with np.errstate(invalid="ignore"):
        known = np.isfinite(figures).sum(axis=0)
        means = np.where(known > 0, np.nansum(figures, axis=0) / known, np.nan)
    return DetectorScore(*(tuple(row.tolist()) for row in means))


def _figures(matched: MatchedPair) -> np.ndarray:
    """4×len(THRESHOLDS): the four figures of a pair, NaN for no localisation error."""
    pair = matched.pair
    if not isinstance(pair, HomographyPair):
        raise ValueError(f"{pair.name}: detectors are measured on pairs with a homography")
    keypoints0, keypoints1 = matched.keypoints0.double(), matched.keypoints1.double()
    moved0 = apply_homography(pair.homography, keypoints0)
    moved1 = apply_homography(torch.linalg.inv(pair.homography), keypoints1)
    shared0, shared1 = _inside(moved0, matched.sizes[1]), _inside(moved1, matched.sizes[0])
    nearest = torch.cat([_nearest(moved0[shared0], keypoints1), _nearest(moved1[shared1], keypoints0)])
    index0, index1 = matched.matches.T
    errors = torch.linalg.vector_norm(moved0[index0] - keypoints1[index1], dim=-1)
    in_both = shared0[index0] & shared1[index1]
    count0, count1 = max(int(shared0.sum()), 1), max(int(shared1.sum()), 1)
    rows = []
    for threshold in THRESHOLDS:
        close = nearest[nearest <= threshold]
        correct = int((in_both & (errors <= threshold)).sum())
        rows.append(
            (
                len(close) / max(len(nearest), 1),
                float(close.mean()) if len(close) else np.nan,
                (correct / count0 + correct / count1) / 2,
                float((errors <= threshold).double().mean()) if len(errors) else 0.0,
            )
        )
    return np.array(rows).T


def _inside(points: Tensor, size: Size) -> Tensor:
    """Which of K×2 points lie inside an image; pixels reach half a pixel beyond their centres."""
    limits = points.new_tensor(size) - 0.5
    return ((points >= -0.5) & (points <= limits)).all(dim=-1)


def _nearest(points: Tensor, candidates: Tensor) -> Tensor:
    """Distance of each of K×2 points to the nearest candidate; infinite if there is none."""
    if len(candidates) == 0:
        return points.new_full((len(points),), torch.inf)
    # Differences, not the expanded square: that one is exact to a hundredth of a pixel only.
    exact = torch.cdist(points, candidates, compute_mode="donot_use_mm_for_euclid_dist")
    return exact.min(dim=1).values
