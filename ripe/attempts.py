"""Two photos matched in several ways where the plain one fails: one of them turned, both seen at several scales.

Descriptors follow rotations by some 60° and zoom by some ×2. Every further way is a further chance for wrong matches to
agree, which the verdict takes into account (`Verdict.best_of`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from ripe import checks
from ripe.features import Features, GeometryKind, Matches, TwoViewGeometry
from ripe.filters import MUTUAL, MatchFilter
from ripe.geometry.verdict import Verdict
from ripe.images import MAX_MEGAPIXELS, ImageLike, as_planes
from ripe.inference import MaskLike
from ripe.matching import filtered_match, similarity
from ripe.resizing import ONE_SCALE, SEVERAL_SCALES
from ripe.two_views import LONG_SIDE, ROTATIONS, Rotations, Stopwatch, fit, inlier_threshold

if TYPE_CHECKING:
    from ripe.model import RIPE

LOOKED_AT = 512
"""Keypoints by which the likeliest turn is chosen: it was the right one for 22 of 22 pairs of photos of one scene."""
QUARTER_TURNS = (1, 2, 3)
KEPT_TURNS = 12  # of four photos; lists go through the partners of one first photo after the other
DescribeTurned = Callable[[Path, Features, int], Features]


@dataclass(eq=False)
class MatchedPhotos:
    """Two photos, matched and fitted.

    Attributes:
        features0: of the first photo, in its own frame; the descriptors are those of the turned photo if it was turned.
        features1: of the second photo.
        matches: of both.
        geometry: fitted to the matches, first photo to second, in pixels of the photos; None if none was asked for.
        verdict: on the geometry, as the best of all that was tried; None without one.
        quarter_turns: by which the first photo was turned for this, counter-clockwise as by `numpy.rot90`.
    """

    features0: Features
    features1: Features
    matches: Matches
    geometry: TwoViewGeometry | None
    verdict: Verdict | None
    quarter_turns: int = 0

    @property
    def by_chance(self) -> bool:
        """Whether the geometry is no better than chance."""
        return self.verdict is not None and self.verdict.name == "chance"

    @property
    def points(self) -> tuple[Tensor, Tensor]:
        """Matched keypoints of both photos, each K×2."""
        return self.matches.points(self.features0, self.features1)


Attempt = Callable[[Features, Features], MatchedPhotos]
"""Matches two photos' features, fits and judges."""


