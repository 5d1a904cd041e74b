"""Panoramas by OpenCV's stitching pipeline (`cv2.detail`), fed with our features and verified matches.

The cameras are taken to turn about one point: rotations and focal lengths come from OpenCV's estimator and bundle
adjustment, the picture from its spherical warper, exposure compensation, seams and multi-band blending. All of it is
done in photos that are shrunk to one scale.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from ripe import checks
from ripe.features import Features, Matches, TwoViewGeometry
from ripe.geometry.robust import estimate_geometry
from ripe.geometry.verdict import judge
from ripe.geometry.warping import picture_of
from ripe.images import MAX_MEGAPIXELS, as_rgb, fit_long_side, resize
from ripe.matching import match
from ripe.two_views import INLIER_THRESHOLDS

if TYPE_CHECKING:
    from ripe.model import RIPE

LONG_SIDE = 1600
MAX_MEGAPIXELS_OUT = 200.0
SEAM_PIXELS = 1e5  # of a photo in which seams are looked for, as in OpenCV's own pipeline
BANDS = 5


@dataclass(eq=False)
class Panorama:
    """Photos joined to one picture.

    Attributes:
        picture: H×W×3 uint8 RGB, black where no photo reaches.
        valid: H×W bool, True where one does.
        used: indices of the photos in it, rising.
    """

    picture: np.ndarray
    valid: np.ndarray
    used: list[int]


def stitch(
    images: Sequence[str | Path],
    *,
    model: RIPE | None = None,
    max_keypoints: int = 2048,
    long_side: int = LONG_SIDE,
    max_megapixels: float = MAX_MEGAPIXELS,
) -> Panorama:
    """Join overlapping photos, taken from one place in any order, to a panorama.

    Args:
        images: paths of two photos or more.
        model: that extracts; `ripe.load()` if None.
        max_keypoints: of each photo.
        long_side: larger photos are shrunk to it.
        max_megapixels: larger files are refused.

    Returns:
        The panorama of the largest group of photos that matches join; the others are left out.

    Raises:
        ValueError: no two photos belong together, the cameras cannot be estimated, or the panorama would be too large.
        FileNotFoundError: no such photo.
    """
    if len(images) < 2:
        raise ValueError(f"a panorama takes two photos or more; there is {len(images)}")
    checks.whole_number(long_side, "long_side", least=16)
    if model is None:
        from ripe.pretrained import load

        model = load()
    pictures, features = [], []
    for path in images:
        photo = as_rgb(path, max_megapixels=max_megapixels)
        size = (photo.shape[1], photo.shape[2])
        shrunk = photo if max(size) <= long_side else resize(photo, fit_long_side(size, long_side))
        features.append(model.extract(shrunk, max_keypoints=max_keypoints)[0].to("cpu"))
        pictures.append(picture_of(shrunk))
    verified = _verified_pairs(features)
    used = _largest_group(len(images), list(verified))
    if len(used) < 2:
        raise ValueError("no two of the photos belong together: none has more matches with another than chance gives")
    number = {index: place for place, index in enumerate(used)}
    pairs = {(number[i], number[j]): found for (i, j), found in verified.items() if i in number and j in number}
    cameras = _estimate_cameras([features[index] for index in used], pairs)
    picture, valid = _compose([pictures[index] for index in used], cameras)
    return Panorama(picture, valid, used)


Verified = dict[tuple[int, int], tuple[Matches, TwoViewGeometry]]


def _verified_pairs(features: Sequence[Features]) -> Verified:
    """The pairs that are matched, by their indices, each with matches and homography."""
    threshold = INLIER_THRESHOLDS["homography"]
    assert threshold is not None
    found: Verified = {}
    for i, j in combinations(range(len(features)), 2):
        matches = match(features[i], features[j])
        points = matches.points(features[i], features[j])
        geometry = estimate_geometry("homography", *points, max_error=threshold)
        if judge(geometry, *points):
            found[i, j] = (matches, geometry)
    return found


def _largest_group(count: int, pairs: Sequence[tuple[int, int]]) -> list[int]:
    """The largest set of 0..`count` that `pairs` connect, rising; of equally large ones the first."""
    group = list(range(count))
    for i, j in pairs:
        kept, gone = sorted((group[i], group[j]))
        group = [kept if label == gone else label for label in group]
    largest = max(dict.fromkeys(group), key=group.count)
    return [index for index, label in enumerate(group) if label == largest]


def _estimate_cameras(features: Sequence[Features], pairs: Verified) -> list[Any]:
    """`cv2.detail.CameraParams` of each photo: focal length, principal point and rotation."""
    ours = [_image_features(index, found) for index, found in enumerate(features)]
    count = len(ours)
    table = [_matches_info(i, j, pairs) for i in range(count) for j in range(count)]
    done, cameras = cv2.detail.HomographyBasedEstimator().apply(ours, table, None)
    if not done:
        raise ValueError("the cameras cannot be estimated from the homographies between the photos")
    for camera in cameras:
        camera.R = camera.R.astype(np.float32)
    adjuster = cv2.detail.BundleAdjusterRay()
    adjuster.setConfThresh(0.5)
    done, adjusted = adjuster.apply(ours, table, cameras)
    if not done:
        raise ValueError("the cameras cannot be adjusted to the matches; did the camera move, rather than turn?")
    rotations = cv2.detail.waveCorrect([camera.R for camera in adjusted], cv2.detail.WAVE_CORRECT_AUTO)
    for camera, rotation in zip(adjusted, rotations, strict=True):
        camera.R = rotation
    return list(adjusted)


def _image_features(index: int, features: Features) -> Any:
    found = cv2.detail.ImageFeatures()
    found.img_idx = index
    found.img_size = features.image_size
    found.keypoints = [cv2.KeyPoint(x, y, 1.0) for x, y in features.keypoints.tolist()]
    return found


def _matches_info(i: int, j: int, pairs: Verified) -> Any:
    """What OpenCV wants to know of each ordered pair of photos; confidence 0 where they do not match."""
    info = cv2.detail.MatchesInfo()
    info.src_img_idx, info.dst_img_idx = i, j
    known = pairs.get((min(i, j), max(i, j)))
    if i == j or known is None:
        return info
    matches, geometry = known
    assert geometry.model is not None
    model = geometry.model.numpy()
    forward = i < j
    info.H = model if forward else np.linalg.inv(model)
    order = (0, 1) if forward else (1, 0)
    info.matches = [cv2.DMatch(int(row[order[0]]), int(row[order[1]]), 0.0) for row in matches.indices.tolist()]
    info.inliers_mask = geometry.inliers.numpy().astype(np.uint8)
    info.num_inliers = geometry.num_inliers
    info.confidence = 1.0
    return info
