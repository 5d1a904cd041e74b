"""Annotated image pairs on disk: a folder with `pairs.json` beside its photos.

`pairs.json` is `{"model": "homography" | "fundamental" | "pose", "pairs": [...]}`. Every pair has `name`, `image0` and
`image1`. A pair of a homography has `H` (3×3, first photo to second), or else corresponding points, `points0` and
`points1` (K×2, 4 or more). A pair of "fundamental", for scenes with depth and unknown cameras, has such points, 8 or
more. A pair of poses has the camera matrices `K0` and `K1`, `T_0to1` (4×4, first camera's frame to second's, of any
scale), and optionally the sizes (width, height) `size0` and `size1` of the photos that the matrices are for. Pixel
coordinates are (x, y) of the stored photo, EXIF orientation applied, with the centre of the top-left pixel at (0, 0).
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import torch
from torch import Tensor

from ripe import checks
from ripe.evaluation.pair_sets import AnnotatedPair, FundamentalPair, HomographyPair, Kind, PairSet, PosePair, Size
from ripe.evaluation.protocol import Protocol
from ripe.files import read_json
from ripe.geometry.homography import apply_homography, outer_corners
from ripe.images import open_image, upright_size
from ripe.resizing import Resizing

PAIRS_FILE = "pairs.json"
PROTOCOLS: dict[Kind, Protocol] = {
    "homography": Protocol(
        kind="homography",
        resizing=Resizing("long", 1024, enlarge=False),
        estimator_threshold=2.0,
        limits=(3.0, 5.0, 10.0),
        correct_match=5.0,
        in_resized_pixels=False,
        error="mean distance of the annotated points (where H is given: of the corners)",
    ),
    "fundamental": Protocol(
        kind="fundamental",
        resizing=Resizing("long", 1024, enlarge=False),
        estimator_threshold=1.0,
        limits=(3.0, 5.0, 10.0),
        correct_match=5.0,
        in_resized_pixels=False,
        error="mean distance of the annotated points from their epipolar lines",
    ),
    "pose": Protocol(
        kind="pose",
        resizing=Resizing("long", 1024, enlarge=False),
        estimator_threshold=1.0,
        limits=(5.0, 10.0, 20.0),
        correct_match=2.0,
        in_resized_pixels=False,
        error="max(rotation, translation) angle",
        max_iterations=20_000,
    ),
}


def read(folder: Path) -> list[PairSet]:
    """The sets of pairs of `folder` and its sub-folders; see `find_pairs_folders` and `read_annotated` for errors."""
    return [read_annotated(path) for path in find_pairs_folders(folder)]


def find_pairs_folders(folder: str | Path) -> list[Path]:
    """`folder` itself if it holds `pairs.json`, otherwise its sub-folders that do, sorted.

    Raises:
        FileNotFoundError: no such folder, or no `pairs.json` in it.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: no such folder")
    if (folder / PAIRS_FILE).is_file():
        return [folder]
    found = sorted(path.parent for path in folder.glob(f"*/{PAIRS_FILE}"))
    if not found:
        raise FileNotFoundError(f"{folder}: holds no {PAIRS_FILE}, nor does a folder in it")
    return found


def read_annotated(folder: str | Path) -> PairSet:
    """Read a folder's `pairs.json`.

    Raises:
        FileNotFoundError: no such file, or a photo that it names is missing.
        ValueError: the file is no valid list of pairs; the message names it and the pair.
    """
    path = Path(folder) / PAIRS_FILE
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    content = read_json(path)
    if not isinstance(content, dict) or not isinstance(content.get("pairs"), list):
        raise ValueError(f"{path}: must be an object with a list `pairs`")
    said = content.get("model")
    model = next((kind for kind in PARSERS if kind == said), None)
    if model is None:
        raise ValueError(f'{path}: `model` is {said!r}; it must be "homography", "fundamental" or "pose"')
    pairs = []
    for index, entry in enumerate(content["pairs"]):
        try:
            pairs.append(PARSERS[model](entry, path.parent))
        # Numbers of any size make linear algebra fail as they make conversions fail.
        except (KeyError, TypeError, ValueError, RuntimeError, OverflowError, cv2.error) as error:
            reason = f"`{error.args[0]}` is missing" if isinstance(error, KeyError) else error
            raise ValueError(f"{path}: pair {index}: {reason}") from error
    return PairSet(path.parent.resolve().name, path.parent, model, pairs)


