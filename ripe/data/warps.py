"""Views of a photo through random homographies.

A self-pair is two views of one photo; the homography between them is known, and the label "same scene" is true by
construction.
"""

from dataclasses import dataclass

import cv2
import numpy as np

from ripe.images import fit_long_side
from ripe.recipe.config import WarpConfig

# Of the draws of a self-pair, until its views overlap enough: ten of the full motion, then less and less of it.
MOTIONS = (*[1.0] * 10, *(0.5**halvings for halvings in range(1, 10)), 0.0)


@dataclass(frozen=True)
class View:
    """A square view of a photo through a homography.

    Attributes:
        image: S×S×3 uint8 RGB; beyond the photo's border it is mirrored, or 0 in letterboxes.
        valid: S×S bool, False beyond the photo's border.
        homography: 3×3 float64, pixels of the photo to pixels of the view.
    """

    image: np.ndarray
    valid: np.ndarray
    homography: np.ndarray


def similarity(size: int, centre: np.ndarray, scale: float, angle_deg: float) -> np.ndarray:
    """Homography that puts `centre` of the photo in the middle of a size×size view, scaled and rotated."""
    angle = np.deg2rad(angle_deg)
    c, s = scale * np.cos(angle), scale * np.sin(angle)
    middle = (size - 1) / 2
    matrix = np.array([[c, -s, 0.0], [s, c, 0.0], [0.0, 0.0, 1.0]])
    matrix[:2, 2] = middle - matrix[:2, :2] @ centre
    return matrix


def perspective(size: int, strength: float, rng: np.random.Generator) -> np.ndarray:
    """Homography that moves each corner of a size×size view by up to strength·size/2 in both directions."""
    corners = np.array([[0, 0], [size, 0], [size, size], [0, size]], dtype=np.float32)
    moved = corners + rng.uniform(-0.5, 0.5, (4, 2)).astype(np.float32) * strength * size
    return cv2.getPerspectiveTransform(corners, moved)


def render(photo: np.ndarray, homography: np.ndarray, size: int) -> View:
    """The view of an H×W×3 photo through `homography`, antialiased where it shrinks the photo."""
    middle = np.linalg.inv(homography) @ [size / 2, size / 2, 1.0]
    shrink = min(1.0, _local_scale(homography, middle[:2] / middle[2]) * 1.2)
    source, to_view = photo, homography
    if shrink < 0.8:
        height, width = photo.shape[:2]
        reduced = (max(1, round(width * shrink)), max(1, round(height * shrink)))
        source = cv2.resize(photo, reduced, interpolation=cv2.INTER_AREA)
        sx, sy = width / reduced[0], height / reduced[1]
        to_view = homography @ np.array([[sx, 0, 0.5 * sx - 0.5], [0, sy, 0.5 * sy - 0.5], [0, 0, 1]])
    image = cv2.warpPerspective(
        source, to_view, (size, size), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101
    )
    ones = np.ones(source.shape[:2], dtype=np.uint8)
    valid = cv2.warpPerspective(ones, to_view, (size, size), flags=cv2.INTER_NEAREST, borderValue=0)
    return View(image, valid.astype(bool), homography)


def self_pair(photo: np.ndarray, size: int, config: WarpConfig, rng: np.random.Generator) -> tuple[View, View]:
    """Two views of one photo that share at least `config.min_overlap` of the second view.

    Where a few draws do not overlap that much (of narrow photos hardly any does), the motion is halved until they do:
    without any, both views are the same square inside the photo, enlarged beyond `config.max_scale` if need be.
    """
    views = _draw_views(photo, size, config, rng, MOTIONS[0])
    for motion in MOTIONS[1:]:
        if _overlap(*views) >= config.min_overlap:
            break
        views = _draw_views(photo, size, config, rng, motion)
    return views


def crop_view(photo: np.ndarray, size: int, config: WarpConfig, rng: np.random.Generator) -> View:
    """A view of most of the photo, for pairs of two photos: mild rotation and perspective, random zoom."""
    height, width = photo.shape[:2]
    scale = size / min(height, width) * np.exp(rng.uniform(0, np.log(2.0)))
    reach = np.array([width, height]) - size / scale
    centre = np.array([width, height]) / 2 + rng.uniform(-0.5, 0.5, 2) * np.maximum(reach, 0)
    homography = perspective(size, config.perspective / 2, rng) @ similarity(size, centre, scale, rng.uniform(-15, 15))
    return render(photo, homography, size)


