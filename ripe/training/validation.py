"""How good a network is while it trains, in one number by which checkpoints are chosen: the score, in percent.

It is the mean over all sets of pairs of each set's own figure. Of pairs with known geometry (annotated ones, or views
that were made of held-back photos) that is the mean of the areas under the recall curve up to the protocol's limits; of
real pairs of held-back photos the share of their matches that agree with one epipolar geometry.

The measures take any extractor, so that a report can put rivals beside the trained network.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Protocol

import numpy as np
import torch

from ripe.data.catalogue import SOURCES, data_dir
from ripe.data.pairs import split_own
from ripe.drawing import draw_matches
from ripe.evaluation import environment, predictions, protocol
from ripe.evaluation.baselines import baseline
from ripe.evaluation.benchmarks import BENCHMARKS
from ripe.evaluation.detectors import THRESHOLDS, score_detector
from ripe.evaluation.metrics import area_under_recall
from ripe.evaluation.pair_sets import MatchedPair, PairSet
from ripe.evaluation.predictions import Candidate
from ripe.evaluation.report import Result, summarise
from ripe.evaluation.scoring import correct_matches, score_pairs
from ripe.extractors import Describer, Resizing, describer, resized
from ripe.features import Features
from ripe.geometry.robust import estimate_geometry
from ripe.images import as_rgb
from ripe.matching import match
from ripe.model import RIPE
from ripe.objective.inliers import hardly_moves
from ripe.pretrained import weights_hash
from ripe.recipe.config import DataConfig, WarpConfig
from ripe.training import held_back

SCORE = "score"
REPEATABILITY_AT = 3  # pixels
REAL_RESIZING = Resizing("long", 640, enlarge=False)

Rival = Callable[[protocol.Protocol], Candidate]
"""Makes an extractor for a protocol: with its number of keypoints, and its threshold for the published network."""


def model_rival(name: str, model: RIPE) -> Rival:
    """A RIPE network, called `name` in tables."""

    def candidate(of: protocol.Protocol) -> Candidate:
        published = of.published_threshold if model.name == "vgg_hyper" else None
        threshold = model.detection.threshold if published is None else published
        settings = {"model": model.name, "weights": weights_hash(model), "threshold": threshold}
        describe = describer(model, max_keypoints=of.max_keypoints, threshold=threshold)
        return Candidate(name, name, settings, describe, environment.hardware(model.device))

    return candidate


def baseline_rival(name: str) -> Rival:
    """One of `ripe.evaluation.baselines`."""

    def candidate(of: protocol.Protocol) -> Candidate:
        hardware = environment.hardware(torch.device("cpu"))
        return Candidate(name, name, {"baseline": name}, baseline(name, of.max_keypoints), hardware)

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


def mean_figure(outcomes: Sequence[Outcome]) -> float:
    """The score: the mean of the figures of all sets."""
    return float(np.mean([outcome.figure for outcome in outcomes]))


class Measure(Protocol):
    """A set of pairs and what is measured on it."""

    @property
    def name(self) -> str:
        """Short, for logs."""
        ...

    def __call__(self, rival: Rival) -> Outcome:
        """Measure an extractor."""
        ...

    def picture(self, rival: Rival) -> np.ndarray:
        """Matches of the first pair, H×W×3 uint8 RGB."""
        ...


@dataclass(frozen=True)
class KnownGeometry:
    """Pairs whose homography or relative pose is known.

    Attributes:
        pairs: the set.
        protocol: how it is measured; its first seed alone counts.
    """

    pairs: PairSet
    protocol: protocol.Protocol

    @property
    def name(self) -> str:
        """The set's."""
        return self.pairs.name

    def __call__(self, rival: Rival) -> Outcome:
        """Area under the recall curve, and the share of right matches.

        Raises:
            ValueError: no photo can be read.
        """
        candidate = rival(self.protocol)
        unreadable, stored, matched = self._predict(candidate, self.pairs)
        score = score_pairs(matched, self.protocol)
        detector = score_detector(matched) if self.pairs.kind == "homography" else None
        unit = self.protocol.unit.strip()
        figures = {f"auc@{limit:g}{unit}": auc for limit, auc in zip(self.protocol.limits, score.auc, strict=True)}
        figures |= {"right_matches": score.precision, "matches": score.mean_matches}
        if detector is not None:
            figures["repeatability"] = detector.repeatability[THRESHOLDS.index(REPEATABILITY_AT)]
        result = summarise(candidate, stored, score, detector, unreadable)
        return Outcome({name: pair.errors[0] for name, pair in score.pairs.items()}, self._mean_area, figures, result)

    def picture(self, rival: Rival) -> np.ndarray:
        """Matches of the first pair that can be read: right ones green, others red."""
        paths = [(self.pairs.path(pair.image0), self.pairs.path(pair.image1)) for pair in self.pairs.pairs]
        index, images = _first_readable(paths)
        first = replace(self.pairs, pairs=[self.pairs.pairs[index]])
        *_, (matched,) = self._predict(rival(self.protocol), first)
        if self.protocol.in_resized_pixels:
            images = [resized(image, self.protocol.resizing) for image in images]
        right = correct_matches(matched, self.protocol)
        return draw_matches(images, (matched.points0, matched.points1), wrong=~right)

    def _mean_area(self, errors: Sequence[float]) -> float:
        return float(100 * area_under_recall(errors, self.protocol.limits).mean())

    def _predict(
        self, candidate: Candidate, pairs: PairSet
    ) -> tuple[dict[str, str], predictions.Predictions, list[MatchedPair]]:
        with TemporaryDirectory(prefix="ripe-validation-") as name:
            folder = Path(name)
            unreadable = predictions.extract_images(candidate, pairs, self.protocol, folder)
            predictions.match_images(candidate, pairs, self.protocol, folder)
            stored = predictions.read_predictions(pairs, folder)
            return unreadable, stored, list(predictions.matched_pairs(pairs.pairs, stored, self.protocol))


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
        describe = self._describer(rival)
        photos = sorted({photo for pair in self.pairs for photo in pair})
        features = {photo: found for photo in photos if (found := self._features(photo, describe)) is not None}
        readable = [pair for pair in self.pairs if pair[0] in features and pair[1] in features]
        if not readable:
            raise ValueError(f"none of {len(self.pairs)} pairs of held-back photos could be read")
        with ThreadPoolExecutor() as pool:
            inliers = list(pool.map(lambda pair: self._inliers(features[pair[0]], features[pair[1]]), readable))
        shares = [float(found.float().mean()) if len(found) else 0.0 for found in inliers]
        figures = {
            "inlier_share": float(np.mean(shares)),
            "inliers": float(np.mean([int(found.sum()) for found in inliers])),
            "matches": float(np.mean([len(found) for found in inliers])),
        }
        names = [f"{first} {second}" for first, second in readable]
        return Outcome(dict(zip(names, shares, strict=True)), _percent, figures)

    def picture(self, rival: Rival) -> np.ndarray:
        """Matches of the first pair that can be read: those that agree with an epipolar geometry green, others red."""
        describe = self._describer(rival)
        images = [resized(image, self.resizing) for image in _first_readable(self.pairs)[1]]
        features = [describe(image).to("cpu") for image in images]
        return draw_matches(images, match(*features).points(*features), wrong=~self._inliers(*features))

    def _describer(self, rival: Rival) -> Describer:
        like = replace(held_back.PROTOCOL, resizing=self.resizing, max_keypoints=self.max_keypoints)
        return rival(like).describe

    def _features(self, photo: Path, describe: Describer) -> Features | None:
        try:
            return describe(resized(as_rgb(photo), self.resizing)).to("cpu")
        except (OSError, ValueError):
            return None

    def _inliers(self, features0: Features, features1: Features) -> torch.Tensor:
        """K bool; none if they do not count."""
        points = match(features0, features1).points(features0, features1)
        found = estimate_geometry("fundamental", *points, max_error=self.max_error, max_iterations=1000).inliers
        counts = int(found.sum()) >= self.fewest_inliers and not hardly_moves(*points, found, self.min_motion)
        return found if counts else torch.zeros_like(found)


