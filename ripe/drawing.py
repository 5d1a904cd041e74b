"""Pictures of keypoints and matches: two photos side by side, the matches as lines between them.

The colours of matches say what is known about them. Verified ones are coloured by position, where in the first photo
they start: neighbours have like colours, so that a line that goes astray is seen. No such colour is near those of
wrong, doubtful, chance and unverified matches.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal, get_args

import cv2
import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ripe import checks
from ripe.features import TwoViewGeometry
from ripe.files import replacing
from ripe.geometry.homography import resizing_matrix
from ripe.geometry.verdict import Verdict
from ripe.geometry.warping import picture_of, warp
from ripe.images import fit_long_side, rescale_keypoints, resize

View = Literal["keypoints", "matches", "inliers", "warp"]
VIEWS: tuple[View, ...] = get_args(View)
Colour = tuple[int, int, int]

MAX_WIDTH = 1920
GAP = 8
DRAWN = 200  # matches: enough to cover a photo, few enough to follow each
RED = (230, 60, 50)
ORANGE = (255, 150, 0)
GREY = (150, 150, 150)
BLUE = (70, 140, 255)
COLOURS: dict[str, Colour | None] = {"matched": None, "doubtful": ORANGE, "chance": GREY}
"""Of inliers, by the name of the verdict on them; None is by position."""
UNVERIFIED = BLUE
WHITE = np.uint8(255)
FLICKER_SIDE = 1280
FLICKER_MS = 700  # that each frame is shown
FAR = 2**20  # pixels; what lies farther out is drawn from there, as OpenCV's positions are 32-bit numbers
SHIFT = 4  # OpenCV takes sub-pixel positions as fixed-point numbers of this many fractional bits
PIXELS_PER_WIDTH = 900  # of the picture: a line of it is one pixel wide for each
OPAQUE_LINES = 20  # with more of them lines fade, so that the photos can be seen behind hundreds
OPACITIES = (0.15, 0.9)  # least and most
SHADOW = 0.5  # by opacity: dark edges, by which few lines are seen on any ground


def draw_view(
    view: View,
    images: Sequence[Tensor],
    keypoints: Sequence[Tensor],
    points: Sequence[Tensor],
    geometry: TwoViewGeometry | None = None,
    verdict: Verdict | None = None,
    *,
    max_width: int = MAX_WIDTH,
    limit: int = DRAWN,
) -> np.ndarray:
    """Draw one view of a matched pair, in the colours of its verdict.

    Args:
        view: "keypoints" of both photos; "matches", all of them, those against the geometry in red; "inliers" alone
            (all matches if there is no geometry); "warp", the first photo laid on the second by the homography.
        images: the two photos, each 3×H×W RGB in 0..1.
        keypoints: N×2 (x, y) of each, in pixels of the photos.
        points: K×2 matched points of both.
        geometry: fitted to the matches; None if they are not verified.
        verdict: on it.
        max_width: of the picture, in pixels.
        limit: how many matches are drawn, chosen to cover the photo evenly; 0 for all.

    Returns:
        H×W×3 uint8 RGB picture, W ≤ `max_width`.

    Raises:
        ValueError: "warp" without a homography, points are no finite (x, y), or their numbers do not fit.
    """
    if view not in VIEWS:
        raise ValueError(f"view is {view!r}; it must be one of {', '.join(VIEWS)}")
    if view == "keypoints":
        return draw_keypoints(images, keypoints, max_width=max_width)
    if view == "warp":
        return draw_warped(images, geometry, max_width=max_width)
    colour = UNVERIFIED if verdict is None else COLOURS[verdict.name]
    wrong = None
    if geometry is not None and view == "matches":
        wrong = ~geometry.inliers
    elif geometry is not None:
        points = [side[geometry.inliers] for side in points]
    return draw_matches(images, points, max_width=max_width, colour=colour, wrong=wrong, limit=limit)


def draw_matches(
    images: Sequence[Tensor],
    points: Sequence[Tensor],
    *,
    max_width: int = MAX_WIDTH,
    colour: Colour | None = None,
    wrong: Tensor | None = None,
    limit: int = DRAWN,
) -> np.ndarray:
    """Draw K matches between two photos.

    Args:
        images: the two photos, each 3×H×W RGB in 0..1. Both are shrunk by one factor to fit the width.
        points: their K×2 matched (x, y) points in pixels of the photos.
        max_width: of the picture, in pixels.
        colour: of the matches, RGB; by their position in the first photo if None, which is for verified ones; see
            `COLOURS` and `UNVERIFIED`.
        wrong: K bool; these matches are drawn red and below the others. None of them if None.
        limit: how many matches are drawn at most, chosen to cover the first photo evenly, right and wrong ones in
            the proportion in which they are there; 0 for all.

    Returns:
        H×W×3 uint8 RGB picture, W ≤ `max_width`.

    Raises:
        ValueError: the points are not two equally long lists of finite (x, y), or `wrong` is of another length.
    """
    first, _ = checks.matched_points(*points)
    red = np.zeros(len(first), dtype=bool) if wrong is None else wrong.cpu().numpy().astype(bool)
    if len(red) != len(first):
        raise ValueError(f"wrong has {len(red)} elements for {len(first)} matches")
    chosen = _chosen(first, red, checks.whole_number(limit, "limit", least=0))
    canvas, places = _lay_out(images, points, max_width)
    shades = position_colours(first, _size(images[0])) if colour is None else np.tile(colour, (len(first), 1))
    shades[red] = RED
    _draw_lines(canvas, places[0][chosen], places[1][chosen], shades[chosen].tolist())
    return canvas


def position_colours(points: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Colours of K×2 (x, y) points of a photo of (H, W) `size`: K×3 RGB, 0..255, changing smoothly with the position.

    From left to right they go from yellow by green to cyan, from top to bottom from pale to deep.
    """
    x, y = np.clip((points + 0.5) / (size[1], size[0]), 0, 1).T
    hsv = np.stack([54 + 132 * x, 0.4 + 0.6 * y, 1 - 0.25 * y], axis=-1).astype(np.float32)
    rgb = cv2.cvtColor(hsv[None], cv2.COLOR_HSV2RGB)[0] if len(hsv) else hsv
    return np.rint(rgb * 255).astype(int)


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
    centres = _fixed_point(np.concatenate(places))
    _draw_circles(canvas, centres, [UNVERIFIED] * len(centres))
    return canvas