def letterbox(photo: np.ndarray, size: int) -> View:
    """The whole photo: its longer side resized to `size`, zero-padded to a square, centred (rounded left and up).

    Pixels stay uint8 and padding is 0, before any normalisation.
    """
    height, width = fit_long_side(photo.shape[:2], size)
    top, left = (size - height) // 2, (size - width) // 2
    kind = cv2.INTER_AREA if max(photo.shape[:2]) > size else cv2.INTER_LINEAR
    image = np.zeros((size, size, 3), dtype=np.uint8)
    image[top : top + height, left : left + width] = cv2.resize(photo, (width, height), interpolation=kind)
    valid = np.zeros((size, size), dtype=bool)
    valid[top : top + height, left : left + width] = True
    sx, sy = width / photo.shape[1], height / photo.shape[0]
    homography = np.array([[sx, 0, 0.5 * sx - 0.5 + left], [0, sy, 0.5 * sy - 0.5 + top], [0, 0, 1]])
    return View(image, valid, homography)


def _draw_views(
    photo: np.ndarray, size: int, config: WarpConfig, rng: np.random.Generator, motion: float
) -> tuple[View, View]:
    """Two views whose shift, turn, zoom and perspective are `motion` times what the settings allow."""
    first = _view_homography(photo.shape, size, config, rng, motion)
    scale = _local_scale(first, _preimage_of_middle(first, size))
    ratio = np.exp(motion * rng.uniform(-1, 1) * np.log(config.max_scale_ratio))
    limit = motion * (180.0 if rng.random() < config.any_rotation_share else config.rotation_deg)
    centre = _preimage_of_middle(first, size) + motion * rng.uniform(-0.35, 0.35, 2) * size / scale
    # Photos that are smaller than a view are enlarged beyond max_scale, in both views.
    zoom = float(np.clip(scale * ratio, config.min_scale * 0.7, max(config.max_scale * 1.4, scale)))
    turned = similarity(size, centre, zoom, rng.uniform(-limit, limit))
    second = perspective(size, motion * config.perspective, rng) @ turned
    return render(photo, first, size), render(photo, second, size)


def _view_homography(
    shape: tuple[int, ...], size: int, config: WarpConfig, rng: np.random.Generator, motion: float
) -> np.ndarray:
    """The first view: with less motion it is straighter, and shows less beyond the photo's border."""
    height, width = shape[:2]
    angle = motion * rng.uniform(-10, 10)
    low = max(config.min_scale, 0.9 * size / max(height, width))
    drawn = np.exp(rng.uniform(np.log(low), np.log(max(low, config.max_scale))))
    inside = max(drawn, size / max(1, min(height, width) - 2))  # a pixel off the border, against rounding
    scale = drawn**motion * inside ** (1 - motion)
    reach = np.maximum(np.array([width, height]) - size / scale, 0)
    centre = np.array([width, height]) / 2 + rng.uniform(-0.5, 0.5, 2) * reach
    return perspective(size, 0.3 * motion * config.perspective, rng) @ similarity(size, centre, scale, angle)


def _preimage_of_middle(homography: np.ndarray, size: int) -> np.ndarray:
    point = np.linalg.inv(homography) @ [(size - 1) / 2, (size - 1) / 2, 1.0]
    return point[:2] / point[2]


def _local_scale(homography: np.ndarray, point: np.ndarray) -> float:
    """Square root of the area that a small square around `point` covers after the homography."""
    x, y, w = homography @ [*point, 1.0]
    jacobian = (homography[:2, :2] - np.outer([x / w, y / w], homography[2, :2])) / w
    return float(np.sqrt(abs(np.linalg.det(jacobian))))


def _overlap(first: View, second: View) -> float:
    relative = second.homography @ np.linalg.inv(first.homography)
    size = second.valid.shape[0]
    seen = cv2.warpPerspective(first.valid.astype(np.uint8), relative, (size, size), flags=cv2.INTER_NEAREST)
    return float((seen.astype(bool) & second.valid).mean())