class Validation:
    """A validator of the training loop: the mean of some measures."""

    main = SCORE

    def __init__(self, measures: Sequence[Measure]) -> None:
        if not measures:
            raise ValueError("nothing to validate with")
        self.measures = list(measures)

    def __call__(self, model: RIPE, step: int) -> dict[str, float]:
        """Figures of a network: `score` and `<set>/<figure>`; the step does not matter."""
        outcomes = self.outcomes(model_rival("network", model))
        figures = {SCORE: mean_figure(outcomes)}
        for measure, outcome in zip(self.measures, outcomes, strict=True):
            figures |= {f"{measure.name}/{name}": value for name, value in outcome.figures.items()}
        return figures

    def picture(self, model: RIPE) -> np.ndarray:
        """Matches of the first pair of the first set."""
        return self.measures[0].picture(model_rival("network", model))

    def outcomes(self, rival: Rival) -> list[Outcome]:
        """What each measure gives for an extractor."""
        return [measure(rival) for measure in self.measures]


def annotated_validation(benchmark: str, folder: Path, max_pairs: int | None = None) -> Validation:
    """Validation on a benchmark's folder, by its own protocol and pairs but with a single seed.

    Args:
        benchmark: a key of `ripe.evaluation.benchmarks.BENCHMARKS`: "imw2020", or "pairs" for any annotated pairs.
        folder: where it is.
        max_pairs: of each set, spread evenly over it; the benchmark's own number if None.

    Raises:
        ValueError, OSError: the folder is not as the benchmark's reader wants it; the message names what is wrong.
    """
    chosen = BENCHMARKS[benchmark]
    return Validation(
        [
            KnownGeometry(pairs.spread(max_pairs or chosen.pairs), replace(chosen.protocols[pairs.kind], repeats=1))
            for pairs in chosen.read(folder)
        ]
    )


