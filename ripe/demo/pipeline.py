"""What the demo computes: stages that are kept, so that a request repeats only what its settings change."""

import functools
import hashlib
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Generic, NamedTuple, TypeVar

import torch
from torch import Tensor

from ripe import attempts, two_views
from ripe.demo.intake import read_upload
from ripe.evaluation.baselines import sift
from ripe.extractors import to_original
from ripe.features import Features, Matches, TwoViewGeometry
from ripe.filters import MatchFilter, Method
from ripe.geometry.verdict import Verdict
from ripe.images import as_rgb, rescale_keypoints, shrink
from ripe.matching import check_usable, filtered_match
from ripe.model import RIPE
from ripe.pretrained import load, model_settings
from ripe.resizing import ONE_SCALE, SEVERAL_SCALES, stored_scales
from ripe.two_views import INLIER_THRESHOLDS, LONG_SIDE

MAX_KEYPOINTS = 8192  # matching takes memory by its square
KEPT_PAIRS = 4
KEPT_FEATURES = 9  # of a pair: of both photos by SIFT, at one scale, and at several; of the first one in three turns
KEPT_TRIES = 6  # of a pair: by SIFT; by the model at one scale, at several, and in three turns
KEPT_MODELS = 2
Value = TypeVar("Value")
GEOMETRIES = ("fundamental", "homography")
SIFT = "sift"
SIFT_RATIO = 0.8  # as Lowe recommends


@dataclass(frozen=True)
class DemoSettings:
    """What a visitor chooses.

    Attributes:
        model: a name that `ripe.load` knows, the path of a weights file, or `SIFT`.
        max_keypoints: how many keypoints a photo keeps at most; 1 to `MAX_KEYPOINTS`.
        threshold: least score of a keypoint; the model's own if None.
        method: how descriptors are matched; see `ripe.filters.MatchFilter`.
        ratio: of the ratio test, for the methods that have one; see there.
        geometry: one of `GEOMETRIES`.
        inlier_threshold: in pixels of the photos as the network sees them, `LONG_SIDE` at most.
    """

    model: str = "compact"
    max_keypoints: int = 2048
    threshold: float | None = None
    method: Method = "mutual"
    ratio: float | None = None
    geometry: str = "fundamental"
    inlier_threshold: float = 1.0

    @property
    def how(self) -> MatchFilter:
        """How descriptors are matched."""
        return MatchFilter(self.method, self.ratio)

    def with_sift(self) -> "DemoSettings":
        """The same for SIFT, with its own ratio test."""
        return replace(self, model=SIFT, threshold=None, method="mutual", ratio=SIFT_RATIO)


@dataclass(frozen=True)
class ShownPhoto:
    """One photo and what was found in it.

    Attributes:
        name: of the file.
        shown: 3×h×w uint8 RGB, the longer side `LONG_SIDE` at most: what the pictures are drawn on.
        features: keypoints in pixels of the photo as it was sent.
    """

    name: str
    shown: Tensor
    features: Features

    def on_shown(self, points: Tensor) -> Tensor:
        """Points in pixels of the photo, moved to pixels of `shown`."""
        width, height = self.features.image_size
        return rescale_keypoints(points, (height, width), (self.shown.shape[1], self.shown.shape[2]))


@dataclass(frozen=True)
class MatchedPhotos:
    """The answer to a request.

    Attributes:
        settings: what was asked for.
        made_by: what the features depend on, as `ripe extract` stores it.
        views: both photos, upright.
        matches: of the two.
        geometry: fitted to the matches.
        verdict: on it.
        milliseconds: of the stages that ran for this request; kept results cost nothing and are not named.
        quarter_turns: by which the first photo was turned for this, counter-clockwise.
        scales: at which the photos were seen.
        tries: of which this is the best.
    """

    settings: DemoSettings
    made_by: dict[str, Any]
    views: tuple[ShownPhoto, ShownPhoto]
    matches: Matches
    geometry: TwoViewGeometry
    verdict: Verdict
    milliseconds: dict[str, float]
    quarter_turns: int
    scales: tuple[float, ...]
    tries: int

    @property
    def points(self) -> tuple[Tensor, Tensor]:
        """Matched keypoints, K×2 each, in pixels of the photos."""
        return self.matches.points(self.views[0].features, self.views[1].features)

    @property
    def homography(self) -> tuple[TwoViewGeometry, Verdict]:
        """The geometry and its verdict, or those of a homography in its place, within the usual threshold."""
        if self.geometry.kind == "homography":
            return self.geometry, self.verdict
        first, second = (view.features for view in self.views)
        max_error = _in_photo_pixels(INLIER_THRESHOLDS["homography"], (first.image_size, second.image_size))
        geometry, verdict = _fit(first, second, self.matches, self.settings, "homography", max_error)
        return geometry, verdict.best_of(self.tries)

    def document(self) -> dict[str, Any]:
        """What `ripe match --json` writes, its inlier threshold in pixels of the photos, with the photos' names."""
        settings = {**asdict(self.settings), "model": Path(self.settings.model).name, "precision": "float32"}
        settings |= {
            "threshold": self.made_by["threshold"],
            "largest_side": LONG_SIDE,
            "scales": self.scales,
            "matcher": str(self.settings.how),
            "inlier_threshold": self.geometry.max_error,
        }
        features = [view.features for view in self.views]
        found = two_views.document(settings, features, self.matches, self.geometry, self.verdict, self.milliseconds)
        names = {"name0": self.views[0].name, "name1": self.views[1].name}
        return {**names, **found, "quarter_turns": self.quarter_turns}


