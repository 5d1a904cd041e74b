"""Photos of one's own: folders of scenes, flat folders, and the part of them that is kept to validate with."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from ripe.data.photo_pairs import PhotoPair
from ripe.data.scenes import Scene, no_group, one_group, seeded
from ripe.folders import may_hold_photos, photos_below, photos_in

# Below this many photos nothing is held back: two of them would be a large part of what there is to learn from.
FEWEST_TO_SPLIT = 10
# A scene larger than this share of the photos is not held back whole.
LARGEST_SHARE = 0.25
SINGLES = "photos without a scene"


def read_root(folder: Path) -> list[Scene]:
    """Each sub-folder that holds photos, at any depth, is a scene; photos loose in `folder` are of unknown scenes.

    Raises:
        FileNotFoundError: there is no such folder.
        ValueError: it holds no photo.
    """
    photos = read_scenes(folder) + read_singles(folder)
    if not photos:
        raise ValueError(f"{folder}: holds no photo, nor does a folder in it")
    return photos


def read_scenes(folder: Path) -> list[Scene]:
    """The scenes of a folder of scene folders, by name; `FileNotFoundError` if there is no such folder."""
    _check_folder(folder)
    subfolders = sorted(path for path in folder.iterdir() if path.is_dir() and may_hold_photos(path.name))
    scenes = [one_group(path.name, path, photos_below(path)) for path in subfolders]
    return [scene for scene in scenes if len(scene) > 0]


def read_singles(folder: Path) -> list[Scene]:
    """The photos directly in a folder, for self-pairs; `FileNotFoundError` if there is no such folder."""
    _check_folder(folder)
    names = photos_in(folder)
    return [no_group(SINGLES, folder, names)] if names else []


def with_pairs(scenes: Sequence[Scene], pairs: Sequence[PhotoPair]) -> list[Scene]:
    """The scenes with these pairs as their groups, and the homographies that are known; other photos stay alone.

    Pairs of photos that no scene has (held back, say) are left out.
    """
    by_scene: dict[str, list[PhotoPair]] = defaultdict(list)
    for pair in pairs:
        by_scene[pair.scene].append(pair)
    return [_joined(scene, by_scene[scene.name]) if len(scene.groups) else scene for scene in scenes]


def _joined(scene: Scene, pairs: list[PhotoPair]) -> Scene:
    numbers = {f"{scene.name}/{name}": index for index, name in enumerate(scene.names)}
    there = [pair for pair in pairs if pair.image0 in numbers and pair.image1 in numbers]
    groups = np.array([(numbers[pair.image0], numbers[pair.image1]) for pair in there], dtype=np.int64)
    homographies = {}
    for pair, (first, second) in zip(there, groups.tolist(), strict=True):
        if pair.homography is not None:
            homographies[first, second] = np.array(pair.homography)
            homographies[second, first] = np.linalg.inv(homographies[first, second])
    # Without a pair the scene's photos still are strangers to those of other scenes.
    alone = np.arange(len(scene))[:, None]
    return replace(scene, groups=groups if there else alone, homographies=homographies)


def hold_back(photos: list[Scene], share: float, seed: int) -> tuple[list[Scene], list[Scene]]:
    """Split photos into a part to train on and a part, about `share` of all, that training never sees.

    Whole scenes are held back where some are small enough (a quarter of the photos at most); otherwise each scene
    gives a stretch of photos that are neighbours by name: neighbours overlap, so real pairs can be made of them, and
    frames of a video are not validated with on their own neighbours. Photos without a scene give a stretch as well.
    Of fewer than ten photos none is held back.

    Returns:
        The two parts. Both depend on the names, `share` and `seed` alone.
    """
    whole = _whole_scenes([scene for scene in photos if len(scene.groups)], share, seed)
    kept: list[Scene] = []
    held: list[Scene] = []
    for scene in photos:
        if scene in whole:
            held.append(scene)
        elif whole and len(scene.groups):
            kept.append(scene)
        else:
            for part, names in zip((kept, held), _cut_stretch(scene, share, seed), strict=True):
                part.extend([_with_names(scene, names)] if names else [])
    return kept, held


def _whole_scenes(scenes: list[Scene], share: float, seed: int) -> list[Scene]:
    total = sum(map(len, scenes))
    pairable = [scene for scene in scenes if scene.pairable]
    smallest = min(map(len, pairable), default=total)
    if share == 0 or total < FEWEST_TO_SPLIT or smallest > LARGEST_SHARE * total:
        return []
    budget, chosen = max(share * total, smallest), []
    for scene in sorted(pairable, key=lambda scene: seeded(seed, scene.name).random()):
        if len(scene) <= budget:
            chosen.append(scene)
            budget -= len(scene)
    return chosen


def _cut_stretch(scene: Scene, share: float, seed: int) -> tuple[list[str], list[str]]:
    names = list(scene.names)
    if share == 0 or len(names) < FEWEST_TO_SPLIT:
        return names, []
    length = max(2, round(share * len(names)))
    start = int(seeded(seed, scene.name).integers(len(names) - length + 1))
    return names[:start] + names[start + length :], names[start : start + length]


def _with_names(scene: Scene, names: list[str]) -> Scene:
    make = one_group if len(scene.groups) else no_group
    return make(scene.name, scene.folder, names)


def _check_folder(folder: Path) -> None:
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: no such folder of photos")
