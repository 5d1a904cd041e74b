"""Photos that show one scene, as every reader of a data set gives them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from ripe.images import read_image


@dataclass(frozen=True, eq=False)
class Scene:
    """Photos of one scene, and which of them show the same part of it.

    Attributes:
        name: of the scene, unique in its data set.
        folder: that the names are relative to.
        names: of the N photos.
        groups: G×K indices into the photos; any two of a group see the same part of the scene. Positive pairs are
            drawn from groups, so each group counts alike. Without groups (G = 0) nothing is known about the photos:
            they are for self-pairs alone.
        crop: (height, width) of the part from the top left that is used of each photo; None is all of it.
        homographies: 3×3, pixels of one photo to pixels of another one, by their indices, where one is known.
    """

    name: str
    folder: Path
    names: Sequence[str]
    groups: np.ndarray
    crop: tuple[int, int] | None = None
    homographies: Mapping[tuple[int, int], np.ndarray] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.names)

    @property
    def pairable(self) -> bool:
        """Whether two photos of a group exist."""
        return self.groups.shape[0] > 0 and self.groups.shape[1] > 1

    def path(self, index: int) -> Path:
        """Where photo `index` is."""
        return self.folder / self.names[index]

    def read(self, index: int) -> np.ndarray:
        """Photo `index` as H×W×3 uint8 RGB, cropped; `ValueError` or `OSError` names a file that is not readable."""
        photo = read_photo(self.path(index))
        return photo if self.crop is None else photo[: self.crop[0], : self.crop[1]]


def one_group(name: str, folder: Path, names: Sequence[str]) -> Scene:
    """A scene whose photos all show the same part."""
    return Scene(name, folder, names, np.arange(len(names))[None])


def no_group(name: str, folder: Path, names: Sequence[str]) -> Scene:
    """Photos of which nothing is known."""
    return Scene(name, folder, names, np.zeros((0, 1), dtype=np.int64))


def read_photo(path: Path) -> np.ndarray:
    """Read a photo as H×W×3 uint8 RGB. Raises ValueError or OSError, naming the file."""
    photo = read_image(path)
    return photo if photo.dtype == np.uint8 else (photo >> 8).astype(np.uint8)


def seeded(*parts: int | str) -> np.random.Generator:
    """A generator whose numbers depend on `parts` alone, on every machine."""
    entropy = [part if isinstance(part, int) else int.from_bytes(part.encode("utf-8"), "little") for part in parts]
    return np.random.default_rng(entropy)
