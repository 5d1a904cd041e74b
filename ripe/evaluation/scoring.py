"""Second step of an evaluation: from stored features and matches to errors and figures. Takes seconds."""

import math
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch

from ripe.evaluation.metrics import area_under_recall
from ripe.evaluation.pair_sets import FundamentalPair, HomographyPair, MatchedPair, PosePair
from ripe.evaluation.protocol import Protocol
from ripe.geometry.epipolar import epipolar_distance, fundamental_from_pose, sampson_distance
from ripe.geometry.homography import apply_homography, mean_transfer_error
from ripe.geometry.pose import pose_errors
from ripe.geometry.robust import estimate_geometry, estimate_relative_pose

FAILURE = {"homography": math.inf, "fundamental": math.inf, "pose": 180.0}
"""Errors of pairs without an estimate: pixels, degrees."""


@dataclass(frozen=True)
class PairScore:
    """What came out for a pair.

    Attributes:
        errors: with each seed; a failed estimate is infinite, or 180 for poses.
        matches: how many there are.
        correct: how many of them agree with the truth.
        angles: of poses, errors of rotation and of the translation's direction with each seed, in degrees.
    """

    errors: tuple[float, ...]
    matches: int
    correct: int
    angles: tuple[tuple[float, float], ...] | None = None


@dataclass(frozen=True)
class Score:
    """Figures of matched pairs.

    Attributes:
        auc: area under the recall curve for each limit of the protocol, in percent, mean over seeds.
        auc_spread: standard deviation of the above over seeds.
        pairs: by name.
    """

    auc: tuple[float, ...]
    auc_spread: tuple[float, ...]
    pairs: dict[str, PairScore]

    @property
    def mean_matches(self) -> float:
        """Matches per pair."""
        return float(np.mean([pair.matches for pair in self.pairs.values()]))

    @property
    def precision(self) -> float:
        """Mean over pairs of the share of matches that agree with the truth (0 where there are none)."""
        return float(np.mean([pair.correct / max(pair.matches, 1) for pair in self.pairs.values()]))


def score_pairs(
    matched: Sequence[MatchedPair], protocol: Protocol, progress: Callable[[], object] = lambda: None
) -> Score:
    """Estimate the model of each pair with each seed and compare it with the truth.

    Raises:
        ValueError: there are no pairs.
    """
    if not matched:
        raise ValueError("no pair is left whose photos could both be read")

    def score(pair: MatchedPair) -> PairScore:
        seeds = range(protocol.repeats)
        counts = len(pair.matches), int(correct_matches(pair, protocol).sum())
        if isinstance(pair.pair, PosePair):
            angles = tuple(_pose_errors(pair.pair, pair, protocol, seed) for seed in seeds)
            found = PairScore(tuple(map(max, angles)), *counts, angles)
        else:
            found = PairScore(tuple(_pixel_error(pair.pair, pair, protocol, seed) for seed in seeds), *counts)
        progress()
        return found

    # PoseLib releases the interpreter's lock, so threads do run side by side.
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        scores = list(pool.map(score, matched))
    errors = np.array([score.errors for score in scores])
    areas = 100 * np.stack([area_under_recall(column, protocol.limits) for column in errors.T])
    names = [pair.pair.name for pair in matched]
    return Score(
        tuple(areas.mean(axis=0).tolist()), tuple(areas.std(axis=0).tolist()), dict(zip(names, scores, strict=True))
    )


def correct_matches(matched: MatchedPair, protocol: Protocol) -> torch.Tensor:
    """K bool: which matches agree with the truth, by the protocol's tolerance."""
    pair, points0, points1 = matched.pair, matched.points0.double(), matched.points1.double()
    if isinstance(pair, HomographyPair):
        distance = torch.linalg.vector_norm(apply_homography(pair.homography, points0) - points1, dim=-1)
    else:
        true = (
            pair.fundamental
            if isinstance(pair, FundamentalPair)
            else fundamental_from_pose(pair.intrinsics0, pair.intrinsics1, pair.rotation, pair.translation)
        )
        distance = sampson_distance(true, points0, points1)
    return distance <= protocol.correct_match


def _pixel_error(pair: HomographyPair | FundamentalPair, matched: MatchedPair, protocol: Protocol, seed: int) -> float:
    """Mean error of the annotated points under the model that is fitted to the matches, in pixels."""
    geometry = estimate_geometry(
        "homography" if isinstance(pair, HomographyPair) else "fundamental",
        matched.points0,
        matched.points1,
        max_error=protocol.estimator_threshold,
        max_iterations=protocol.max_iterations,
        min_iterations=protocol.min_iterations,
        seed=seed,
    )
    if geometry.model is None:
        return FAILURE[protocol.kind]
    if isinstance(pair, HomographyPair):
        error = float(mean_transfer_error(geometry.model, pair.points0, pair.points1))
    else:
        error = float(epipolar_distance(geometry.model, pair.points0, pair.points1).mean())
    # A wrong homography may send a point to infinity.
    return error if math.isfinite(error) else FAILURE[protocol.kind]


def _pose_errors(pair: PosePair, matched: MatchedPair, protocol: Protocol, seed: int) -> tuple[float, float]:
    """Errors of rotation and of the translation's direction, in degrees."""
    pose = estimate_relative_pose(
        matched.points0,
        matched.points1,
        pair.intrinsics0,
        pair.intrinsics1,
        max_epipolar_error=protocol.estimator_threshold,
        max_iterations=protocol.max_iterations,
        min_iterations=protocol.min_iterations,
        seed=seed,
    )
    if pose is None:
        return FAILURE["pose"], FAILURE["pose"]
    turned, moved = pose_errors(pose, pair.rotation, pair.translation, ignore_sign=protocol.fold_translation)
    return float(turned), float(moved)
