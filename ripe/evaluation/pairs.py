"""Accuracy on annotated pairs: extract once per photo, match, estimate, compare with the annotation.

The three steps are separate functions, so that a figure can be had again with another estimator threshold without
extracting again. `evaluate_pairs` does all three.
"""

import math
import os
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from ripe.evaluation.annotations import AnnotatedPair, HomographyPair, PairsFolder, PosePair, read_pairs
from ripe.evaluation.extractors import Extractor
from ripe.evaluation.metrics import area_under_recall
from ripe.features import Features
from ripe.geometry.epipolar import fundamental_from_pose, sampson_distance
from ripe.geometry.homography import apply_homography, mean_transfer_error
from ripe.geometry.pose import pose_error
from ripe.geometry.robust import estimate_geometry, estimate_relative_pose
from ripe.matching import match

FAILURE = {"homography": math.inf, "pose": 180.0}
"""Errors of pairs without an estimate: pixels, degrees."""


@dataclass(frozen=True)
class Protocol:
    """How matches become errors and errors become figures. State it with every figure: the ranking depends on it.

    Attributes:
        homography_threshold: PoseLib's inlier threshold for homographies, in pixels.
        pose_threshold: PoseLib's inlier threshold for relative poses, in pixels.
        homography_iterations: bound on RANSAC's iterations for homographies.
        pose_iterations: bound on RANSAC's iterations for relative poses.
        repeats: RANSAC runs with this many seeds, from 0; figures are means over them.
        homography_limits: upper ends of the recall curve for homographies, in pixels.
        pose_limits: upper ends of the recall curve for poses, in degrees.
        correct_homography_match: a match this near (pixels) to the annotated homography counts as correct.
        correct_pose_match: a match with at most this Sampson distance (pixels) to the annotated pose counts as correct.
    """

    homography_threshold: float = 2.0
    pose_threshold: float = 1.0
    homography_iterations: int = 100_000
    pose_iterations: int = 20_000
    repeats: int = 3
    homography_limits: tuple[float, ...] = (3.0, 5.0, 10.0)
    pose_limits: tuple[float, ...] = (5.0, 10.0, 20.0)
    correct_homography_match: float = 5.0
    correct_pose_match: float = 2.0

    def limits(self, model: Literal["homography", "pose"]) -> tuple[float, ...]:
        """Upper ends of the recall curve of pairs of this model."""
        return self.homography_limits if model == "homography" else self.pose_limits

    def describe(self, model: Literal["homography", "pose"]) -> str:
        """The protocol in a line, without what an extractor does."""
        if model == "homography":
            estimate = f"homography {self.homography_threshold:g} px, at most {self.homography_iterations} iterations"
            error = "mean distance of the annotated points"
        else:
            estimate = f"relative pose {self.pose_threshold:g} px, at most {self.pose_iterations} iterations"
            error = "max(rotation, translation) angle"
        return f"mutual nearest neighbours, PoseLib {estimate}, mean over {self.repeats} seeds; AUC (%) of the {error}"


@dataclass(frozen=True)
class Extraction:
    """Features of a folder's photos.

    Attributes:
        features: of every photo that could be read.
        unreadable: why each of the others could not.
        milliseconds: median time of one photo, reading the file included.
    """

    features: dict[Path, Features]
    unreadable: dict[Path, str]
    milliseconds: float


@dataclass(frozen=True)
class MatchedPair:
    """An annotated pair and the K×2 float32 positions that were matched in its photos."""

    pair: AnnotatedPair
    points0: Tensor
    points1: Tensor


@dataclass(frozen=True)
class PairsScore:
    """Figures of matched pairs.

    Attributes:
        model: what was estimated.
        limits: upper ends of the recall curve, pixels or degrees.
        auc: area under the recall curve for each limit, in percent, mean over seeds.
        auc_spread: standard deviation of the above over seeds.
        errors: per pair, by name, the error with each seed; a failed estimate is infinite (homography) or 180 (pose).
        mean_matches: matches per pair.
        inlier_ratio: mean over pairs of the share of matches that agree with the annotation (0 where there are none).
        protocol: how the figures came about.
    """

    model: Literal["homography", "pose"]
    limits: tuple[float, ...]
    auc: tuple[float, ...]
    auc_spread: tuple[float, ...]
    errors: dict[str, tuple[float, ...]]
    mean_matches: float
    inlier_ratio: float
    protocol: str


@dataclass(frozen=True)
class PairsResult(PairsScore):
    """Figures of an extractor on a folder of annotated pairs.

    Attributes:
        mean_keypoints: keypoints per photo.
        milliseconds: median time of one photo, reading the file included.
        unreadable: photos that could not be read, and why; their pairs are left out.
    """

    mean_keypoints: float
    milliseconds: float
    unreadable: dict[Path, str]


def evaluate_pairs(
    extract: Extractor, folder: str | Path | PairsFolder, protocol: Protocol | None = None
) -> PairsResult:
    """Score an extractor on a folder of annotated pairs.

    Args:
        extract: gives a photo's features, keypoints in pixels of the stored photo.
        folder: holds `pairs.json` (see `ripe.evaluation.annotations`), or what `read_pairs` made of it.
        protocol: the default one if None.

    Raises:
        FileNotFoundError, ValueError: the folder is not usable (see `read_pairs`), or none of its pairs can be read.
    """
    annotated = folder if isinstance(folder, PairsFolder) else read_pairs(folder)
    extraction = extract_features(extract, annotated.images)
    score = score_pairs(match_pairs(annotated.pairs, extraction.features), protocol)
    return PairsResult(
        **vars(score),
        mean_keypoints=float(np.mean([len(features) for features in extraction.features.values()])),
        milliseconds=extraction.milliseconds,
        unreadable=extraction.unreadable,
    )


