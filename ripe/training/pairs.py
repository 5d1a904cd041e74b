"""Photos on disk to labelled pairs of views.

Pair number k of a run is a function of the seed and k alone, so a resumed run sees exactly the pairs that the
uninterrupted one would have seen, whatever the number of worker processes.
"""

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from ripe.images import EXTENSIONS, read_image
from ripe.training.config import DataConfig
from ripe.training.warps import View, crop_view, photometric, self_pair

logger = logging.getLogger(__name__)

ATTEMPTS = 20


@dataclass
class PairBatch:
    """P pairs of views of S×S pixels.

    Attributes:
        images: 2P×3×S×S uint8 RGB; the P first views, then the P second ones.
        valid: 2P×S×S bool, False beyond the photo's border.
        positive: P bool, same scene or not.
        H_0to1: P×3×3 float32, the warp of self-pairs; NaN for pairs of two photos.
        skipped: files that could not be read and were replaced by others.
    """

    images: Tensor
    valid: Tensor
    positive: Tensor
    H_0to1: Tensor
    skipped: list[str]

    def __len__(self) -> int:
        return len(self.positive)


@dataclass
class _Pair:
    views: tuple[View, View]
    positive: bool
    H_0to1: np.ndarray


def list_photos(folder: Path) -> list[Path]:
    """Photos directly in `folder`, sorted by name."""
    return sorted(path for path in folder.iterdir() if path.suffix.lower() in EXTENSIONS and path.is_file())


def list_scenes(folder: Path) -> list[list[Path]]:
    """Photos of each sub-folder of `folder`, sorted; folders without a photo are left out."""
    photos = [list_photos(scene) for scene in sorted(folder.iterdir()) if scene.is_dir()]
    return [scene for scene in photos if scene]


class ScenePairs(Dataset):
    """Pairs out of a folder of scene folders and a flat folder; see `DataConfig`.

    Raises:
        FileNotFoundError: a configured folder does not exist.
        ValueError: the folders hold no photo, or no scene where pairs of two photos are asked for.
    """

    def __init__(self, config: DataConfig, seed: int, num_pairs: int, first: int = 0) -> None:
        self.config = config
        self.seed = seed
        self.num_pairs = num_pairs
        self.first = first
        for folder in (config.scenes, config.singles):
            if folder is not None and not folder.is_dir():
                raise FileNotFoundError(f"{folder}: no such folder of photos")
        self.scenes = list_scenes(config.scenes) if config.scenes else []
        singles = list_photos(config.singles) if config.singles else []
        self.photos = [photo for scene in self.scenes for photo in scene] + singles
        self.shared = [scene for scene in self.scenes if len(scene) > 1]
        if not self.photos:
            raise ValueError("no photo found; set data.scenes to a folder of scene folders, or data.singles")
        if len(self.scenes) < 2 and config.negative_share > 0:
            raise ValueError("negative pairs need two scene folders or more; set data.negative_share=0")
        if not self.shared and config.self_share + config.negative_share < 1:
            raise ValueError("no scene folder holds two photos; set data.self_share=1 and data.negative_share=0")

    def __len__(self) -> int:
        return self.num_pairs - self.first

    def __getitem__(self, index: int) -> tuple[_Pair, list[str]]:
        rng = np.random.default_rng([self.seed, self.first + index])
        draw = rng.random()
        skipped: list[str] = []
        for _ in range(ATTEMPTS):
            try:
                return self._make(draw, rng), skipped
            except (OSError, ValueError) as error:
                logger.warning("%s; another photo takes its place", error)
                skipped.append(str(error))
        raise RuntimeError(f"{ATTEMPTS} photos in a row could not be read; the last: {skipped[-1]}")

    def _make(self, draw: float, rng: np.random.Generator) -> _Pair:
        if draw < self.config.self_share:
            return self._self_pair(rng)
        if draw < self.config.self_share + self.config.negative_share:
            first, second = rng.choice(len(self.scenes), 2, replace=False)
            paths = [self._pick(self.scenes[first], rng), self._pick(self.scenes[second], rng)]
            return self._two_photos(paths, False, rng)
        scene = self.shared[rng.integers(len(self.shared))]
        paths = [scene[i] for i in rng.choice(len(scene), 2, replace=False)]
        return self._two_photos(paths, True, rng)

    def _self_pair(self, rng: np.random.Generator) -> _Pair:
        photo = read_photo(self._pick(self.photos, rng))
        views = self_pair(photo, self.config.size, self.config.warp, rng)
        relative = views[1].homography @ np.linalg.inv(views[0].homography)
        return _Pair(self._change_light(views, rng), True, relative / relative[2, 2])

    def _two_photos(self, paths: list[Path], positive: bool, rng: np.random.Generator) -> _Pair:
        first, second = (crop_view(read_photo(path), self.config.size, self.config.warp, rng) for path in paths)
        return _Pair(self._change_light((first, second), rng), positive, np.full((3, 3), np.nan))

    def _change_light(self, views: tuple[View, View], rng: np.random.Generator) -> tuple[View, View]:
        strength = self.config.warp.photometric
        first, second = (View(photometric(v.image, strength, rng), v.valid, v.homography) for v in views)
        return first, second

    @staticmethod
    def _pick(photos: list[Path], rng: np.random.Generator) -> Path:
        return photos[rng.integers(len(photos))]


def read_photo(path: Path) -> np.ndarray:
    """Read a photo as H×W×3 uint8 RGB. Raises ValueError or OSError, naming the file."""
    photo = read_image(path)
    return photo if photo.dtype == np.uint8 else (photo >> 8).astype(np.uint8)


def collate(items: list[tuple[_Pair, list[str]]]) -> PairBatch:
    """Stack pairs to a batch."""
    pairs = [pair for pair, _ in items]
    views = [pair.views[side] for side in (0, 1) for pair in pairs]
    return PairBatch(
        images=torch.from_numpy(np.stack([view.image for view in views])).permute(0, 3, 1, 2).contiguous(),
        valid=torch.from_numpy(np.stack([view.valid for view in views])),
        positive=torch.tensor([pair.positive for pair in pairs]),
        H_0to1=torch.from_numpy(np.stack([pair.H_0to1 for pair in pairs])).float(),
        skipped=[message for _, messages in items for message in messages],
    )


def pair_batches(config: DataConfig, seed: int, first_step: int, last_step: int) -> Iterator[PairBatch]:
    """The batches of steps `first_step` to `last_step` − 1, decoded ahead of use in worker processes."""
    size = config.pairs_per_step
    dataset = ScenePairs(config, seed, last_step * size, first_step * size)
    loader = DataLoader(
        dataset,
        batch_size=size,
        collate_fn=collate,
        num_workers=config.workers,
        prefetch_factor=4 if config.workers > 0 else None,
        worker_init_fn=_single_threaded,
    )
    return iter(loader)


def _single_threaded(_worker: int) -> None:
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