def draw_warped(
    images: Sequence[Tensor], geometry: TwoViewGeometry | None, *, max_width: int = MAX_WIDTH
) -> np.ndarray:
    """Draw the first photo, moved by a homography, half transparent on the second.

    Args:
        images: the two photos, each 3×H×W RGB in 0..1.
        geometry: a homography, first image to second.
        max_width: of the picture, in pixels.

    Returns:
        H×W×3 uint8 RGB picture, W ≤ `max_width`.

    Raises:
        ValueError: there is no homography.
    """
    if geometry is None or geometry.kind != "homography":
        raise ValueError("a photo is warped by a homography; fit one (--geometry homography)")
    if geometry.model is None:
        raise ValueError("no homography was found, so that no photo can be warped")
    height, width = _size(images[1])
    size = fit_long_side((height, width), min(max(height, width), max(1, max_width * max(height, width) // width)))
    ground = picture_of(images[1] if size == (height, width) else resize(images[1], size))
    moved = resizing_matrix((width, height), (size[1], size[0])) @ geometry.model
    warped, valid = warp(picture_of(images[0]), torch.linalg.inv(moved), (size[1], size[0]))
    return blend(ground, warped, valid)


def blend(ground: np.ndarray, upper: np.ndarray, valid: np.ndarray) -> np.ndarray:
    """The mean of two H×W×3 uint8 pictures where H×W bool `valid`; elsewhere the first one."""
    mean = cv2.addWeighted(ground, 0.5, upper, 0.5, 0)
    return np.where(valid[:, :, None], mean, ground)


def checker(ground: np.ndarray, upper: np.ndarray, valid: np.ndarray, *, squares: int = 8) -> np.ndarray:
    """Two H×W×3 uint8 pictures in turn, `squares` along the longer side; the first one where not H×W bool `valid`."""
    height, width = valid.shape
    side = max(1, -(-max(height, width) // squares))
    odd = (np.arange(height)[:, None] // side + np.arange(width) // side) % 2 == 1
    return np.where((odd & valid)[:, :, None], upper, ground)


def save_flicker(frames: Sequence[np.ndarray], path: str | Path, *, max_side: int = FLICKER_SIDE) -> None:
    """Write a GIF that shows H×W×3 uint8 pictures in turn, without end, shrunk to a longer side of `max_side`."""
    pictures = [Image.fromarray(frame) for frame in frames]
    for picture in pictures:
        picture.thumbnail((max_side, max_side))
    with replacing(path) as temporary:
        pictures[0].save(
            temporary, format="GIF", save_all=True, append_images=pictures[1:], duration=FLICKER_MS, loop=0
        )


def save_picture(picture: np.ndarray, path: str | Path) -> None:
    """Write an H×W×3 RGB or H×W grey uint8 picture; the file's ending says in which format.

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
        pixels = picture_of(panel)
        canvas[: pixels.shape[0], left : left + pixels.shape[1]] = pixels
        left += pixels.shape[1] + GAP
    return canvas


def _chosen(points: np.ndarray, red: np.ndarray, limit: int) -> np.ndarray:
    """Indices of the matches that are drawn, wrong ones first, so that the others lie above them."""
    groups = [np.flatnonzero(red), np.flatnonzero(~red)]
    if 0 < limit < len(points):
        wrong = round(limit * len(groups[0]) / len(points))
        groups = [
            group[spread(points[group], count)] for group, count in zip(groups, (wrong, limit - wrong), strict=True)
        ]
    return np.concatenate(groups)


def spread(points: np.ndarray, count: int) -> np.ndarray:
    """Indices of `count` of K×2 points that cover them evenly: each is the farthest from those before it."""
    if count >= len(points):
        return np.arange(len(points))
    chosen: list[int] = []
    distances = np.linalg.norm(points - points.mean(axis=0), axis=1)
    for _ in range(count):
        chosen.append(int(distances.argmax() if chosen else distances.argmin()))
        nearest = np.linalg.norm(points - points[chosen[-1]], axis=1)
        distances = np.minimum(distances, nearest) if len(chosen) > 1 else nearest
        distances[chosen] = -1  # of points that lie on one spot none is taken twice
    return np.array(chosen, dtype=int)


def _draw_lines(canvas: np.ndarray, starts: np.ndarray, ends: np.ndarray, colours: list[Colour]) -> None:
    fixed = [_fixed_point(points) for points in (starts, ends)]
    width = _line_width(canvas)
    least, most = OPACITIES
    opacity = float(np.clip(most * (OPAQUE_LINES / max(1, len(starts))) ** 0.5, least, most))
    for shades, extra, share in (([(0, 0, 0)] * len(colours), 2, SHADOW * opacity**2), (colours, 0, opacity)):
        lines = canvas.copy()
        for start, end, colour in zip(*fixed, shades, strict=True):
            cv2.line(lines, start, end, colour, width + extra, cv2.LINE_AA, SHIFT)
        cv2.addWeighted(lines, share, canvas, 1 - share, 0, dst=canvas)
    _draw_circles(canvas, [*fixed[0], *fixed[1]], [*colours, *colours])


def _draw_circles(canvas: np.ndarray, centres: list[list[int]], colours: Sequence[Colour]) -> None:
    width = _line_width(canvas)
    for centre, colour in zip(centres, colours, strict=True):
        cv2.circle(canvas, centre, (width + 1) << SHIFT, colour, width, cv2.LINE_AA, SHIFT)


def _line_width(canvas: np.ndarray) -> int:
    return max(1, round(canvas.shape[1] / PIXELS_PER_WIDTH))


def _fixed_point(points: np.ndarray) -> list[list[int]]:
    return np.round(points.clip(-FAR, FAR) * 2**SHIFT).astype(int).tolist()
