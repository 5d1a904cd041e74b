"""What an extractor is measured by, all in memory: on pairs of known geometry, and on real pairs without any label.

They take any extractor, so that a report can put rivals beside a network that is being trained. `ripe eval` measures
the same, by way of files that it can go on from.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from ripe.drawing import draw_matches
from ripe.evaluation import environment
from ripe.evaluation.baselines import baseline
from ripe.evaluation.detectors import THRESHOLDS, score_detector
from ripe.evaluation.metrics import area_under_recall
from ripe.evaluation.pair_sets import PairSet
from ripe.evaluation.predictions import (
    Candidate,
    Predictions,
    StoredImage,
    check_any_readable,
    matched_pairs,
    timed,
)
from ripe.evaluation.protocol import Protocol
from ripe.evaluation.report import Result, summarise
from ripe.evaluation.scoring import correct_matches, score_pairs
from ripe.extractors import describer, resized
from ripe.features import Features
from ripe.geometry.robust import estimate_geometry
from ripe.images import as_rgb
from ripe.matchers import Matcher
from ripe.model import RIPE
from ripe.objective.inliers import hardly_moves
from ripe.pretrained import model_settings
from ripe.resizing import Resizing

REPEATABILITY_AT = 3  # pixels
REAL_RESIZING = Resizing("long", 640, enlarge=False)

Rival = Callable[[int, float | None], Candidate]
"""Makes an extractor of so many keypoints; the published network has the threshold, or its own if that is None."""


def model_rival(name: str, model: RIPE) -> Rival:
    """A RIPE network, called `name` in tables."""

    def candidate(max_keypoints: int, published_threshold: float | None) -> Candidate:
        published = published_threshold if model.name == "vgg_hyper" else None
        threshold = model.detection.threshold if published is None else published
        describe = describer(model, max_keypoints=max_keypoints, threshold=threshold)
        hardware = environment.hardware(model.device)
        return Candidate(name, name, model_settings(model, threshold), describe, hardware)

    return candidate


def matcher_rival(name: str, model: RIPE, matcher: Matcher) -> Rival:
    """A RIPE network whose features a learned matcher matches."""

    def candidate(max_keypoints: int, published_threshold: float | None) -> Candidate:
        alone = model_rival(name, model)(max_keypoints, published_threshold)
        return replace(alone, settings={**alone.settings, **matcher.settings()}, match=matcher)

    return candidate


def baseline_rival(name: str) -> Rival:
    """One of `ripe.evaluation.baselines`."""

    def candidate(max_keypoints: int, _published_threshold: float | None) -> Candidate:
        hardware = environment.hardware(torch.device("cpu"))
        return Candidate(name, name, {"baseline": name}, baseline(name, max_keypoints), hardware)

    return candidate


@dataclass(frozen=True)
class Outcome:
    """What a measure gives for an extractor.

    Attributes:
        values: of each pair that could be read, by name; what `total` makes the figure of.
        total: the figure, in percent, of any choice of such values.
        figures: to log, by name.
        result: the full result of pairs with known geometry.
    """

    values: dict[str, float]
    total: Callable[[Sequence[float]], float]
    figures: dict[str, float]
    result: Result | None = None

    @property
    def figure(self) -> float:
        """In percent, higher is better."""
        return self.total(list(self.values.values()))


def predict(candidate: Candidate, pairs: PairSet, protocol: Protocol) -> tuple[dict[str, str], Predictions]:
    """Features and matches of a set, and why photos could not be read, by name.

    Raises:
        ValueError: no photo at all could be read.
    """
    photos = {name: pairs.path(name) for name in pairs.images}
    features: dict[str, Features] = {}
    images: dict[str, StoredImage] = {}
    unreadable: dict[str, str] = {}

    def failed(index: int, error: Exception) -> None:
        name = pairs.images[index]
        unreadable[name] = str(error).removeprefix(f"{photos[name]}: ")

    for index, extraction in timed(candidate, protocol)(list(photos.values()), [None] * len(photos), failed):
        name, found = pairs.images[index], extraction.features
        assert isinstance(found, Features)  # not of the runtime, whose extractors are not evaluated here
        features[name] = found
        images[name] = StoredImage(found.keypoints, found.image_size, **extraction.notes)
    check_any_readable(pairs, unreadable)
    names = [(pair.image0, pair.image1) for pair in pairs.pairs]
    readable = [(first, second) for first, second in names if first in features and second in features]
    return unreadable, Predictions(
        images, {both: candidate.match(features[both[0]], features[both[1]]).indices for both in readable}
    )


@dataclass(frozen=True)
class KnownGeometry:
    """Pairs whose homography or relative pose is known.

    Attributes:
        pairs: the set.
        protocol: how it is measured; its first seed alone counts.
    """

    pairs: PairSet
    protocol: Protocol

    @property
    def name(self) -> str:
        """The set's."""
        return self.pairs.name

    def __call__(self, rival: Rival) -> Outcome:
        """Area under the recall curve, and the share of right matches.

        Raises:
            ValueError: no photo can be read.
        """
        candidate = self._candidate(rival)
        unreadable, predictions = predict(candidate, self.pairs, self.protocol)
        matched = list(matched_pairs(self.pairs.pairs, predictions, self.protocol))
        score = score_pairs(matched, self.protocol)
        detector = score_detector(matched) if self.pairs.kind == "homography" else None
        unit = self.protocol.unit.strip()
        figures = {f"auc@{limit:g}{unit}": auc for limit, auc in zip(self.protocol.limits, score.auc, strict=True)}
        figures |= {"right_matches": score.precision, "matches": score.mean_matches}
        if detector is not None:
            figures["repeatability"] = detector.repeatability[THRESHOLDS.index(REPEATABILITY_AT)]
        result = summarise(candidate, predictions, score, detector, unreadable)
        return Outcome({name: pair.errors[0] for name, pair in score.pairs.items()}, self._mean_area, figures, result)

    def picture(self, rival: Rival) -> np.ndarray:
        """Matches of the first pair that can be read: right ones coloured by position, others red."""
        paths = [(self.pairs.path(pair.image0), self.pairs.path(pair.image1)) for pair in self.pairs.pairs]
        index, images = _first_readable(paths)
        first = replace(self.pairs, pairs=[self.pairs.pairs[index]])
        _, predictions = predict(self._candidate(rival), first, self.protocol)
        (matched,) = matched_pairs(first.pairs, predictions, self.protocol)
        if self.protocol.in_resized_pixels:
            images = [resized(image, self.protocol.resizing) for image in images]
        right = correct_matches(matched, self.protocol)
        return draw_matches(images, (matched.points0, matched.points1), wrong=~right)

    def _mean_area(self, errors: Sequence[float]) -> float:
        return float(100 * area_under_recall(errors, self.protocol.limits).mean())

    def _candidate(self, rival: Rival) -> Candidate:
        return rival(self.protocol.max_keypoints, self.protocol.published_threshold)