def match_photos(
    image0: ImageLike,
    image1: ImageLike,
    *,
    model: RIPE | None = None,
    geometry: GeometryKind | Literal["none"] = "fundamental",
    max_error: float | None = None,
    intrinsics: tuple[Tensor, Tensor] | None = None,
    match_filter: MatchFilter = MUTUAL,
    rotations: Rotations = "auto",
    scales: Sequence[float] | None = None,
    max_keypoints: int | None = 2048,
    threshold: float | None = None,
    resize: int | None = LONG_SIDE,
    masks: Sequence[MaskLike | None] = (None, None),
    max_megapixels: float = MAX_MEGAPIXELS,
    watch: Stopwatch | None = None,
) -> MatchedPhotos:
    """Match two photos, fit their geometry and judge it; where the verdict is *chance*, try harder.

    The first photo is then turned by quarter turns, and both are seen at several scales. Where the matches agree and
    show that one photo is turned, that turn is tried, too. Of all that was tried, what chance explains least is kept.
    Its verdict counts the tries: `log10_nfa` is raised by their log10. Keypoints belong to the photos as they were
    handed in, whatever was turned.

    Args:
        image0: a photo, as `RIPE.extract` takes it.
        image1: another one.
        model: that extracts; `ripe.load()` if None.
        geometry: what is fitted; "none" for matches alone, of which nothing can be told.
        max_error: inlier threshold in pixels of the photos; None for 1 (2 of a homography), times as much as the photo
            was shrunk that was shrunk more.
        intrinsics: 3×3 camera matrices of both photos, for "essential".
        match_filter: how descriptors are matched.
        rotations: "auto" tries quarter turns where the verdict is chance and the one that the matches show, "all" all
            of them always, "none" none.
        scales: see `RIPE.extract`; None for one scale, and several where the verdict is chance.
        max_keypoints: of each photo; see `RIPE.extract`.
        threshold: see `RIPE.extract`.
        resize: longer sides are shrunk to this many pixels for the network; None keeps all.
        masks: one for each photo, or None; see `RIPE.extract`.
        max_megapixels: larger files are refused.
        watch: gets the times of the stages "extract", "match" and "geometry".

    Returns:
        The best result, with features on the CPU.

    Raises:
        FileNotFoundError, ValueError: an argument or a photo is not usable; the message says why.
    """
    if rotations not in ROTATIONS:
        raise ValueError(f"rotations is {rotations!r}; give one of {', '.join(ROTATIONS)}")
    if rotations == "all" and geometry == "none":
        raise ValueError("rotations are compared by the verdict on a geometry; with geometry none there is none")
    images = [as_planes(image, max_megapixels=max_megapixels) for image in (image0, image1)]
    sizes = [(image.shape[2], image.shape[1]) for image in images]
    limit = inlier_threshold(geometry, sizes, resize) if max_error is None else checks.positive(max_error, "max_error")
    watch = watch or Stopwatch()
    if model is None:
        from ripe.pretrained import load

        model = load()
    attempt = partial(
        attempt_match, geometry=geometry, max_error=limit, intrinsics=intrinsics, how=match_filter, watch=watch
    )

    def tried_at(at: Sequence[float], *, search: bool = True) -> list[MatchedPhotos]:
        with watch.stage("extract"):
            found = [
                model.extract(
                    image,
                    max_keypoints=max_keypoints,
                    threshold=threshold,
                    resize=resize,
                    enlarge=False,
                    scales=at,
                    masks=[mask],
                )[0]
                for image, mask in zip(images, masks, strict=True)
            ]

        def turned(quarter_turns: int) -> Features:
            with watch.stage("extract"):
                return model.describe_turned(images[0], found[0], quarter_turns).to("cpu")

        return try_turns(attempt, found[0].to("cpu"), found[1].to("cpu"), turned, rotations, search=search)

    if scales is not None:
        return best_of(tried_at(scales))
    tried = tried_at(ONE_SCALE, search=False)
    if best_of(tried).by_chance:
        tried += tried_at(SEVERAL_SCALES)
    return best_of(tried)


def attempt_match(
    features0: Features,
    features1: Features,
    *,
    geometry: str,
    max_error: float | None,
    intrinsics: tuple[Tensor, Tensor] | None = None,
    how: MatchFilter = MUTUAL,
    watch: Stopwatch | None = None,
) -> MatchedPhotos:
    """Match two photos' features, fit a geometry and judge it, as a single try; arguments as of `match_photos`."""
    watch = watch or Stopwatch()
    with watch.stage("match"):
        matches = filtered_match(features0, features1, how)
    with watch.stage("geometry"):
        fitted, verdict = fit_matches(features0, features1, matches, how, geometry, max_error, intrinsics)
    return MatchedPhotos(features0, features1, matches, fitted, verdict)


def fit_matches(
    features0: Features,
    features1: Features,
    matches: Matches,
    how: MatchFilter,
    geometry: str,
    max_error: float | None,
    intrinsics: tuple[Tensor, Tensor] | None = None,
) -> tuple[TwoViewGeometry, Verdict] | tuple[None, None]:
    """Fit a geometry to the matches that `how` gave; all mutual nearest neighbours judge it (see `ripe.judge`)."""
    unfiltered = how == MUTUAL or geometry == "none"
    evidence = None if unfiltered else filtered_match(features0, features1, MUTUAL).points(features0, features1)
    return fit(geometry, matches.points(features0, features1), max_error, intrinsics, evidence)


