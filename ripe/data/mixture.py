"""Seeded draws from several data sets at once: photos, pairs of one scene, and pairs of two scenes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ripe.data.scenes import Scene


@dataclass(frozen=True)
class Draw:
    """A photo that was drawn: number `index` of a scene of data set `set_name`."""

    set_name: str
    scene: Scene
    index: int

    def read(self) -> np.ndarray:
        """H×W×3 uint8 RGB; `ValueError` or `OSError` names a file that is not readable."""
        return self.scene.read(self.index)


class _Set:
    """The scenes of one data set, with running sums to draw from them evenly."""

    def __init__(self, name: str, scenes: Sequence[Scene]) -> None:
        self.name = name
        self.scenes = scenes
        self.known = [scene for scene in scenes if len(scene.groups)]
        self.photo_ends = np.cumsum([len(scene) for scene in scenes])
        self.group_ends = np.cumsum([len(scene.groups) for scene in self.known])
        self.pairable = [scene for scene in self.known if scene.pairable]
        self.pair_ends = np.cumsum([len(scene.groups) for scene in self.pairable])

    def photo(self, rng: np.random.Generator) -> Draw:
        which, index = _locate(self.photo_ends, rng)
        return Draw(self.name, self.scenes[which], index)

    def pair(self, rng: np.random.Generator) -> tuple[Draw, Draw]:
        which, group = _locate(self.pair_ends, rng)
        scene = self.pairable[which]
        first, second = rng.choice(scene.groups[group], 2, replace=False)
        return Draw(self.name, scene, int(first)), Draw(self.name, scene, int(second))

    def grouped_photo(self, rng: np.random.Generator) -> Draw:
        which, group = _locate(self.group_ends, rng)
        scene = self.known[which]
        return Draw(self.name, scene, int(rng.choice(scene.groups[group])))

    def stranger(self, draw: Draw, rng: np.random.Generator) -> Draw:
        """A photo of any scene but that of `draw`, scenes counting alike."""
        others = [scene for scene in self.known if scene is not draw.scene]
        scene = others[rng.integers(len(others))]
        return Draw(self.name, scene, int(rng.integers(len(scene))))


class Mixture:
    """Data sets from which pairs are drawn by weight.

    Args:
        sets: scenes by name of the data set.
        weights: of the data sets, in that order; how often each gives the (first) photo.
    """

    def __init__(self, sets: Mapping[str, Sequence[Scene]], weights: Sequence[float]) -> None:
        self.sets = [_Set(name, scenes) for name, scenes in sets.items()]
        self.weights = np.asarray(weights, dtype=np.float64)
        self.num_scenes = sum(len(each.known) for each in self.sets)
        self.has_pairs = any(each.pairable for each in self.sets)

    def draw_photo(self, rng: np.random.Generator) -> Draw:
        """Any photo, those of a set counting alike."""
        return self._choose(rng, [len(each.scenes) > 0 for each in self.sets]).photo(rng)

    def draw_pair(self, rng: np.random.Generator) -> tuple[Draw, Draw]:
        """Two photos of one group of one scene, the groups of a set counting alike. Needs `has_pairs`."""
        return self._choose(rng, [len(each.pairable) > 0 for each in self.sets]).pair(rng)

    def draw_strangers(self, rng: np.random.Generator) -> tuple[Draw, Draw]:
        """Photos of two scenes, each of a set drawn by weight, so that they may mix sets. Needs `num_scenes` ≥ 2."""
        chosen = self._choose(rng, [len(each.known) > 0 for each in self.sets])
        first = chosen.grouped_photo(rng)
        able = [len(each.known) > (1 if each is chosen else 0) for each in self.sets]
        return first, self._choose(rng, able).stranger(first, rng)

    def _choose(self, rng: np.random.Generator, able: list[bool]) -> _Set:
        if sum(able) == 1:
            return self.sets[able.index(True)]
        weights = np.where(able, self.weights, 0)
        return self.sets[rng.choice(len(self.sets), p=weights / weights.sum())]


def _locate(ends: np.ndarray, rng: np.random.Generator) -> tuple[int, int]:
    """Which of several lists, and where in it, an evenly drawn element of them all is; `ends` sums their lengths up."""
    number = int(rng.integers(ends[-1]))
    which = int(np.searchsorted(ends, number, side="right"))
    return which, number - (int(ends[which - 1]) if which else 0)