@dataclass(frozen=True)
class EpipolarAgreement:
    """Real pairs of which only the label "same scene" is known.

    The figure of a pair is the share of its matches that agree with one fundamental matrix. It is 0 where fewer than
    `fewest_inliers` do, as any few matches agree with some matrix, and where those hardly move: then they agree with a
    whole family of matrices, whatever they match.

    Attributes:
        pairs: of photos.
        resizing: of the photos; pixels below are those of the resized ones.
        max_error: epipolar error of an inlier, pixels.
        min_motion: median displacement of inliers that count, pixels.
        fewest_inliers: of a pair that counts.
        max_keypoints: of a photo.
    """

    pairs: Sequence[tuple[Path, Path]]
    resizing: Resizing = REAL_RESIZING
    max_error: float = 1.5
    min_motion: float = 8.0
    fewest_inliers: int = 15  # COLMAP's
    max_keypoints: int = 1024
    name: str = "real"

    def __call__(self, rival: Rival) -> Outcome:
        """The share of matches that agree with an epipolar geometry, and their number.

        Raises:
            ValueError: no pair could be read.
        """
        candidate = rival(self.max_keypoints, None)
        photos = sorted({photo for pair in self.pairs for photo in pair})
        features = {photo: found for photo in photos if (found := self._features(photo, candidate)) is not None}
        readable = [pair for pair in self.pairs if pair[0] in features and pair[1] in features]
        if not readable:
            raise ValueError(f"none of {len(self.pairs)} pairs of held-back photos could be read")
        with ThreadPoolExecutor() as pool:
            matches = [candidate.match(features[first], features[second]) for first, second in readable]
            points = [
                found.points(features[pair[0]], features[pair[1]])
                for pair, found in zip(readable, matches, strict=True)
            ]
            inliers = list(pool.map(lambda both: self._inliers(*both), points))
        shares = [float(found.float().mean()) if len(found) else 0.0 for found in inliers]
        figures = {
            "inlier_share": float(np.mean(shares)),
            "inliers": float(np.mean([int(found.sum()) for found in inliers])),
            "matches": float(np.mean([len(found) for found in inliers])),
        }
        names = [f"{first} {second}" for first, second in readable]
        return Outcome(dict(zip(names, shares, strict=True)), _percent, figures)

    def picture(self, rival: Rival) -> np.ndarray:
        """Matches of the first pair that can be read: those that disagree with an epipolar geometry are red."""
        candidate = rival(self.max_keypoints, None)
        images = [resized(image, self.resizing) for image in _first_readable(self.pairs)[1]]
        first, second = (candidate.describe(image).to("cpu") for image in images)
        points = candidate.match(first, second).points(first, second)
        return draw_matches(images, points, wrong=~self._inliers(*points))

    def _features(self, photo: Path, candidate: Candidate) -> Features | None:
        try:
            return candidate.describe(resized(as_rgb(photo), self.resizing)).to("cpu")
        except (OSError, ValueError):
            return None

    def _inliers(self, points0: torch.Tensor, points1: torch.Tensor) -> torch.Tensor:
        """K bool of K×2 points of both photos; none if they do not count."""
        found = estimate_geometry(
            "fundamental", points0, points1, max_error=self.max_error, max_iterations=1000
        ).inliers
        counts = int(found.sum()) >= self.fewest_inliers and not hardly_moves(points0, points1, found, self.min_motion)
        return found if counts else torch.zeros_like(found)


Measure = KnownGeometry | EpipolarAgreement
"""A set of pairs and what is measured on it."""


def _first_readable(pairs: Sequence[tuple[Path, Path]]) -> tuple[int, list[torch.Tensor]]:
    """Index and photos of the first pair whose photos can both be read."""
    reason: Exception | None = None
    for index, pair in enumerate(pairs):
        try:
            return index, [as_rgb(photo) for photo in pair]
        except (OSError, ValueError) as error:
            reason = error
    raise ValueError(f"no pair can be read; the last: {reason}")


def _percent(shares: Sequence[float]) -> float:
    return float(100 * np.mean(shares))
