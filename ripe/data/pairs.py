"""Photos on disk to labelled pairs of views.

Pair number k of a run is a function of the seed and k alone, so a resumed run sees exactly the pairs that the
uninterrupted one would have seen, whatever the number of worker processes.
"""

import logging
from collections.abc import Iterator
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from ripe.data import own
from ripe.data.batch import PairBatch
from ripe.data.catalogue import OWN, SOURCES, check_trainable, how_to_get, locate
from ripe.data.light import change_light
from ripe.data.mixture import Draw, Mixture
from ripe.data.photo_pairs import read_pairs
from ripe.data.scenes import Scene
from ripe.data.warps import View, crop_view, letterbox, self_pair
from ripe.recipe.config import DataConfig, WarpConfig
from ripe.recipe.schedule import warp_at

logger = logging.getLogger(__name__)

# Where so many files in a row cannot be read, the data set is gone, or its disk.
ATTEMPTS = 1000


@dataclass
class _Pair:
    views: tuple[View, View]
    positive: bool
    H_0to1: np.ndarray
    one_photo: bool = False


def read_sets(config: DataConfig, seed: int) -> dict[str, list[Scene]]:
    """The photos to train on by data set, less what is held back of one's own.

    Raises:
        FileNotFoundError: a folder or a whole data set is missing; the message says how it is had.
        ValueError: there is no photo, no such data set, or one that is not in its published layout.
    """
    names = list(config.sets) or [OWN]
    check_trainable(names)
    return {name: _read_set(name, config, seed) for name in names}


def split_own(config: DataConfig, seed: int) -> tuple[list[Scene], list[Scene]]:
    """One's own photos: those to train on, and those that `config.hold_back` keeps to validate with.

    Both are empty where the configuration names no own photos. Scenes without groups are photos of unknown scenes.

    Raises:
        FileNotFoundError: a configured folder does not exist.
        ValueError: `config.root` holds no photo.
    """
    photos: list[Scene] = []
    if config.root is not None:
        photos += own.read_root(config.root)
    if config.scenes is not None:
        photos += own.read_scenes(config.scenes)
    if config.singles is not None:
        photos += own.read_singles(config.singles)
    kept, held = own.hold_back(photos, config.hold_back, seed)
    return (kept if config.pairs is None else own.with_pairs(kept, read_pairs(config.pairs))), held


def _read_set(name: str, config: DataConfig, seed: int) -> list[Scene]:
    if name == OWN:
        photos = split_own(config, seed)[0]
        if not photos:
            raise ValueError(
                "no photo found; set data.root to a folder of photos or of scene folders, or name data.sets"
            )
        return photos
    folder = locate(name, root=config.dir)
    scenes = SOURCES[name].scenes
    assert scenes is not None
    try:
        return scenes(folder, config, seed)
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{error}; {how_to_get(name, config.dir)}") from error