class _Model(NamedTuple):
    """A model, and what its features depend on."""

    model: RIPE
    settings: dict[str, Any]


class _Photo(NamedTuple):
    """A photo that was sent: `pixels` decodes it when they are asked for."""

    name: str
    content: bytes
    shown: Tensor
    pixels: Callable[[], Tensor]


class Kept(Generic[Value]):
    """The values of one stage that were used last, by key."""

    def __init__(self, stage: str, capacity: int) -> None:
        self._stage = stage
        self._capacity = capacity
        self._values: OrderedDict[Hashable, Value] = OrderedDict()

    def get(self, key: Hashable, watch: two_views.Stopwatch, compute: Callable[[], Value]) -> Value:
        """The value of `key`; computed, and timed, if it is not there. A failed computation leaves nothing behind."""
        if key not in self._values:
            with watch.stage(self._stage):
                self._values[key] = compute()
        self._values.move_to_end(key)
        while len(self._values) > self._capacity:
            self._values.popitem(last=False)
        return self._values[key]


class Pipeline:
    """Matches pairs of photos, one request after the other, whichever thread asks.

    Where the verdict is chance, the model tries harder, as `ripe.match_photos` does.

    Kept are the models, a photo's features by (content, model, keypoints, threshold, scales, turns), the matches by the
    features of both and the method, and the geometries by the matches and the settings of the fit: moving the inlier
    threshold only fits again, unless the verdict becomes chance.

    Args:
        device: where the models run; a GPU if there is one, otherwise the CPU, if None.
    """

    def __init__(self, device: str | torch.device | None = None) -> None:
        self._device = device
        self._lock = threading.Lock()
        self._models: Kept[_Model] = Kept("load", KEPT_MODELS)
        self._shown: Kept[Tensor] = Kept("read", 2 * KEPT_PAIRS)
        self._features: Kept[Features] = Kept("extract", KEPT_FEATURES * KEPT_PAIRS)
        self._matches: Kept[Matches] = Kept("match", KEPT_TRIES * KEPT_PAIRS)
        self._geometries: Kept[tuple[TwoViewGeometry, Verdict]] = Kept("geometry", 8 * KEPT_TRIES * KEPT_PAIRS)

    def run(self, path0: str | Path, path1: str | Path, settings: DemoSettings) -> MatchedPhotos:
        """Match two photo files.

        Raises:
            ValueError, OSError: a setting or a photo is not usable, or the model's weights cannot be had.
        """
        _check(settings)
        watch = two_views.Stopwatch()
        with self._lock:
            model = None
            if settings.model != SIFT:
                model = self._models.get(settings.model, watch, lambda: _load(settings.model, self._device))
            check_usable(settings.how, model.settings["weights"] if model else None)
            photos = self._photo(Path(path0), watch), self._photo(Path(path1), watch)
            tried = self._tries(photos, model, settings, watch)
        best = attempts.best_of(tried)
        assert best.geometry is not None  # as `_check` lets only geometries pass
        assert best.verdict is not None
        upright = next(each for each in tried if each.features1 is best.features1)
        first, second = (
            ShownPhoto(photo.name, photo.shown, features)
            for photo, features in zip(photos, (upright.features0, upright.features1), strict=True)
        )
        scales = ONE_SCALE if upright is tried[0] else SEVERAL_SCALES
        return MatchedPhotos(
            settings,
            _made_by(model, settings, scales),
            (first, second),
            best.matches,
            best.geometry,
            best.verdict,
            watch.milliseconds,
            best.quarter_turns,
            scales,
            len(tried),
        )

    def _photo(self, path: Path, watch: two_views.Stopwatch) -> _Photo:
        pixels = functools.cache(lambda: as_rgb(read_upload(path)))  # decoded once, and only where something is missing
        content = _digest(path)
        return _Photo(path.name, content, self._shown.get(content, watch, lambda: _shown(pixels())), pixels)

    def _tries(
        self,
        photos: tuple[_Photo, _Photo],
        model: _Model | None,
        settings: DemoSettings,
        watch: two_views.Stopwatch,
    ) -> list[attempts.MatchedPhotos]:
        """The photos matched as they are; where that is chance, at several scales; then turned, if need be."""

        def attempt(scales: tuple[float, ...], quarter_turns: int = 0) -> attempts.MatchedPhotos:
            key0, first = self._found(photos[0], model, settings, scales, quarter_turns, watch)
            key1, second = self._found(photos[1], model, settings, scales, 0, watch)
            key = (key0, key1, settings.how)
            matches = self._matches.get(key, watch, lambda: filtered_match(first, second, settings.how))
            max_error = _in_photo_pixels(settings.inlier_threshold, (first.image_size, second.image_size))
            geometry, verdict = self._geometries.get(
                (key, settings.geometry, max_error),
                watch,
                lambda: _fit(first, second, matches, settings, settings.geometry, max_error),
            )
            return attempts.MatchedPhotos(first, second, matches, geometry, verdict, quarter_turns)

        plain = attempt(ONE_SCALE)
        if model is None:
            return [plain]
        if not plain.by_chance:
            return attempts.plain_and_turned(plain, functools.partial(attempt, ONE_SCALE), "auto")
        attempt_turned = functools.partial(attempt, SEVERAL_SCALES)
        return [plain, *attempts.plain_and_turned(attempt_turned(), attempt_turned, "auto")]

    def _found(
        self,
        photo: _Photo,
        model: _Model | None,
        settings: DemoSettings,
        scales: tuple[float, ...],
        quarter_turns: int,
        watch: two_views.Stopwatch,
    ) -> tuple[Hashable, Features]:
        """The features of a photo, described as it looks in quarter turns, and their key."""
        key = (photo.content, settings.model, settings.max_keypoints, settings.threshold, scales)
        found = self._features.get(key, watch, lambda: _extract(model, photo.pixels(), settings, scales))
        if quarter_turns == 0 or model is None:
            return key, found
        turned = self._features.get(
            (*key, quarter_turns),
            watch,
            lambda: model.model.describe_turned(photo.pixels(), found, quarter_turns).to("cpu"),
        )
        return (*key, quarter_turns), turned