def try_turns(
    attempt: Attempt,
    features0: Features,
    features1: Features,
    turned: Callable[[int], Features],
    rotations: Rotations,
    *,
    search: bool = True,
    likeliest: bool = False,
) -> list[MatchedPhotos]:
    """What comes of matching photos as they are and, if `rotations` say so, with the first one turned.

    Args:
        attempt: matches and judges.
        features0: of the first photo.
        features1: of the second photo.
        turned: gives the first photo's features described in so many quarter turns (see `RIPE.describe_turned`).
        rotations: see `match_photos`.
        search: with "auto", try turns where photos as they are match by chance alone.
        likeliest: search by that one of the three turns only whose best descriptors are most like the second photo's,
            for lists, most of whose pairs show different things.
    """

    def attempt_turned(turns: int) -> MatchedPhotos:
        return replace(attempt(turned(turns), features1), quarter_turns=turns)

    plain = attempt(features0, features1)
    if likeliest and rotations == "auto" and plain.by_chance:
        best = features1.descriptors[:LOOKED_AT]
        alike = {turns: similarity(turned(turns).descriptors[:LOOKED_AT], best) for turns in QUARTER_TURNS}
        return [plain, attempt_turned(max(alike, key=alike.__getitem__))]
    return plain_and_turned(plain, attempt_turned, rotations, search=search)


def plain_and_turned(
    plain: MatchedPhotos, attempt_turned: Callable[[int], MatchedPhotos], rotations: Rotations, *, search: bool = True
) -> list[MatchedPhotos]:
    """What came of photos as they are, and then what comes of turning the first one; arguments as of `try_turns`.

    Descriptors match beyond the 60° that they follow, too, but ever fewer of them: where the inliers show a turn by
    more than 45°, the photo turned back finds more. So the turn is tried that the best result shows, until a try in
    that turn shows the same one. Where none does, or a doubtful result shows one, these may have been wrong matches,
    and all turns are tried.
    """
    if rotations == "none":
        return [plain]
    shown = shown_turns(plain)
    lost = search and plain.by_chance
    doubtful = shown != 0 and not plain.verdict
    if rotations == "all" or lost or doubtful:
        return [plain, *map(attempt_turned, QUARTER_TURNS)]
    tried = {0: plain}
    while shown not in tried or shown_turns(tried[shown]) != shown:
        left = [turns for turns in QUARTER_TURNS if turns not in tried]
        if not left:
            break
        tried |= {turns: attempt_turned(turns) for turns in ([shown] if shown in left else left)}
        shown = shown_turns(least_by_chance([*tried.values()]))
    return [*tried.values()]


def shown_turns(found: MatchedPhotos) -> int:
    """The quarter turns of the first photo, counter-clockwise, that bring it nearest to how the second one lies.

    By the rotation of the similarity that fits the inliers best, in the sense of least squares (Umeyama 1991); 0 where
    there is no geometry, or one that is chance.
    """
    if found.geometry is None or found.by_chance:
        return 0
    first, second = (
        torch.view_as_complex((side - side.mean(dim=0)).double())
        for side in (points[found.geometry.inliers] for points in found.points)
    )
    # Pixels have y downwards, so that a turn counter-clockwise has a negative angle.
    quarters = torch.vdot(first, second).angle() / (torch.pi / 2)
    return round(-quarters.item()) % 4


def best_of(tried: Sequence[MatchedPhotos]) -> MatchedPhotos:
    """That which chance explains least, the first of several such, with a verdict that counts the tries."""
    best = least_by_chance(tried)
    return best if best.verdict is None else replace(best, verdict=best.verdict.best_of(len(tried)))


def least_by_chance(tried: Sequence[MatchedPhotos]) -> MatchedPhotos:
    """That which chance explains least, the first of several such; the very first one if there are no verdicts."""
    if any(each.verdict is None for each in tried):
        return tried[0]
    return min(tried, key=lambda each: each.verdict.log10_nfa if each.verdict is not None else 0.0)


class TurnedFeatures:
    """Stored features as the photos look in quarter turns, described when they are asked for; the latest are kept.

    Args:
        describe: given a photo, its features and quarter turns; see `RIPE.describe_turned`.
        photos: folder of the photos that the names are relative to.
        read: gives the stored features by name.
    """

    def __init__(self, describe: DescribeTurned, photos: Path, read: Callable[[str], Features]) -> None:
        self._described = lru_cache(KEPT_TURNS)(
            lambda name, quarter_turns: describe(photos / name, read(name), quarter_turns)
        )

    def __call__(self, name: str, quarter_turns: int) -> Features:
        """The features of a photo.

        Raises:
            ValueError: the photo cannot be read (any more).
        """
        try:
            return self._described(name, quarter_turns)
        except OSError as error:
            raise ValueError(f"{name} cannot be described in turns: {error}") from error
