"""What of a data set is found, and what is missing."""

from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from ripe.data import acdc, megadepth, own, tokyo
from ripe.data.catalogue import place
from ripe.data.scenes import Scene

HPATCHES_SEQUENCES = 116
HPATCHES_FILES = [f"{index}.ppm" for index in range(1, 7)] + [f"H_1_{index}" for index in range(2, 7)]


@dataclass(frozen=True)
class Count:
    """So many things of a kind are found, of so many that should be there (None if that is not known)."""

    kind: str
    found: int
    expected: int | None = None
    needed: bool = True

    @property
    def complete(self) -> bool:
        """Whether nothing that is needed is missing."""
        return not self.needed or (self.found > 0 if self.expected is None else self.found >= self.expected)

    def __str__(self) -> str:
        text = f"{self.found}" if self.expected is None else f"{self.found} of {self.expected}"
        missing = "" if self.expected is None or self.found >= self.expected else ", missing"
        return f"{text} {self.kind}" + (f"{missing}, not needed" if missing and not self.needed else missing)


@dataclass(frozen=True)
class Inventory:
    """What was found of a data set in a folder, or why nothing could be found out."""

    folder: Path
    counts: list[Count]
    problem: str = ""

    @property
    def complete(self) -> bool:
        """Whether the data set can be used whole."""
        return not self.problem and all(count.complete for count in self.counts)


def take(name: str, root: Path | None = None) -> Inventory:
    """Look for a data set of `catalogue.SOURCES` at its place under `root`, or `data_dir()` if None."""
    folder = place(name, root)
    if not folder.is_dir():
        return Inventory(folder, [], "no such folder")
    try:
        return Inventory(folder, _COUNTERS[name](folder))
    except (OSError, ValueError) as error:
        return Inventory(folder, [], str(error))


def take_own(folder: Path) -> Inventory:
    """Look at a folder of one's own photos as `data.root` would."""
    try:
        photos = own.read_root(folder)
    except (OSError, ValueError) as error:
        return Inventory(folder, [], str(error))
    scenes = [scene for scene in photos if len(scene.groups)]
    counts = [
        Count("photos", sum(map(len, photos))),
        Count("scenes", len(scenes), needed=False),
        Count("of them with two photos or more", sum(scene.pairable for scene in scenes), needed=False),
        Count("photos without a scene, for self-pairs", sum(map(len, photos)) - sum(map(len, scenes)), needed=False),
    ]
    return Inventory(folder, counts)


def _megadepth(folder: Path) -> list[Count]:
    scenes = megadepth.read_all(folder)
    left_out = sum(map(megadepth.is_benchmark, scenes))
    return [
        *_disk(scenes),
        Count("tuples", sum(len(scene.groups) for scene in scenes)),
        Count("scenes of benchmarks, never trained on", left_out, needed=False),
    ]


def _imw2020(folder: Path) -> list[Count]:
    scenes = megadepth.read_all(folder)
    calibrations = megadepth.calibrations(folder)
    return [*_disk(scenes), Count("calibrations", _existing(calibrations), len(calibrations))]


def _disk(scenes: list[Scene]) -> list[Count]:
    photos = [scene.path(index) for scene in scenes for index in range(len(scene))]
    there = sum(scene.folder.is_dir() for scene in scenes)
    return [Count("scenes", there, len(scenes)), Count("photos", _existing(photos), len(photos))]


def _tokyo(folder: Path) -> list[Count]:
    names = [tokyo.photo_name(number) for number in range(1, tokyo.PHOTOS + 1)]
    photos = _existing(folder / name for name in names)
    tables = _existing((folder / name).with_suffix(".csv") for name in names)
    return [Count("photos", photos, tokyo.PHOTOS), Count("csv files", tables, tokyo.PHOTOS, needed=False)]


def _acdc(folder: Path) -> list[Count]:
    counts = []
    for condition in acdc.CONDITIONS:
        photos, partners, pairs = acdc.pairs_of(folder, condition, "train")
        of = max(len(photos), len(partners)) or None
        counts.append(Count(f"pairs of {condition}, train", len(pairs), of))
        others = acdc.pairs_of(folder, condition, "val")[2]
        counts.append(Count(f"pairs of {condition}, val", len(others), needed=False))
    return counts


def _hpatches(folder: Path) -> list[Count]:
    sequences = [path for path in folder.iterdir() if path.is_dir() and path.name[:2] in ("i_", "v_")]
    files = [path / name for path in sequences for name in HPATCHES_FILES]
    return [
        Count("sequences", len(sequences), HPATCHES_SEQUENCES),
        Count("photos and homographies", _existing(files), len(HPATCHES_FILES) * HPATCHES_SEQUENCES),
    ]


def _megadepth1500(folder: Path) -> list[Count]:
    lists = [folder / name for name in ("pairs.txt", "pairs_calibrated.txt") if (folder / name).is_file()]
    if not lists:
        raise FileNotFoundError(f"{folder}: holds neither pairs.txt nor pairs_calibrated.txt")
    pairs = [line.split()[:2] for line in lists[0].read_text(encoding="utf-8").splitlines() if line.strip()]
    photos = {folder / "images" / name for pair in pairs for name in pair}
    counts = [Count("pairs", len(pairs), 1500), Count("photos", _existing(photos), len(photos))]
    if lists[0].name == "pairs.txt":
        counts.append(Count("list of cameras (views.txt)", int((folder / "views.txt").is_file()), 1))
    return counts


def _existing(paths: Iterable[Path]) -> int:
    """How many files exist; folders are listed once, which is fast on network disks as well."""
    names: dict[Path, set[str]] = defaultdict(set)
    for path in paths:
        names[path.parent].add(path.name)
    return sum(
        len(wanted & {path.name for path in folder.iterdir()}) for folder, wanted in names.items() if folder.is_dir()
    )


_COUNTERS: dict[str, Callable[[Path], list[Count]]] = {
    "megadepth": _megadepth,
    "imw2020": _imw2020,
    "tokyo": _tokyo,
    "acdc": _acdc,
    "hpatches": _hpatches,
    "megadepth1500": _megadepth1500,
}
