"""IMW2020-val in DISK's package: relative poses of internet photos, on which the published network was validated.

`dataset.json` maps a scene to `image_path`, `calib_path` (relative to that file's folder, or absolute), `images` and
`tuples` of indices into `images`; a pair is the first two of a tuple. Photo `<image_path>/<image>.jpg`, camera
`<calib_path>/calibration_<image>.h5` with K, R (3×3) and T (3), world to camera. Tyszkiewicz et al., "DISK: Learning
local features with policy gradient", NeurIPS 2020; Jin et al., "Image Matching across Wide Baselines", IJCV 2021.
"""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ripe.evaluation.pair_sets import AnnotatedPair, PairSet, PosePair
from ripe.evaluation.protocol import Protocol
from ripe.files import read_json
from ripe.geometry.homography import intrinsics_from_corner_origin
from ripe.resizing import Resizing
from ripe.storage import open_hdf5, read_numbers

# The published validation used as many; which ones is not known, so ours are spread evenly over the tuples.
PAIRS = 213
PROTOCOL = Protocol(
    kind="pose",
    resizing=Resizing("long", 560, enlarge=True),  # the published training's
    estimator_threshold=0.5,
    limits=(5.0, 10.0, 20.0),
    correct_match=2.0,
    in_resized_pixels=False,
    error="max(rotation, translation) angle, the latter folded at 90°",
    fold_translation=True,
    published_threshold=0.5,
)


def read(folder: Path) -> list[PairSet]:
    """The different pairs of all tuples.

    Raises:
        FileNotFoundError: `dataset.json`, a photo or a camera is missing.
        ValueError: one of them is not as described; the message names it.
    """
    path = folder / "dataset.json"
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    try:
        scenes = read_json(path)
        pairs = [pair for scene, content in sorted(scenes.items()) for pair in _scene_pairs(folder, scene, content)]
    except (AttributeError, LookupError, TypeError) as error:
        raise ValueError(f"{path}: not DISK's layout ({type(error).__name__}: {error})") from error
    return [PairSet("imw2020", folder, "pose", pairs)]


def _scene_pairs(folder: Path, scene: str, content: dict[str, Any]) -> list[AnnotatedPair]:
    cameras: dict[str, tuple[Tensor, Tensor, Tensor]] = {}

    def camera(image: str) -> tuple[Tensor, Tensor, Tensor]:
        if image not in cameras:
            cameras[image] = _read_camera(folder / content["calib_path"] / f"calibration_{image}.h5")
        return cameras[image]

    pairs: list[AnnotatedPair] = []
    # Tuples overlap; a pair counts once, in whichever order it comes first.
    chosen: dict[frozenset[str], tuple[str, str]] = {}
    for group in content["tuples"]:
        names = content["images"][group[0]], content["images"][group[1]]
        chosen.setdefault(frozenset(names), names)
    for name0, name1 in chosen.values():
        (intrinsics0, rotation0, translation0), (intrinsics1, rotation1, translation1) = camera(name0), camera(name1)
        rotation = rotation1 @ rotation0.T
        photos = [f"{content['image_path']}/{name.split('.')[0]}.jpg" for name in (name0, name1)]
        translation = translation1 - rotation @ translation0
        pairs.append(
            PosePair(f"{scene}/{name0} {name1}", photos[0], photos[1], intrinsics0, intrinsics1, rotation, translation)
        )
    return pairs


def _read_camera(path: Path) -> tuple[Tensor, Tensor, Tensor]:
    try:
        with open_hdf5(path) as file:
            numbers = {key: torch.from_numpy(read_numbers(file, key)).double().squeeze() for key in ("K", "R", "T")}
    except (KeyError, ValueError) as error:
        raise ValueError(f"{path}: not a calibration ({error})") from error
    shapes = {key: tuple(values.shape) for key, values in numbers.items()}
    if shapes != {"K": (3, 3), "R": (3, 3), "T": (3,)}:
        raise ValueError(f"{path}: shapes are {shapes}; they must be 3×3 of K and R, and 3 of T")
    return intrinsics_from_corner_origin(numbers["K"]), numbers["R"], numbers["T"]
