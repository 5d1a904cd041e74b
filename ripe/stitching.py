"""Panoramas by OpenCV's stitching pipeline (`cv2.detail`), fed with our features and verified matches.

The cameras are taken to turn about one point: rotations and focal lengths come from OpenCV's estimator and bundle
adjustment, the picture from its spherical warper, exposure compensation, seams and multi-band blending. All of it is
done in photos that are shrunk to one scale.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from ripe import checks
from ripe.attempts import attempt_match, best_of, try_turns
from ripe.features import Features, Matches, TwoViewGeometry
from ripe.geometry.verdict import UnrelatedPhotosError
from ripe.geometry.warping import picture_of
from ripe.images import MAX_MEGAPIXELS, as_rgb, shrink
from ripe.two_views import LONG_SIDE

if TYPE_CHECKING:
    from ripe.model import RIPE

detail: Any = cv2.detail  # whose type stubs ask for UMat where arrays are taken, and for what may be left out
MAX_ERROR = 2.0  # of an inlier in pixels of the shrunk photos
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
        unreadable: why not, by index, of photos that could not be read. What is in neither matches no photo in it.
    """

    picture: np.ndarray
    valid: np.ndarray
    used: list[int]
    unreadable: dict[int, str]


def stitch(
    images: Sequence[str | Path],
    *,
    model: RIPE | None = None,
    max_keypoints: int = 2048,
    long_side: int = LONG_SIDE,
    max_megapixels: float = MAX_MEGAPIXELS,
    progress: Callable[[], object] | None = None,
) -> Panorama:
    """Join overlapping photos, taken from one place in any order, to a panorama.

    Args:
        images: paths of two photos or more.
        model: that extracts; `ripe.load()` if None.
        max_keypoints: of each photo.
        long_side: larger photos are shrunk to it.
        max_megapixels: larger files are not read.
        progress: called once for each photo, and once for each pair of them.

    Returns:
        The panorama of the largest group of photos that matches join; the others are left out.

    Raises:
        UnrelatedPhotosError: a `ValueError`; no two photos belong together.
        ValueError: the cameras cannot be estimated, or the panorama would be too large.
    """
    if len(images) < 2:
        raise ValueError(f"a panorama takes two photos or more; there is {len(images)}")
    checks.whole_number(long_side, "long_side", least=16)
    if model is None:
        from ripe.pretrained import load

        model = load()
    step = progress or (lambda: None)
    pictures: dict[int, np.ndarray] = {}
    features: dict[int, Features] = {}
    unreadable: dict[int, str] = {}
    for index, path in enumerate(images):
        try:
            shrunk = shrink(as_rgb(path, max_megapixels=max_megapixels), long_side)
        except (OSError, ValueError) as error:
            unreadable[index] = str(error)
        else:
            features[index] = model.extract(shrunk, max_keypoints=max_keypoints)[0].to("cpu")
            pictures[index] = picture_of(shrunk)
        step()
    verified = _verified_pairs(features, pictures, model, step)
    used = _largest_group(list(features), list(verified))
    if len(used) < 2:
        raise UnrelatedPhotosError("no two of the photos belong together: none matches another better than by chance")
    number = {index: place for place, index in enumerate(used)}
    pairs = {(number[i], number[j]): found for (i, j), found in verified.items() if i in number and j in number}
    cameras = _estimate_cameras([features[index] for index in used], pairs)
    picture, valid = _compose([pictures[index] for index in used], cameras)
    return Panorama(picture, valid, used, unreadable)


Verified = dict[tuple[int, int], tuple[Matches, TwoViewGeometry]]


def _verified_pairs(
    features: Mapping[int, Features], pictures: Mapping[int, np.ndarray], model: RIPE, step: Callable[[], object]
) -> Verified:
    """The pairs that are matched, if need be in quarter turns, by their indices, each with matches and homography."""
    turned = lru_cache(3)(lambda index, turns: model.describe_turned(pictures[index], features[index], turns))
    attempt = partial(attempt_match, geometry="homography", max_error=MAX_ERROR)
    found: Verified = {}
    for i, j in combinations(features, 2):
        best = best_of(try_turns(attempt, features[i], features[j], partial(turned, i), "auto"))
        if best.verdict and best.geometry is not None:
            found[i, j] = (best.matches, best.geometry)
        step()
    return found


def _largest_group(photos: Sequence[int], pairs: Sequence[tuple[int, int]]) -> list[int]:
    """The largest set of photos that `pairs` connect, rising."""
    groups: list[set[int]] = [{photo} for photo in photos]
    for pair in pairs:
        joined = [group for group in groups if not group.isdisjoint(pair)]
        groups = [set().union(*joined), *(group for group in groups if group not in joined)]
    largest: set[int] = max(groups, key=lambda group: len(group), default=set())
    return sorted(largest)


def _estimate_cameras(features: Sequence[Features], pairs: Verified) -> list[Any]:
    """`cv2.detail.CameraParams` of each photo: focal length, principal point and rotation."""
    ours = [_image_features(index, found) for index, found in enumerate(features)]
    count = len(ours)
    table = [_matches_info(i, j, pairs) for i in range(count) for j in range(count)]
    done, cameras = detail.HomographyBasedEstimator().apply(ours, table, None)
    if not done:
        raise ValueError("the cameras cannot be estimated from the homographies between the photos")
    for camera in cameras:
        camera.R = camera.R.astype(np.float32)
    adjuster = detail.BundleAdjusterRay()
    adjuster.setConfThresh(0.5)
    done, adjusted = adjuster.apply(ours, table, cameras)
    if not done or not all(np.isfinite(camera.K()).all() and np.isfinite(camera.R).all() for camera in adjusted):
        raise ValueError("the cameras cannot be adjusted to the matches; did the camera move, rather than turn?")
    rotations = detail.waveCorrect([camera.R for camera in adjusted], detail.WAVE_CORRECT_AUTO)
    for camera, rotation in zip(adjusted, rotations, strict=True):
        camera.R = rotation
    return list(adjusted)


