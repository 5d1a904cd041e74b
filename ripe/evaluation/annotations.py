"""Annotated image pairs on disk: a folder with `pairs.json` beside its photos.

`pairs.json` is `{"model": "homography" | "pose", "pairs": [...]}`. Every pair has `name`, `image0` and `image1`. A pair
of a homography has `points0` and `points1`, K×2 corresponding points; a pair of poses has the camera matrices `K0` and
`K1`, `T_0to1` (4×4, first camera's frame to second's, of any scale), and optionally the sizes (width, height) `size0`
and `size1` of the photos that the matrices are for. Pixel coordinates are (x, y) of the stored photo, EXIF orientation
applied, with the centre of the top-left pixel at (0, 0).
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import cv2
import torch
from torch import Tensor

PAIRS_FILE = "pairs.json"


@dataclass(frozen=True)
class HomographyPair:
    """Two photos and corresponding points, K×2 float64 with K of 4 or more, on one plane or of a turning camera.

    `homography` is the 3×3 float64 matrix, first photo to second, that fits the points best.
    """

    name: str
    image0: Path
    image1: Path
    points0: Tensor
    points1: Tensor
    homography: Tensor


@dataclass(frozen=True)
class PosePair:
    """Two photos and their cameras: 3×3 camera matrices; rotation 3×3, translation 3, first frame to second; float64.

    The sizes are those (width, height) of the photos that the camera matrices are for; None if not stated.
    """

    name: str
    image0: Path
    image1: Path
    intrinsics0: Tensor
    intrinsics1: Tensor
    rotation: Tensor
    translation: Tensor
    size0: tuple[int, int] | None
    size1: tuple[int, int] | None


AnnotatedPair = HomographyPair | PosePair


@dataclass(frozen=True)
class PairsFolder:
    """The annotated pairs of one folder, all of the same kind."""

    path: Path
    model: Literal["homography", "pose"]
    pairs: list[AnnotatedPair]

    @property
    def images(self) -> list[Path]:
        """Every photo of the pairs once, sorted."""
        return sorted({path for pair in self.pairs for path in (pair.image0, pair.image1)})


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


def read_pairs(folder: str | Path) -> PairsFolder:
    """Read a folder's `pairs.json`.

    Raises:
        FileNotFoundError: no such file, or a photo that it names is missing.
        ValueError: the file is no valid list of pairs; the message names it and the pair.
    """
    path = Path(folder) / PAIRS_FILE
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path}: not valid JSON ({error})") from error
    if not isinstance(content, dict) or not isinstance(content.get("pairs"), list):
        raise ValueError(f"{path}: must be an object with a list `pairs`")
    model = content.get("model")
    if model not in ("homography", "pose"):
        raise ValueError(f'{path}: `model` is {model!r}; it must be "homography" or "pose"')
    if not content["pairs"]:
        raise ValueError(f"{path}: lists no pairs")
    parse = _homography_pair if model == "homography" else _pose_pair
    pairs: dict[str, AnnotatedPair] = {}
    for index, entry in enumerate(content["pairs"]):
        try:
            pair = parse(entry, path.parent)
        except (KeyError, TypeError, ValueError) as error:
            reason = f"`{error.args[0]}` is missing" if isinstance(error, KeyError) else error
            raise ValueError(f"{path}: pair {index}: {reason}") from error
        if pair.name in pairs:
            raise ValueError(f"{path}: pair {index}: another pair is named {pair.name!r} too")
        pairs[pair.name] = pair
    return PairsFolder(path.parent, model, list(pairs.values()))


def _homography_pair(entry: Any, folder: Path) -> HomographyPair:
    name, image0, image1 = _names(entry, folder)
    points0, points1 = _numbers(entry, "points0", (-1, 2)), _numbers(entry, "points1", (-1, 2))
    if len(points0) != len(points1) or len(points0) < 4:
        raise ValueError(f"{len(points0)} and {len(points1)} points; there must be as many of both, 4 or more")
    homography, _ = cv2.findHomography(points0.numpy(), points1.numpy())
    if homography is None:
        raise ValueError("its points do not determine a homography")
    return HomographyPair(name, image0, image1, points0, points1, torch.from_numpy(homography))


def _pose_pair(entry: Any, folder: Path) -> PosePair:
    names = _names(entry, folder)
    intrinsics0, intrinsics1 = _numbers(entry, "K0", (3, 3)), _numbers(entry, "K1", (3, 3))
    if min(float(matrix.diagonal().min()) for matrix in (intrinsics0, intrinsics1)) <= 0:
        raise ValueError("`K0` and `K1` must be camera matrices with focal lengths above 0")
    transform = _numbers(entry, "T_0to1", (4, 4))
    rotation, translation = transform[:3, :3], transform[:3, 3]
    if not translation.any():
        raise ValueError("`T_0to1` has no translation, so its direction cannot be compared")
    sizes = _size(entry, "size0"), _size(entry, "size1")
    return PosePair(*names, intrinsics0, intrinsics1, rotation, translation, *sizes)


def _size(entry: Any, key: str) -> tuple[int, int] | None:
    if key not in entry:
        return None
    width, height = _numbers(entry, key, (2,)).int().tolist()
    return width, height


def _names(entry: Any, folder: Path) -> tuple[str, Path, Path]:
    if not isinstance(entry, dict):
        raise ValueError("must be an object")
    images = folder / entry["image0"], folder / entry["image1"]
    for image in images:
        if not image.is_file():
            raise FileNotFoundError(f"{image}: no such file, but {PAIRS_FILE} names it")
    return str(entry["name"]), *images


def _numbers(entry: Any, key: str, shape: tuple[int, ...]) -> Tensor:
    wanted = "×".join("K" if size == -1 else str(size) for size in shape)
    try:
        values = torch.tensor(entry[key], dtype=torch.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(f"`{key}` must be {wanted} numbers") from error
    if values.ndim != len(shape) or any(want not in (-1, have) for want, have in zip(shape, values.shape, strict=True)):
        raise ValueError(f"`{key}` must be {wanted} numbers")
    if not torch.isfinite(values).all():
        raise ValueError(f"`{key}` holds NaN or infinite numbers")
    return values