class ScenePairs(Dataset):
    """Pairs number `first` to `num_pairs` − 1 of a run; see `DataConfig`.

    Kinds of pairs that photos found under `root` cannot give (a flat folder has no scenes) become self-pairs.

    Raises:
        FileNotFoundError: a configured folder or data set does not exist.
        ValueError: no photo is there, or photos cannot give the kinds of pairs that are asked for.
    """

    def __init__(self, config: DataConfig, seed: int, num_pairs: int, first: int = 0) -> None:
        self.config = config
        self.seed = seed
        self.num_pairs = num_pairs
        self.first = first
        sets = read_sets(config, seed)
        self.mixture = Mixture(sets, [config.sets.get(name, 1.0) for name in sets])
        self.negative_share, self.real_share = self._shares()
        self._logged: set[str] = set()

    def __len__(self) -> int:
        return self.num_pairs - self.first

    def __getitem__(self, index: int) -> tuple[_Pair, list[str]]:
        rng = np.random.default_rng([self.seed, self.first + index])
        kind = rng.random()
        warp = warp_at((self.first + index) / self.num_pairs, self.config)
        skipped: list[str] = []
        for _ in range(ATTEMPTS):
            try:
                return self._make(kind, warp, rng), skipped
            except (OSError, ValueError) as error:
                skipped.append(str(error))
                self._log_once(str(error))
        raise RuntimeError(f"{ATTEMPTS} pairs in a row could not be read; the last: {skipped[-1]}")

    def _shares(self) -> tuple[float, float]:
        """Shares of negative pairs and of pairs of two photos of a scene that the photos can give."""
        negative = self.config.negative_share
        real = 1 - self.config.self_share - negative
        real = real if real > 1e-9 else 0.0  # shares that sum up to 1 but for rounding
        if negative > 0 and self.mixture.num_scenes < 2:
            self._refuse("negative pairs need two scenes or more", "data.negative_share=0")
            negative = 0.0
        if real > 0 and not self.mixture.has_pairs:
            self._refuse("no scene has two photos", "data.self_share=1 and data.negative_share=0")
            real = 0.0
        return negative, real

    def _refuse(self, reason: str, mend: str) -> None:
        if self.config.root is None:
            raise ValueError(f"{reason}; set {mend}")
        logger.warning("%s: %s; photos and their own warps take their place", self.config.root, reason)

    def _log_once(self, message: str) -> None:
        if message not in self._logged:
            self._logged.add(message)
            logger.warning("%s; another photo takes its place", message)

    def _make(self, kind: float, warp: WarpConfig, rng: np.random.Generator) -> _Pair:
        if kind < self.negative_share:
            return self._two_photos(self.mixture.draw_strangers(rng), False, warp, rng)
        if kind < self.negative_share + self.real_share:
            return self._two_photos(self.mixture.draw_pair(rng), True, warp, rng)
        return self._self_pair(self.mixture.draw_photo(rng), warp, rng)

    def _self_pair(self, photo: Draw, warp: WarpConfig, rng: np.random.Generator) -> _Pair:
        views = self_pair(photo.read(), self.config.size, warp, rng)
        between = _between_views(views[0], np.eye(3), views[1])
        return _Pair(_change_light(views, warp.photometric, rng), True, between, one_photo=True)

    def _two_photos(
        self, photos: tuple[Draw, Draw], positive: bool, warp: WarpConfig, rng: np.random.Generator
    ) -> _Pair:
        unknown = np.full((3, 3), np.nan)
        if self.config.view == "letterbox":  # as published: the photos as they are
            first, second = (letterbox(photo.read(), self.config.size) for photo in photos)
            return _Pair((first, second), positive, unknown)
        first, second = (crop_view(photo.read(), self.config.size, warp, rng) for photo in photos)
        between = photos[0].scene.homographies.get((photos[0].index, photos[1].index)) if positive else None
        known = unknown if between is None else _between_views(first, between, second)
        return _Pair(_change_light((first, second), warp.photometric, rng), positive, known)


def _between_views(first: View, between: np.ndarray, second: View) -> np.ndarray:
    """Homography from view to view of two photos that `between` joins."""
    relative = second.homography @ between @ np.linalg.inv(first.homography)
    return relative / relative[2, 2]


def _change_light(views: tuple[View, View], strength: float, rng: np.random.Generator) -> tuple[View, View]:
    first, second = (View(change_light(v.image, strength, rng), v.valid, v.homography) for v in views)
    return first, second


def collate(items: list[tuple[_Pair, list[str]]]) -> PairBatch:
    """Stack pairs to a batch."""
    pairs = [pair for pair, _ in items]
    views = [pair.views[side] for side in (0, 1) for pair in pairs]
    return PairBatch(
        images=torch.from_numpy(np.stack([view.image for view in views])).permute(0, 3, 1, 2).contiguous(),
        valid=torch.from_numpy(np.stack([view.valid for view in views])),
        positive=torch.tensor([pair.positive for pair in pairs]),
        H_0to1=torch.from_numpy(np.stack([pair.H_0to1 for pair in pairs])).float(),
        one_photo=torch.tensor([pair.one_photo for pair in pairs]),
        skipped=[message for _, messages in items for message in messages],
    )


def start_workers(loader: DataLoader) -> Iterator[PairBatch]:
    """Iterate over a loader; its worker processes are forked here, without OpenCV's threads.

    These do not come along, but a lock that one of them holds does: the worker would wait for it forever.
    """
    threads = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        return iter(loader)
    finally:
        cv2.setNumThreads(threads)
