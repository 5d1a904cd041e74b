"""How a benchmark is run: everything that a figure depends on besides extractor and data."""

from dataclasses import dataclass

from ripe.evaluation.pair_sets import Kind
from ripe.filters import MUTUAL, MatchFilter
from ripe.resizing import Resizing


@dataclass(frozen=True)
class Protocol:
    """State it with every figure: the ranking of extractors depends on it.

    Attributes:
        kind: what is estimated.
        resizing: of the photos.
        estimator_threshold: PoseLib's inlier threshold in pixels.
        limits: upper ends of the recall curve, in pixels or degrees.
        correct_match: a match this near (pixels) to the true homography, or with at most this Sampson distance (pixels)
            to the true epipolar geometry (of clicked points, the one fitted to them), counts as correct.
        in_resized_pixels: whether thresholds and errors are in pixels of the resized photos, or of the stored ones.
        fold_translation: take a translation and its opposite for the same, as for an essential matrix.
        error: what is measured, in words.
        published_threshold: detection threshold of the published network in this benchmark; None for its own.
        max_keypoints: kept of an image.
        max_iterations: bound on RANSAC's iterations.
        min_iterations: RANSAC does at least as many.
        match_filter: how descriptors are matched.
        repeats: every estimation is done with this many seeds, from 0.
    """

    kind: Kind
    resizing: Resizing
    estimator_threshold: float
    limits: tuple[float, ...]
    correct_match: float
    in_resized_pixels: bool
    error: str
    fold_translation: bool = False
    published_threshold: float | None = None
    max_keypoints: int = 2048
    max_iterations: int = 100_000
    min_iterations: int = 1000
    match_filter: MatchFilter = MUTUAL
    repeats: int = 3

    @property
    def unit(self) -> str:
        """Of errors: " px" or "°"."""
        return "°" if self.kind == "pose" else " px"

    def __str__(self) -> str:
        pixels = "resized" if self.in_resized_pixels else "stored"
        model = {"homography": "homography", "fundamental": "fundamental matrix", "pose": "relative pose"}[self.kind]
        return (
            f"{self.resizing}, at most {self.max_keypoints} keypoints, {self.match_filter}, PoseLib {model} "
            f"{self.estimator_threshold:g} px ({pixels} photos) with {self.min_iterations} to {self.max_iterations} "
            f"iterations, {self.repeats} seeds; AUC (%) of the {self.error}"
        )
