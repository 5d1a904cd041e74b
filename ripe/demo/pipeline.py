"""What the demo computes: stages that are kept, so that a request repeats only what its settings change."""

import functools
import hashlib
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor

from ripe import two_views
from ripe.demo.intake import read_upload
from ripe.features import Features, Matches, TwoViewGeometry
from ripe.geometry.verdict import Verdict
from ripe.images import as_rgb, rescale_keypoints, shrink
from ripe.matching import match
from ripe.model import RIPE
from ripe.pretrained import load
from ripe.two_views import LONG_SIDE

MAX_KEYPOINTS = 8192  # matching takes memory by its square
KEPT_PAIRS = 4
KEPT_MODELS = 2
Value = TypeVar("Value")
GEOMETRIES = ("fundamental", "homography")


@dataclass(frozen=True)
class DemoSettings:
    """What a visitor chooses.

    Attributes:
        model: a name that `ripe.load` knows, or the path of a weights file.
        max_keypoints: how many keypoints a photo keeps at most; 1 to `MAX_KEYPOINTS`.
        threshold: least score of a keypoint; the model's own if None.
        geometry: one of `GEOMETRIES`.
        inlier_threshold: in pixels of the photos.
    """

    model: str = "compact"
    max_keypoints: int = 2048
    threshold: float | None = None
    geometry: str = "fundamental"
    inlier_threshold: float = 1.0


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
        threshold: the least score that was in force.
        views: both photos.
        matches: of the two.
        geometry: fitted to the matches.
        verdict: on it.
        milliseconds: of the stages that ran for this request; kept results cost nothing and are not named.
    """

    settings: DemoSettings
    threshold: float
    views: tuple[ShownPhoto, ShownPhoto]
    matches: Matches
    geometry: TwoViewGeometry
    verdict: Verdict
    milliseconds: dict[str, float]

    @property
    def points(self) -> tuple[Tensor, Tensor]:
        """Matched keypoints, K×2 each, in pixels of the photos."""
        return self.matches.points(self.views[0].features, self.views[1].features)

    def document(self) -> dict[str, Any]:
        """What `ripe match --json` writes, with the photos' names."""
        settings = {**asdict(self.settings), "model": Path(self.settings.model).name, "precision": "float32"}
        settings |= {"threshold": self.threshold, "largest_side": LONG_SIDE}
        features = [view.features for view in self.views]
        found = two_views.document(settings, features, self.matches, self.geometry, self.verdict, self.milliseconds)
        return {"name0": self.views[0].name, "name1": self.views[1].name, **found}


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

    Kept are the models, a photo's features by (content, model, keypoints, threshold), the matches by the features of
    both, and the geometries by the matches and the settings of the fit: moving the inlier threshold only fits again.

    Args:
        device: where the models run; a GPU if there is one, otherwise the CPU, if None.
    """

    def __init__(self, device: str | torch.device | None = None) -> None:
        self._device = device
        self._lock = threading.Lock()
        self._models: Kept[RIPE] = Kept("load", KEPT_MODELS)
        self._shown: Kept[Tensor] = Kept("read", 2 * KEPT_PAIRS)
        self._features: Kept[Features] = Kept("extract", 2 * KEPT_PAIRS)
        self._matches: Kept[Matches] = Kept("match", KEPT_PAIRS)
        self._geometries: Kept[tuple[TwoViewGeometry, Verdict]] = Kept("geometry", 8 * KEPT_PAIRS)

    def run(self, path0: str | Path, path1: str | Path, settings: DemoSettings) -> MatchedPhotos:
        """Match two photo files.

        Raises:
            ValueError, OSError: a setting or a photo is not usable, or the model's weights cannot be had.
        """
        _check(settings)
        watch = two_views.Stopwatch()
        with self._lock:
            model = self._models.get(settings.model, watch, lambda: load(settings.model, device=self._device))
            asked = (settings.model, settings.max_keypoints, settings.threshold)
            (key0, view0), (key1, view1) = (self._view(Path(path), model, asked, watch) for path in (path0, path1))
            matches = self._matches.get((key0, key1), watch, lambda: match(view0.features, view1.features))
            fitting = (settings.geometry, settings.inlier_threshold)
            points = matches.points(view0.features, view1.features)
            geometry, verdict = self._geometries.get((key0, key1, fitting), watch, lambda: _fit(fitting, points))
        threshold = model.detection.threshold if settings.threshold is None else settings.threshold
        return MatchedPhotos(settings, threshold, (view0, view1), matches, geometry, verdict, watch.milliseconds)

    def _view(
        self, path: Path, model: RIPE, asked: tuple[str, int, float | None], watch: two_views.Stopwatch
    ) -> tuple[Hashable, ShownPhoto]:
        """A photo's view, and the key of its features."""
        photo = functools.cache(lambda: as_rgb(read_upload(path)))  # decoded once, and only where something is missing
        content = _digest(path)
        shown = self._shown.get(content, watch, lambda: _shown(photo()))
        key = (content, *asked)
        _, max_keypoints, threshold = asked

        def extract() -> Features:
            image = photo()
            found = model.extract(
                image, max_keypoints=max_keypoints, threshold=threshold, resize=LONG_SIDE, enlarge=False
            )
            return found[0].to("cpu")

        features = self._features.get(key, watch, extract)
        return key, ShownPhoto(path.name, shown, features)


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


def _fit(fitting: tuple[str, float], points: tuple[Tensor, Tensor]) -> tuple[TwoViewGeometry, Verdict]:
    geometry, verdict = two_views.fit(fitting[0], points, fitting[1])
    assert geometry is not None  # as `_check` lets only geometries pass
    assert verdict is not None
    return geometry, verdict