def extract_features(extract: Extractor, images: Sequence[Path]) -> Extraction:
    """Extract every photo once, one after the other. A photo that cannot be read is noted, not raised.

    Raises:
        ValueError: no photo at all could be read.
    """
    features: dict[Path, Features] = {}
    unreadable: dict[Path, str] = {}
    seconds = []
    for path in images:
        start = time.perf_counter()
        try:
            features[path] = extract(path).to("cpu")
        except (OSError, ValueError) as error:
            unreadable[path] = str(error)
        else:
            seconds.append(time.perf_counter() - start)
    if not features:
        raise ValueError(f"none of {len(images)} photos could be read; the first: {next(iter(unreadable.values()))}")
    return Extraction(features, unreadable, 1000 * float(np.median(seconds)))


def match_pairs(pairs: Sequence[AnnotatedPair], features: dict[Path, Features]) -> list[MatchedPair]:
    """Match the pairs whose photos both have features, by mutual nearest neighbours.

    Raises:
        ValueError: a photo has another size than the annotation of its camera says.
    """
    matched = []
    for pair in pairs:
        if pair.image0 not in features or pair.image1 not in features:
            continue
        features0, features1 = features[pair.image0], features[pair.image1]
        if isinstance(pair, PosePair):
            _check_size(pair.image0, features0, pair.size0)
            _check_size(pair.image1, features1, pair.size1)
        matched.append(MatchedPair(pair, *match(features0, features1).points(features0, features1)))
    return matched


def score_pairs(matched: Sequence[MatchedPair], protocol: Protocol | None = None) -> PairsScore:
    """Estimate the model of each matched pair with each seed and compare it with the annotation.

    Raises:
        ValueError: there are no pairs.
    """
    if not matched:
        raise ValueError("no pair is left whose photos could both be read")
    protocol = protocol or Protocol()
    model: Literal["homography", "pose"] = "homography" if isinstance(matched[0].pair, HomographyPair) else "pose"
    limits = protocol.limits(model)
    jobs = [(pair, protocol, seed) for pair in matched for seed in range(protocol.repeats)]
    # PoseLib releases the interpreter's lock, so threads do run side by side.
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        errors = np.array(list(pool.map(lambda job: _error(*job), jobs))).reshape(len(matched), protocol.repeats)
    areas = 100 * np.stack([area_under_recall(column, limits) for column in errors.T])
    return PairsScore(
        model=model,
        limits=limits,
        auc=tuple(areas.mean(axis=0).tolist()),
        auc_spread=tuple(areas.std(axis=0).tolist()),
        errors={pair.pair.name: tuple(row.tolist()) for pair, row in zip(matched, errors, strict=True)},
        mean_matches=float(np.mean([len(pair.points0) for pair in matched])),
        inlier_ratio=float(np.mean([_correct_share(pair, protocol) for pair in matched])),
        protocol=protocol.describe(model),
    )


def _error(matched: MatchedPair, protocol: Protocol, seed: int) -> float:
    if isinstance(matched.pair, HomographyPair):
        return _homography_error(matched.pair, matched, protocol, seed)
    return _pose_error(matched.pair, matched, protocol, seed)


def _homography_error(pair: HomographyPair, matched: MatchedPair, protocol: Protocol, seed: int) -> float:
    geometry = estimate_geometry(
        "homography",
        matched.points0,
        matched.points1,
        max_error=protocol.homography_threshold,
        max_iterations=protocol.homography_iterations,
        seed=seed,
    )
    if geometry.model is None:
        return FAILURE["homography"]
    error = float(mean_transfer_error(geometry.model, pair.points0, pair.points1))
    # A wrong homography may send a point to infinity.
    return error if math.isfinite(error) else FAILURE["homography"]


def _pose_error(pair: PosePair, matched: MatchedPair, protocol: Protocol, seed: int) -> float:
    pose = estimate_relative_pose(
        matched.points0,
        matched.points1,
        pair.intrinsics0,
        pair.intrinsics1,
        max_epipolar_error=protocol.pose_threshold,
        max_iterations=protocol.pose_iterations,
        seed=seed,
    )
    return FAILURE["pose"] if pose is None else float(pose_error(pose, pair.rotation, pair.translation))


def _correct_share(matched: MatchedPair, protocol: Protocol) -> float:
    if len(matched.points0) == 0:
        return 0.0
    pair, points0, points1 = matched.pair, matched.points0.double(), matched.points1.double()
    if isinstance(pair, HomographyPair):
        distance = torch.linalg.vector_norm(apply_homography(pair.homography, points0) - points1, dim=-1)
        correct = distance <= protocol.correct_homography_match
    else:
        true = fundamental_from_pose(pair.intrinsics0, pair.intrinsics1, pair.rotation, pair.translation)
        correct = sampson_distance(true, points0, points1) <= protocol.correct_pose_match
    return float(correct.double().mean())


def _check_size(path: Path, features: Features, size: tuple[int, int] | None) -> None:
    if size is not None and size != features.image_size:
        have, want = ("×".join(map(str, sides)) for sides in (features.image_size, size))
        raise ValueError(f"{path}: {have} pixels, but its annotation is for {want}")
