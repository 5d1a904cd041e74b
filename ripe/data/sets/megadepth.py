"""MegaDepth in DISK's package: internet photos of landmarks, with tuples that see the same part of one.

`dataset.json` maps a scene to `image_path` (relative to that file's folder, or absolute), `images` (file names) and
`tuples` of indices into `images`. Li and Snavely, "MegaDepth: Learning single-view depth prediction from internet
photos", CVPR 2018; Tyszkiewicz et al., "DISK: Learning local features with policy gradient", NeurIPS 2020.
"""

import logging
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from ripe.data.dataset import Count, DataSet, existing
from ripe.data.scenes import Scene, seeded
from ripe.files import read_json
from ripe.folders import is_photo

logger = logging.getLogger(__name__)

T = TypeVar("T")

# Of the package that DISK (cvlab-epfl/disk, commit 8dc6d4d) fetches itself.
DISK_INDEX = "https://datasets.epfl.ch/disk-data/index.html"

# Never to be trained on: the scenes of MegaDepth-1500, and those that the Image Matching Challenge 2021 shows, too.
MEGADEPTH_1500 = frozenset({"0015", "0022"})
IMAGE_MATCHING_CHALLENGE = frozenset({"0008", "0019", "0021", "0024", "0025", "0032", "0063", "1589"})
BENCHMARK_SCENES = MEGADEPTH_1500 | IMAGE_MATCHING_CHALLENGE


def read(folder: Path, max_scene_size: int = 10_000, seed: int = 0) -> list[Scene]:
    """The scenes that may be trained on and whose photos are there, each with its tuples as groups.

    Args:
        folder: that holds `dataset.json`.
        max_scene_size: of a scene with more tuples, so many are drawn, by `seed`.
        seed: of that draw.

    Raises:
        FileNotFoundError: `dataset.json` is missing, or the photos of every scene are.
        ValueError: `dataset.json` is not as described; the message names the scene.
    """
    scenes = [scene for scene in read_all(folder) if not is_benchmark(scene)]
    present = [scene for scene in scenes if scene.folder.is_dir()]
    if not present:
        raise FileNotFoundError(f"{folder}: none of the {len(scenes)} scenes to train on is there")
    if len(present) < len(scenes):
        logger.warning(
            "%s: %d of %d scenes are not there and left out", folder, len(scenes) - len(present), len(scenes)
        )
    return [_draw_tuples(scene, max_scene_size, seed) for scene in present]


def read_all(folder: Path) -> list[Scene]:
    """Every scene of `dataset.json` with all of its tuples, by name, whether its photos are there or not."""
    return _from_each_scene(folder, lambda name, content: _scene(folder, name, content))


def calibrations(folder: Path) -> list[Path]:
    """Where the cameras of all photos are, for sets that have them (IMW2020-val)."""

    def of_scene(_name: str, content: dict[str, Any]) -> list[Path]:
        return [folder / content["calib_path"] / f"calibration_{image}.h5" for image in content["images"]]

    return [path for paths in _from_each_scene(folder, of_scene) for path in paths]


def is_benchmark(scene: Scene) -> bool:
    """Whether a scene is one that is evaluated on; it is known by the four digits of its name, or else of its path."""
    digits = re.findall(r"(?<!\d)\d{4}(?!\d)", scene.name) or re.findall(r"(?<!\d)\d{4}(?!\d)", scene.folder.as_posix())
    return not BENCHMARK_SCENES.isdisjoint(digits)


def _from_each_scene(folder: Path, read_scene: Callable[[str, dict[str, Any]], T]) -> list[T]:
    path = folder / "dataset.json"
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    try:
        content = read_json(path)
        return [read_scene(name, content[name]) for name in sorted(content)]
    except (AttributeError, LookupError, TypeError) as error:
        raise ValueError(f"{path}: not DISK's layout ({type(error).__name__}: {error})") from error


def _scene(folder: Path, name: str, content: dict[str, Any]) -> Scene:
    # IMW2020-val lists its photos without the extension.
    images = [image if is_photo(image) else f"{image}.jpg" for image in content["images"]]
    try:
        tuples = np.asarray(content["tuples"], dtype=np.int64).reshape(len(content["tuples"]), -1)
    except (OverflowError, ValueError) as error:
        raise ValueError(f"{folder / 'dataset.json'}: tuples of scene {name} are not equally many indices") from error
    if tuples.size and (tuples.min() < 0 or tuples.max() >= len(images)):
        raise ValueError(f"{folder / 'dataset.json'}: a tuple of scene {name} points beyond its {len(images)} images")
    return Scene(name, folder / content["image_path"], images, tuples)


def _draw_tuples(scene: Scene, most: int, seed: int) -> Scene:
    if len(scene.groups) <= most:
        return scene
    drawn = seeded(seed, scene.name).choice(len(scene.groups), most, replace=False)
    return Scene(scene.name, scene.folder, scene.names, scene.groups[np.sort(drawn)])


def count(folder: Path) -> list[Count]:
    """What of the data set is found in a folder."""
    scenes = read_all(folder)
    left_out = sum(map(is_benchmark, scenes))
    return [
        *disk_counts(scenes),
        Count("tuples", sum(len(scene.groups) for scene in scenes)),
        Count("scenes of benchmarks, never trained on", left_out, needed=False),
    ]


def disk_counts(scenes: list[Scene]) -> list[Count]:
    """How many of the scenes' folders and photos are there."""
    photos = [scene.path(index) for scene in scenes for index in range(len(scene))]
    there = sum(scene.folder.is_dir() for scene in scenes)
    return [Count("scenes", there, len(scenes)), Count("photos", existing(photos), len(photos))]


SET = DataSet(
    name="megadepth",
    title="MegaDepth in DISK's package, for training",
    url=DISK_INDEX,
    folder="disk-data/megadepth",
    kind="index",
    within="megadepth/",
    holds="dataset.json",
    aliases=("disk-megadepth",),
    count=count,
    scenes=lambda folder, config, seed: read(folder, config.max_scene_size, seed),
)
