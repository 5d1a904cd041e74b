"""ACDC: street scenes from a car in fog, at night, in rain and in snow, each with a clear-weather photo of its place.

`rgb_anon/<condition>/<split>/<sequence>/<name>_rgb_anon.png`, and its partner under `<split>_ref`, whose name ends in
`_ref_anon.png`; the first 21 characters (`GOPR0475_frame_000041`) are the same. Sakaridis et al., "ACDC: The Adverse
Conditions Dataset with Correspondences", ICCV 2021.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from ripe.data.dataset import Count, DataSet
from ripe.data.scenes import Scene
from ripe.folders import photos_below

CONDITIONS = ("fog", "night", "rain", "snow")
SPLITS = ("train",)
ROOT = "rgb_anon"
KEY_LENGTH = 21
# Of 1080×1920 photos; what is below is the bonnet of the car, the same in all of them.
CROP = (896, 1920)


def read(folder: Path, conditions: Sequence[str] = CONDITIONS, splits: Sequence[str] = SPLITS) -> list[Scene]:
    """The recordings, each with its pairs of photos (bad weather, clear weather) as groups.

    Recordings are told apart by condition and by the camera's number for them: GOPR0475, GP010475 and GP020475 are
    parts of one. Photos without a partner are left out.

    Raises:
        FileNotFoundError: no pair is there.
    """
    scenes = [scene for condition in conditions for scene in _read_condition(folder, condition, splits)]
    if not scenes:
        where = f"{ROOT}/<{'|'.join(conditions)}>/<{'|'.join(splits)}>"
        raise FileNotFoundError(f"{folder}: holds no pair of photos in {where} and its _ref")
    return scenes


def pairs_of(folder: Path, condition: str, split: str) -> tuple[list[str], list[str], list[tuple[str, str]]]:
    """Names of the photos and of the clear-weather photos of a split, and the pairs of them, relative to `ROOT`."""
    photos = _named(folder, f"{condition}/{split}", "_rgb_anon.png")
    partners = _named(folder, f"{condition}/{split}_ref", "_ref_anon.png")
    pairs = [(photos[key], partners[key]) for key in sorted(photos.keys() & partners.keys())]
    return sorted(photos.values()), sorted(partners.values()), pairs


def _named(folder: Path, place: str, ending: str) -> dict[str, str]:
    path = folder / ROOT / place
    names = photos_below(path) if path.is_dir() else []
    return {Path(name).name[:KEY_LENGTH]: f"{place}/{name}" for name in names if name.endswith(ending)}


def _read_condition(folder: Path, condition: str, splits: Sequence[str]) -> Iterator[Scene]:
    recordings: dict[str, list[str]] = defaultdict(list)
    for split in splits:
        for photo, partner in pairs_of(folder, condition, split)[2]:
            recordings[_recording(photo)] += [photo, partner]
    for recording, names in sorted(recordings.items()):
        groups = np.arange(len(names)).reshape(-1, 2)
        yield Scene(f"{condition} {recording}", folder / ROOT, names, groups, CROP)


def _recording(name: str) -> str:
    """The last four digits of GOPR0475 or GP010475 at the start of a file's name."""
    return Path(name).name.split("_")[0][-4:]


def count(folder: Path) -> list[Count]:
    """What of the data set is found in a folder."""
    counts = []
    for condition in CONDITIONS:
        photos, partners, pairs = pairs_of(folder, condition, "train")
        of = max(len(photos), len(partners)) or None
        counts.append(Count(f"pairs of {condition}, train", len(pairs), of))
        others = pairs_of(folder, condition, "val")[2]
        counts.append(Count(f"pairs of {condition}, val", len(others), needed=False))
    return counts


SET = DataSet(
    name="acdc",
    title="ACDC, street scenes in bad and clear weather, for training",
    url="https://acdc.vision.ee.ethz.ch/download",
    folder="ACDC",
    kind="form",
    holds=ROOT,
    archive="rgb_anon_trainvaltest.zip",
    count=count,
    scenes=lambda folder, _config, _seed: read(folder),
)