def _homography_pair(entry: Any, folder: Path) -> HomographyPair:
    names = _names(entry)
    if "H" in entry:
        homography = _numbers(entry, "H", (3, 3))
        if torch.linalg.matrix_rank(homography) < 3:
            raise ValueError("`H` cannot be inverted, so it is no homography")
        corners = _corners(folder / names[1])
        return HomographyPair(*names, homography, corners, apply_homography(homography, corners))
    points0, points1 = _points(entry, least=4)
    fitted, _ = cv2.findHomography(points0.numpy(), points1.numpy())
    if fitted is None:
        raise ValueError("its points do not determine a homography")
    return HomographyPair(*names, torch.from_numpy(fitted), points0, points1)


def _fundamental_pair(entry: Any, folder: Path) -> FundamentalPair:
    names = _names(entry)
    points0, points1 = _points(entry, least=8)
    fitted, _ = cv2.findFundamentalMat(points0.numpy(), points1.numpy(), cv2.FM_8POINT)
    if fitted is None or fitted.shape != (3, 3):
        raise ValueError("its points do not determine a fundamental matrix")
    return FundamentalPair(*names, torch.from_numpy(fitted), points0, points1)


def _corners(path: Path) -> Tensor:
    """Of a photo; none of one that cannot be read, whose pairs are left out later, when all such photos are named."""
    try:
        with open_image(path) as photo:
            return outer_corners(upright_size(photo))
    except (OSError, ValueError):
        return torch.zeros(0, 2, dtype=torch.float64)


def _points(entry: Any, least: int) -> tuple[Tensor, Tensor]:
    points0, points1 = _numbers(entry, "points0", (-1, 2)), _numbers(entry, "points1", (-1, 2))
    if len(points0) != len(points1) or len(points0) < least:
        raise ValueError(f"{len(points0)} and {len(points1)} points; there must be as many of both, {least} or more")
    return points0, points1


def _pose_pair(entry: Any, folder: Path) -> PosePair:
    names = _names(entry)
    intrinsics0, intrinsics1 = _numbers(entry, "K0", (3, 3)), _numbers(entry, "K1", (3, 3))
    for key, intrinsics in (("`K0`", intrinsics0), ("`K1`", intrinsics1)):
        checks.camera_matrix(intrinsics, key)
    transform = _numbers(entry, "T_0to1", (4, 4))
    rotation, translation = transform[:3, :3], transform[:3, 3]
    if not translation.any():
        raise ValueError("`T_0to1` has no translation, so its direction cannot be compared")
    sizes = _size(entry, "size0"), _size(entry, "size1")
    return PosePair(*names, intrinsics0, intrinsics1, rotation, translation, *sizes)


PARSERS: dict[Kind, Callable[[Any, Path], AnnotatedPair]] = {
    "homography": _homography_pair,
    "fundamental": _fundamental_pair,
    "pose": _pose_pair,
}


def _size(entry: Any, key: str) -> Size | None:
    if key not in entry:
        return None
    width, height = _numbers(entry, key, (2,)).int().tolist()
    return width, height


def _names(entry: Any) -> tuple[str, str, str]:
    if not isinstance(entry, dict):
        raise ValueError("must be an object")
    names = tuple(entry[key] for key in ("name", "image0", "image1"))
    if not all(isinstance(name, str) for name in names):
        raise ValueError("`name`, `image0` and `image1` must be texts")
    return names


def _numbers(entry: Any, key: str, shape: tuple[int, ...]) -> Tensor:
    wanted = "×".join("K" if size == -1 else str(size) for size in shape)
    try:
        values = torch.tensor(entry[key], dtype=torch.float64)
    except (TypeError, ValueError, RuntimeError, OverflowError) as error:
        raise ValueError(f"`{key}` must be {wanted} numbers") from error
    if values.ndim != len(shape) or any(want not in (-1, have) for want, have in zip(shape, values.shape, strict=True)):
        raise ValueError(f"`{key}` must be {wanted} numbers")
    if not torch.isfinite(values).all():
        raise ValueError(f"`{key}` holds NaN or infinite numbers")
    return values
