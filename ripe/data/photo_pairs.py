"""Pairs of photos that overlap, as `ripe data mine` finds them and training reads them."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from ripe.files import read_json, replacing


@dataclass(frozen=True)
class PhotoPair:
    """Two photos of one scene and what a network makes of them.

    Attributes:
        image0: name of the first photo, relative to the folder of scenes.
        image1: name of the second one.
        matches: mutual nearest neighbours.
        inliers: of them that agree with one epipolar geometry.
        planar: of them that agree with one homography.
        size0: (width, height) of the first photo.
        size1: (width, height) of the second one.
        homography: 3×3, pixels of the first photo to pixels of the second one; None unless one joins the photos.
    """

    image0: str
    image1: str
    matches: int
    inliers: int
    planar: int
    size0: tuple[int, int]
    size1: tuple[int, int]
    homography: tuple[tuple[float, ...], ...] | None = None

    @property
    def scene(self) -> str:
        """Name of the scene's folder."""
        return self.image0.split("/", 1)[0]

    @property
    def inlier_share(self) -> float:
        """Share of the matches that are inliers, 0..1: low for pairs that are hard."""
        return self.inliers / max(self.matches, 1)


def write_pairs(path: str | Path, pairs: Sequence[PhotoPair]) -> None:
    """Write pairs for `data.pairs`, one a line within a JSON list."""
    lines = ",\n".join(json.dumps(asdict(pair), allow_nan=False) for pair in pairs)
    with replacing(path) as temporary:
        temporary.write_text(f"[\n{lines}\n]\n", encoding="utf-8")


def read_pairs(path: str | Path) -> list[PhotoPair]:
    """Read what `write_pairs` wrote.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no such list; the message names the file.
    """
    try:
        rows = read_json(path)
        if not isinstance(rows, list):
            raise ValueError("no list")
        return [_from_row(row) for row in rows]
    except (ValueError, TypeError, KeyError, OverflowError) as error:
        raise ValueError(f"{path}: is no list of pairs as `ripe data mine` writes it ({error})") from error


def as_tuples(matrix: Tensor | np.ndarray | Sequence[Sequence[float]] | None) -> tuple[tuple[float, ...], ...] | None:
    """The rows of a matrix as plain numbers, which can be compared and written; None stays None."""
    return None if matrix is None else tuple(tuple(row) for row in np.asarray(matrix, dtype=np.float64).tolist())


def _from_row(row: dict[str, Any]) -> PhotoPair:
    pair = PhotoPair(**row)
    homography = as_tuples(pair.homography)
    if not isinstance(pair.image0, str) or not isinstance(pair.image1, str):
        raise ValueError("image0 and image1 must be texts")
    if homography is not None and np.shape(homography) != (3, 3):
        raise ValueError("homography must be 3×3 numbers")
    return replace(pair, size0=_as_size(pair.size0), size1=_as_size(pair.size1), homography=homography)


def _as_size(size: Sequence[int]) -> tuple[int, int]:
    width, height = size
    return int(width), int(height)