def find_validation(
    data: DataConfig, seed: int, folder: Path, *, pairs: Path | None = None, max_pairs: int | None = None
) -> Validation | None:
    """The validation of a run: on `pairs` if given, else on one's own photos that are held back, else on IMW2020-val.

    Args:
        data: the run's photos.
        seed: the run's.
        folder: see `held_back_validation`.
        pairs: a folder of annotated pairs.
        max_pairs: see `annotated_validation`.

    Returns:
        None if there are no such pairs, no photo is held back, and IMW2020-val is not in the data folder.
    """
    if pairs is not None:
        return annotated_validation("pairs", pairs, max_pairs)
    held = split_own(data, seed)[1]
    if held:
        by_scene = {scene: [scene.path(index) for index in range(len(scene))] for scene in held}
        scenes = [photos for scene, photos in by_scene.items() if scene.pairable]
        photos = [photo for photos in by_scene.values() for photo in photos]
        return held_back_validation(scenes, photos, folder, warp=data.warp, seed=seed)
    imw = (data_dir() if data.dir is None else data.dir) / SOURCES["imw2020"].folder
    return annotated_validation("imw2020", imw, max_pairs) if (imw / "dataset.json").is_file() else None


def held_back_validation(
    scenes: Sequence[Sequence[Path]],
    photos: Sequence[Path],
    folder: Path,
    *,
    warp: WarpConfig,
    seed: int,
    view_pairs: int = 48,
    real_pairs: int = 32,
) -> Validation:
    """Validation without labels, on photos that training never sees.

    Args:
        scenes: held-back photos of which two can be a pair, scene by scene; may be empty.
        photos: all held-back photos, those of the scenes as well.
        folder: where the views that are made of the photos are kept, to be looked at; what is in it is replaced.
        warp: how strongly the two views of a pair differ.
        seed: of views and pairs; the run's, so that a resumed run validates on the same.
        view_pairs: how many pairs of views are made.
        real_pairs: how many real pairs are chosen at most.

    Raises:
        ValueError: there is no photo, or none can be read.
        OSError: the folder cannot be written.
    """
    if not photos:
        raise ValueError("no photo is held back to validate with; raise data.hold_back, or give more photos")
    views = held_back.write_view_pairs(photos, folder, count=view_pairs, warp=warp, seed=seed)
    measures: list[Any] = [KnownGeometry(views, held_back.PROTOCOL)]
    pairs = held_back.choose_real_pairs(scenes, real_pairs, seed)
    if pairs:
        measures.append(EpipolarAgreement(pairs))
    return Validation(measures)


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
