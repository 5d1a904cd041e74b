"""MegaDepth-1500: relative poses of 1500 pairs of two scenes; protocol of Glue Factory.

Both of its layouts are read: Glue Factory's package, `images/`, `views.txt` (a line per photo: name, R (9 numbers),
t (3), COLMAP's camera model, width, height, parameters; world to camera) and `pairs.txt` (two names a line); and the
older one, `pairs_calibrated.txt` (a line per pair: both names, K0 (9), K1 (9), R (9), t (3); first camera to second),
whose photos are in `images/` or in the folder itself. Sun et al., "LoFTR", CVPR 2021.
"""

import math
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ripe.evaluation.pair_sets import AnnotatedPair, PairSet, PosePair, Size
from ripe.evaluation.protocol import Protocol
from ripe.geometry.homography import intrinsics_from_corner_origin
from ripe.pair_lists import pair_lines
from ripe.resizing import Resizing

PROTOCOL = Protocol(
    kind="pose",
    resizing=Resizing("long", 1600, enlarge=True, blur=True),
    estimator_threshold=0.5,
    limits=(5.0, 10.0, 20.0),
    correct_match=2.0,
    in_resized_pixels=False,  # Glue Factory resizes for the extractor only; it estimates in the stored photos' pixels
    error="max(rotation, translation) angle, the latter folded at 90°",
    fold_translation=True,
    published_threshold=1.0,
)
# COLMAP's camera models with a pinhole's parameters first: how many focal lengths each has.
FOCAL_LENGTHS = {"SIMPLE_PINHOLE": 1, "PINHOLE": 2, "SIMPLE_RADIAL": 1, "RADIAL": 1, "OPENCV": 2}


@dataclass(frozen=True)
class _View:
    rotation: Tensor
    translation: Tensor
    intrinsics: Tensor
    size: Size


def read(folder: Path) -> list[PairSet]:
    """The pairs of whichever layout there is.

    Raises:
        FileNotFoundError: neither layout's files are there, or a photo is missing.
        ValueError: a line cannot be understood; the message names file and line.
    """
    images = folder / "images" if (folder / "images").is_dir() else folder
    if (folder / "views.txt").is_file() and (folder / "pairs.txt").is_file():
        pairs = _packaged(folder)
    elif (folder / "pairs_calibrated.txt").is_file():
        pairs = _calibrated(folder / "pairs_calibrated.txt")
    else:
        raise FileNotFoundError(f"{folder}: holds neither views.txt and pairs.txt nor pairs_calibrated.txt")
    return [PairSet("megadepth1500", images, "pose", pairs)]


def _packaged(folder: Path) -> list[AnnotatedPair]:
    views: dict[str, _View] = {}
    for place, (name, *words) in _lines(folder / "views.txt"):
        views[name] = _view(place, words)
    pairs: list[AnnotatedPair] = []
    for place, names in pair_lines(folder / "pairs.txt"):
        if not set(names) <= views.keys():
            raise ValueError(f"{place}: must be two names of views.txt")
        view0, view1 = views[names[0]], views[names[1]]
        rotation = view1.rotation @ view0.rotation.T
        translation = view1.translation - rotation @ view0.translation
        cameras = view0.intrinsics, view1.intrinsics
        pairs.append(
            PosePair(" ".join(names), names[0], names[1], *cameras, rotation, translation, view0.size, view1.size)
        )
    return pairs


def _view(place: str, words: list[str]) -> _View:
    model = words[12] if len(words) > 12 else "none"
    if model not in FOCAL_LENGTHS:
        raise ValueError(f"{place}: camera model {model}; there must be one of {', '.join(FOCAL_LENGTHS)}")
    pose, (width, height, *parameters) = _numbers(place, words[:12]), _numbers(place, words[13:], least=5)
    focal_lengths = FOCAL_LENGTHS[model]
    if any(parameters[focal_lengths + 2 :]):
        raise ValueError(f"{place}: the photo is distorted; undistort it first")
    fx, fy = parameters[0], parameters[focal_lengths - 1]
    cx, cy = parameters[focal_lengths : focal_lengths + 2]
    matrix = torch.tensor([[fx, 0, cx], [0, fy, cy], [0, 0, 1]], dtype=torch.float64)
    rotation = torch.tensor(pose[:9], dtype=torch.float64).reshape(3, 3)
    translation = torch.tensor(pose[9:], dtype=torch.float64)
    return _View(rotation, translation, intrinsics_from_corner_origin(matrix), (int(width), int(height)))


def _calibrated(path: Path) -> list[AnnotatedPair]:
    pairs: list[AnnotatedPair] = []
    for place, (name0, *words) in _lines(path):
        numbers = torch.tensor(_numbers(place, words[1:], least=30), dtype=torch.float64)
        intrinsics0, intrinsics1, rotation = numbers[:27].reshape(3, 3, 3)
        cameras = intrinsics_from_corner_origin(intrinsics0), intrinsics_from_corner_origin(intrinsics1)
        pairs.append(PosePair(f"{name0} {words[0]}", name0, words[0], *cameras, rotation, numbers[27:30]))
    return pairs


def _lines(path: Path) -> list[tuple[str, list[str]]]:
    """The words of each line that is not empty, and where it is."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not a text file in UTF-8") from error
    return [(f"{path}, line {number}", line.split()) for number, line in enumerate(lines, 1) if line.strip()]


def _numbers(place: str, words: list[str], least: int = 12) -> list[float]:
    try:
        numbers = [float(word) for word in words]
    except ValueError as error:
        raise ValueError(f"{place}: {error}") from error
    if not all(map(math.isfinite, numbers)):
        raise ValueError(f"{place}: holds NaN or infinite numbers")
    if len(numbers) < least:
        raise ValueError(f"{place}: {len(numbers)} numbers where {least} or more are needed")
    return numbers
