"""Pictures of keypoints and matches: two photos side by side, the matches as lines between them."""

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ripe import checks
from ripe.files import replacing
from ripe.images import rescale_keypoints, resize

MAX_WIDTH = 1920
GAP = 8
GREEN = (40, 220, 80)
RED = (230, 60, 50)
ORANGE = (255, 150, 0)
GREY = (150, 150, 150)
BLUE = (70, 140, 255)
COLOURS = {"matched": GREEN, "doubtful": ORANGE, "chance": GREY}
"""Of inliers, by the name of the verdict on them."""
UNVERIFIED = BLUE
FAR = 2**20  # pixels; what lies farther out is drawn from there, as OpenCV's positions are 32-bit numbers
SHIFT = 4  # OpenCV takes sub-pixel positions as fixed-point numbers of this many fractional bits
LINE_OPACITY = 0.4  # so that the photos can be seen behind hundreds of lines


def draw_matches(
    images: Sequence[Tensor],
    points: Sequence[Tensor],
    *,
    max_width: int = MAX_WIDTH,
    colour: tuple[int, int, int] = GREEN,
    wrong: Tensor | None = None,
) -> np.ndarray:
    """Draw K matches between two photos.

    Args:
        images: the two photos, each 3×H×W RGB in 0..1. Both are shrunk by one factor to fit the width.
        points: their K×2 matched (x, y) points in pixels of the photos.
        max_width: of the picture, in pixels.
        colour: of the matches, RGB: green is for verified ones; see `COLOURS` and `UNVERIFIED`.
        wrong: K bool; these matches are drawn red and below the others. None of them if None.

    Returns:
        H×W×3 uint8 RGB picture, W ≤ `max_width`.

    Raises:
        ValueError: the points are not two equally long lists of finite (x, y), or `wrong` is of another length.
    """
    count = len(checks.matched_points(*points)[0])
    red = np.zeros(count, dtype=bool) if wrong is None else wrong.cpu().numpy().astype(bool)
    if len(red) != count:
        raise ValueError(f"wrong has {len(red)} elements for {count} matches")
    canvas, places = _lay_out(images, points, max_width)
    for chosen, shade in ((red, RED), (~red, colour)):
        if chosen.any():
            _draw_lines(canvas, places[0][chosen], places[1][chosen], shade)
    return canvas


def draw_keypoints(images: Sequence[Tensor], keypoints: Sequence[Tensor], *, max_width: int = MAX_WIDTH) -> np.ndarray:
    """Draw the keypoints of two photos side by side.

    Args:
        images: the two photos, each 3×H×W RGB in 0..1. Both are shrunk by one factor to fit the width.
        keypoints: N×2 (x, y) of each, in pixels of the photos.
        max_width: of the picture, in pixels.

    Returns:
        H×W×3 uint8 RGB picture, W ≤ `max_width`.
    """
    canvas, places = _lay_out(images, keypoints, max_width)
    _draw_circles(canvas, _fixed_point(np.concatenate(places)), GREEN)
    return canvas


def save_picture(picture: np.ndarray, path: str | Path) -> None:
    """Write an H×W×3 uint8 RGB picture; the file's ending says in which format.

    Pillow writes it and not OpenCV, whose PNG writer ends the process if pycolmap was imported before it.
    """
    with replacing(path) as temporary:
        Image.fromarray(picture).save(temporary, format=picture_format(path))


def picture_format(path: str | Path) -> str:
    """Pillow's name of the format that the ending of `path` stands for; `ValueError` if it stands for none."""
    suffix = Path(path).suffix.lower()
    known = Image.registered_extensions()
    if known.get(suffix) not in Image.SAVE:
        raise ValueError(f"{path}: cannot write pictures of type {suffix or '(no ending)'}; use .png or .jpg")
    return known[suffix]


def _size(image: Tensor) -> tuple[int, int]:
    return image.shape[-2], image.shape[-1]


def _lay_out(images: Sequence[Tensor], points: Sequence[Tensor], max_width: int) -> tuple[np.ndarray, list[np.ndarray]]:
    """Both photos side by side on a canvas, and where their points are on it."""
    widths = [image.shape[2] for image in images]
    scale = min(1.0, (max_width - GAP) / sum(widths))
    panels = []
    for image in images:
        size = (max(1, int(image.shape[1] * scale)), max(1, int(image.shape[2] * scale)))
        panels.append(image if scale == 1.0 else resize(image, size))
    places = [
        rescale_keypoints(torch.from_numpy(checks.points(p, "points")), _size(image), _size(panel)).numpy()
        for p, image, panel in zip(points, images, panels, strict=True)
    ]
    places[1] = places[1] + (panels[0].shape[2] + GAP, 0)
    return _side_by_side(panels), places


def _side_by_side(panels: Sequence[Tensor]) -> np.ndarray:
    height = max(panel.shape[1] for panel in panels)
    width = sum(panel.shape[2] for panel in panels) + GAP * (len(panels) - 1)
    canvas = np.full((height, width, 3), 255, dtype=np.uint8)
    left = 0
    for panel in panels:
        pixels = (panel.clamp(0, 1) * 255).round().byte().cpu().permute(1, 2, 0).numpy()
        canvas[: pixels.shape[0], left : left + pixels.shape[1]] = pixels
        left += pixels.shape[1] + GAP
    return canvas


def _draw_lines(canvas: np.ndarray, starts: np.ndarray, ends: np.ndarray, colour: tuple[int, int, int]) -> None:
    fixed = [_fixed_point(points) for points in (starts, ends)]
    lines = canvas.copy()
    for start, end in zip(*fixed, strict=True):
        cv2.line(lines, start, end, colour, 1, cv2.LINE_AA, SHIFT)
    cv2.addWeighted(lines, LINE_OPACITY, canvas, 1 - LINE_OPACITY, 0, dst=canvas)
    _draw_circles(canvas, [*fixed[0], *fixed[1]], colour)


def _draw_circles(canvas: np.ndarray, centres: list[list[int]], colour: tuple[int, int, int]) -> None:
    for centre in centres:
        cv2.circle(canvas, centre, 2 << SHIFT, colour, 1, cv2.LINE_AA, SHIFT)


def _fixed_point(points: np.ndarray) -> list[list[int]]:
    return np.round(points.clip(-FAR, FAR) * 2**SHIFT).astype(int).tolist()