def _check(settings: DemoSettings) -> None:
    if settings.geometry not in GEOMETRIES:
        raise ValueError(f"geometry is {settings.geometry!r}; give {' or '.join(GEOMETRIES)}")
    if not 1 <= settings.max_keypoints <= MAX_KEYPOINTS:
        raise ValueError(f"{settings.max_keypoints} keypoints are asked for; 1 to {MAX_KEYPOINTS} can be had")
    if not settings.inlier_threshold > 0:
        raise ValueError(f"the inlier threshold is {settings.inlier_threshold}; it must be more than 0 pixels")


def _digest(path: Path) -> bytes:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").digest()


def _shown(photo: Tensor) -> Tensor:
    return (shrink(photo, LONG_SIDE).clamp(0, 1) * 255).round().byte()


def _load(name: str, device: str | torch.device | None) -> _Model:
    model = load(name, device=device)
    return _Model(model, model_settings(model))


def _made_by(model: _Model | None, settings: DemoSettings, scales: tuple[float, ...]) -> dict[str, Any]:
    own: dict[str, Any] = {"model": SIFT, "threshold": None} if model is None else dict(model.settings)
    if settings.threshold is not None:
        own["threshold"] = settings.threshold
    limits = {"max_keypoints": settings.max_keypoints, "max_side": LONG_SIDE}
    return {**own, **limits, "scales": stored_scales(scales)}


def _extract(model: _Model | None, photo: Tensor, settings: DemoSettings, scales: tuple[float, ...]) -> Features:
    """Features of a photo that is shrunk for it, by SIFT if there is no model."""
    limit = settings.max_keypoints
    if model is None:
        return to_original(sift(limit)(shrink(photo, LONG_SIDE).clamp(0, 1)), photo)
    [found] = model.model.extract(
        photo, max_keypoints=limit, threshold=settings.threshold, resize=LONG_SIDE, enlarge=False, scales=scales
    )
    return found.to("cpu")


def _in_photo_pixels(inlier_threshold: float | None, sizes: Sequence[tuple[int, int]]) -> float:
    """A threshold in pixels that the network sees, in those of the photos, by the rule of `ripe match`."""
    assert inlier_threshold is not None
    return inlier_threshold * two_views.shrinking(sizes, LONG_SIDE)


def _fit(
    first: Features, second: Features, matches: Matches, settings: DemoSettings, kind: str, max_error: float
) -> tuple[TwoViewGeometry, Verdict]:
    geometry, verdict = attempts.fit_matches(first, second, matches, settings.how, kind, max_error)
    assert geometry is not None  # as `_check` lets only geometries pass
    assert verdict is not None
    return geometry, verdict