def _image_features(index: int, features: Features) -> Any:
    found = detail.ImageFeatures()
    found.img_idx = index
    found.img_size = features.image_size
    found.keypoints = [cv2.KeyPoint(x, y, 1.0) for x, y in features.keypoints.tolist()]
    return found


def _matches_info(i: int, j: int, pairs: Verified) -> Any:
    """What OpenCV wants to know of each ordered pair of photos; confidence 0 where they do not match."""
    info = detail.MatchesInfo()
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


@dataclass
class _Warper:
    """Puts photos of one scale on the sphere around their cameras, `radius` pixels large.

    Attributes:
        scale: of the photos, by those whose cameras were estimated.
        radius: of the sphere for photos of scale 1.
    """

    scale: float
    radius: float

    def corner_and_size(self, camera: Any, size: tuple[int, int]) -> tuple[tuple[int, int], tuple[int, int]]:
        """Where a photo of (width, height) `size` lies on the sphere: (x, y) and (width, height)."""
        x, y, width, height = self._sphere().warpRoi(size, *self._pose(camera))
        return (x, y), (width, height)

    def __call__(self, picture: np.ndarray, camera: Any) -> tuple[np.ndarray, np.ndarray]:
        """The warped photo, and a mask of 255 where it is seen."""
        whole = np.full(picture.shape[:2], 255, dtype=np.uint8)
        pose = self._pose(camera)
        _, warped = self._sphere().warp(picture, *pose, cv2.INTER_LINEAR, cv2.BORDER_REFLECT)
        _, mask = self._sphere().warp(whole, *pose, cv2.INTER_NEAREST, cv2.BORDER_CONSTANT)
        return warped, mask

    def _sphere(self) -> Any:
        return cv2.PyRotationWarper("spherical", self.radius * self.scale)

    def _pose(self, camera: Any) -> tuple[np.ndarray, np.ndarray]:
        intrinsics = camera.K().astype(np.float32)
        intrinsics[:2] *= self.scale
        return intrinsics, camera.R.astype(np.float32)


def _compose(pictures: Sequence[np.ndarray], cameras: Sequence[Any]) -> tuple[np.ndarray, np.ndarray]:
    """The panorama and where it shows something, from photos (H×W×3 uint8) and their cameras."""
    warper = _Warper(1.0, float(np.median([camera.focal for camera in cameras])))
    places = [
        warper.corner_and_size(camera, picture.shape[1::-1]) for picture, camera in zip(pictures, cameras, strict=True)
    ]
    corners, sizes = [place[0] for place in places], [place[1] for place in places]
    _check_extent(corners, sizes)
    seams, compensator = _seams(pictures, cameras, warper)
    blender = detail.MultiBandBlender(0, BANDS)
    blender.prepare(detail.resultRoi(corners, sizes))
    for index, (picture, camera) in enumerate(zip(pictures, cameras, strict=True)):
        warped, mask = warper(picture, camera)
        compensator.apply(index, corners[index], warped, mask)
        seam = cv2.resize(
            cv2.dilate(seams[index], np.ones((3, 3), np.uint8)), mask.shape[::-1], interpolation=cv2.INTER_LINEAR
        )
        blender.feed(warped.astype(np.int16), cv2.bitwise_and(seam, mask), corners[index])
    joined, seen = blender.blend(None, None)
    return np.clip(joined, 0, 255).astype(np.uint8), seen > 0


def _seams(pictures: Sequence[np.ndarray], cameras: Sequence[Any], full: _Warper) -> tuple[list[np.ndarray], Any]:
    """Masks of what is taken of each warped photo, in small, and what makes the photos equally bright."""
    area = max(picture.shape[0] * picture.shape[1] for picture in pictures)
    warper = replace(full, scale=min(1.0, (SEAM_PIXELS / area) ** 0.5))
    corners, warped, masks = [], [], []
    for picture, camera in zip(pictures, cameras, strict=True):
        small = cv2.resize(picture, None, fx=warper.scale, fy=warper.scale, interpolation=cv2.INTER_AREA)
        seen, mask = warper(small, camera)
        corners.append(warper.corner_and_size(camera, small.shape[1::-1])[0])
        warped.append(seen)
        masks.append(mask)
    compensator = detail.ExposureCompensator.createDefault(detail.EXPOSURE_COMPENSATOR_GAIN_BLOCKS)
    compensator.feed(corners, warped, masks)
    finder = detail.GraphCutSeamFinder("COST_COLOR")
    found = finder.find([picture.astype(np.float32) for picture in warped], corners, masks)
    return [mask.get() if isinstance(mask, cv2.UMat) else mask for mask in found], compensator


def _check_extent(corners: Sequence[tuple[int, int]], sizes: Sequence[tuple[int, int]]) -> None:
    first = np.min(corners, axis=0)
    width, height = np.max(np.add(corners, sizes), axis=0) - first
    if width * height > MAX_MEGAPIXELS_OUT * 1e6:
        raise ValueError(
            f"the panorama would have {width}×{height} pixels, more than {MAX_MEGAPIXELS_OUT:g} million; give smaller "
            "photos, or fewer (does one not belong to the others?)"
        )
