"""One photo in the frame of another: for registration, and for pictures of then and now."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ripe import checks
from ripe.attempts import match_photos
from ripe.features import TwoViewGeometry
from ripe.geometry.verdict import WORDS, UnrelatedPhotosError, Verdict
from ripe.geometry.warping import LARGEST_SIDE, picture_of, warp
from ripe.images import MAX_MEGAPIXELS, ImageLike, as_planes
from ripe.two_views import LONG_SIDE, Rotations

if TYPE_CHECKING:
    from ripe.model import RIPE


@dataclass(eq=False)
class Alignment:
    """The second photo in the first one's frame.

    Attributes:
        warped: H×W×3 uint8 RGB, of the first photo's size; black where the second photo does not reach.
        valid: H×W bool, True where it does.
        geometry: the homography, first image to second, in pixels of the photos, and its inliers.
        verdict: "matched" or "doubtful".
    """

    warped: np.ndarray
    valid: np.ndarray
    geometry: TwoViewGeometry
    verdict: Verdict


def align(
    image0: ImageLike,
    image1: ImageLike,
    *,
    model: RIPE | None = None,
    max_keypoints: int = 2048,
    long_side: int = LONG_SIDE,
    max_error: float = 2.0,
    rotations: Rotations = "auto",
    scales: Sequence[float] | None = None,
    max_megapixels: float = MAX_MEGAPIXELS,
) -> Alignment:
    """Warp a photo into the frame of another by the homography that their matches agree with.

    That is right for flat scenes, and for cameras that have turned but hardly moved. Keypoints are looked for in shrunk
    photos; what is warped has all its pixels.

    Args:
        image0: the photo whose frame is taken: a path, a Pillow image, an array or a tensor, as `as_rgb` takes them.
        image1: the photo that is warped.
        model: that extracts; `ripe.load()` if None.
        max_keypoints: of each photo.
        long_side: larger photos are shrunk to it for the network.
        max_error: inlier threshold in pixels of `image1` as the network sees it (`long_side`).
        rotations: whether quarter turns are tried; see `ripe.match_photos`.
        scales: at which the photos are seen; see `ripe.match_photos`.
        max_megapixels: larger files are refused.

    Raises:
        UnrelatedPhotosError: a `ValueError`; the inliers are no better than chance.
        FileNotFoundError, ValueError: a photo cannot be read, is too large to be warped, or a number is out of its
            range.
    """
    checks.positive(max_error, "max_error")
    checks.whole_number(long_side, "long_side", least=1)
    planes = [as_planes(image, max_megapixels=max_megapixels) for image in (image0, image1)]
    for number, photo in enumerate(planes):
        if max(photo.shape[1:]) > LARGEST_SIDE:
            raise ValueError(f"image{number} has a side of {max(photo.shape[1:])} pixels; {LARGEST_SIDE} can be warped")
    shrunk = min(1.0, long_side / max(planes[1].shape[1:]))
    found = match_photos(
        *planes,
        model=model,
        geometry="homography",
        max_error=max_error / shrunk,
        rotations=rotations,
        scales=scales,
        max_keypoints=max_keypoints,
        resize=long_side,
    )
    geometry, verdict = found.geometry, found.verdict
    assert geometry is not None
    assert verdict is not None
    if geometry.model is None or found.by_chance:
        agree = f"{geometry.num_inliers} of {len(found.matches)} matches agree"
        raise UnrelatedPhotosError(f"the photos do not align: {agree}, which is {WORDS['chance']}")
    warped, valid = warp(picture_of(planes[1]), geometry.model, (planes[0].shape[2], planes[0].shape[1]))
    return Alignment(warped, valid, geometry, verdict)
