"""What is evaluated: sets of image pairs with the truth about them.

Pixel coordinates are (x, y) of the stored photo, EXIF orientation applied, the centre of the top-left pixel at (0, 0).
"""

import hashlib
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from ripe.geometry.homography import apply_homography, resizing_matrix
from ripe.images import rescale_keypoints

Kind = Literal["homography", "fundamental", "pose"]
Size = tuple[int, int]
"""(width, height) in pixels."""


@dataclass(frozen=True)
class HomographyPair:
    """Two photos of one plane, or of a turning camera.

    Attributes:
        name: unique in its set.
        image0: name of the first photo, relative to the set's folder.
        image1: name of the second photo.
        homography: 3×3 float64, first photo to second.
        points0: K×2 float64; an estimate's error is the mean distance of these, moved by it, from `points1`.
        points1: K×2 float64.
    """

    name: str
    image0: str
    image1: str
    homography: Tensor
    points0: Tensor
    points1: Tensor

    def resized(self, from_sizes: tuple[Size, Size], to_sizes: tuple[Size, Size]) -> "HomographyPair":
        """The same pair for photos that were resized from one pair of sizes to another."""
        matrix0, matrix1 = (resizing_matrix(*sizes) for sizes in zip(from_sizes, to_sizes, strict=True))
        return replace(
            self,
            homography=matrix1 @ self.homography @ torch.linalg.inv(matrix0),
            points0=apply_homography(matrix0, self.points0),
            points1=apply_homography(matrix1, self.points1),
        )


@dataclass(frozen=True)
class FundamentalPair:
    """Two photos of a scene with depth, in which the same points were clicked.

    Attributes:
        name: unique in its set.
        image0: name of the first photo, relative to the set's folder.
        image1: name of the second photo.
        fundamental: 3×3 float64, fitted to the points.
        points0: K×2 float64; an estimate's error is the mean distance of the points from their epipolar lines.
        points1: K×2 float64.
    """

    name: str
    image0: str
    image1: str
    fundamental: Tensor
    points0: Tensor
    points1: Tensor

    def resized(self, from_sizes: tuple[Size, Size], to_sizes: tuple[Size, Size]) -> "FundamentalPair":
        """The same pair for photos that were resized from one pair of sizes to another."""
        matrix0, matrix1 = (resizing_matrix(*sizes) for sizes in zip(from_sizes, to_sizes, strict=True))
        return replace(
            self,
            fundamental=torch.linalg.inv(matrix1).mT @ self.fundamental @ torch.linalg.inv(matrix0),
            points0=apply_homography(matrix0, self.points0),
            points1=apply_homography(matrix1, self.points1),
        )


@dataclass(frozen=True)
class PosePair:
    """Two photos and their cameras.

    Attributes:
        name: unique in its set.
        image0: name of the first photo, relative to the set's folder.
        image1: name of the second photo.
        intrinsics0: 3×3 float64 camera matrix of the first photo.
        intrinsics1: 3×3 float64 camera matrix of the second photo.
        rotation: 3×3 float64, first camera's frame to second's.
        translation: 3 float64, of any scale.
        size0: (width, height) that `intrinsics0` is for; None if not stated.
        size1: (width, height) that `intrinsics1` is for; None if not stated.
    """

    name: str
    image0: str
    image1: str
    intrinsics0: Tensor
    intrinsics1: Tensor
    rotation: Tensor
    translation: Tensor
    size0: Size | None = None
    size1: Size | None = None

    def resized(self, from_sizes: tuple[Size, Size], to_sizes: tuple[Size, Size]) -> "PosePair":
        """The same pair for photos that were resized from one pair of sizes to another."""
        matrix0, matrix1 = (resizing_matrix(*sizes) for sizes in zip(from_sizes, to_sizes, strict=True))
        return replace(
            self,
            intrinsics0=matrix0 @ self.intrinsics0,
            intrinsics1=matrix1 @ self.intrinsics1,
            size0=to_sizes[0],
            size1=to_sizes[1],
        )


AnnotatedPair = HomographyPair | FundamentalPair | PosePair


@dataclass(frozen=True)
class PairSet:
    """Annotated pairs of one kind, whose photos are in one folder.

    Raises:
        ValueError: there are no pairs, or two have the same name.
        FileNotFoundError: a photo is missing.
    """

    name: str
    folder: Path
    kind: Kind
    pairs: list[AnnotatedPair]

    def __post_init__(self) -> None:
        if not self.pairs:
            raise ValueError(f"{self.folder}: lists no pairs")
        names: set[str] = set()
        for pair in self.pairs:
            if pair.name in names:
                raise ValueError(f"{self.folder}: two pairs are named {pair.name!r}")
            names.add(pair.name)
        for path in map(self.path, self.images):
            if not path.is_file():
                raise FileNotFoundError(f"{path}: no such file, but a pair of {self.name} names it")

    @cached_property
    def images(self) -> list[str]:
        """Names of the pairs' photos, each once, sorted."""
        return sorted({name for pair in self.pairs for name in (pair.image0, pair.image1)})

    def path(self, image: str) -> Path:
        """Where a photo is."""
        return self.folder / image

    def fingerprint(self) -> str:
        """Short hash of the photos' names and sizes in bytes: equal for equal sets, wherever they are kept."""
        digest = hashlib.sha256()
        for image in self.images:
            digest.update(f"{image}\0{self.path(image).stat().st_size}\0".encode())
        return digest.hexdigest()[:16]

    def spread(self, count: int | None) -> "PairSet":
        """At most `count` of the pairs, spread evenly over the list; all of them if None."""
        if count is None or count >= len(self.pairs):
            return self
        chosen = np.linspace(0, len(self.pairs) - 1, count).round().astype(int)
        return replace(self, pairs=[self.pairs[index] for index in chosen])


@dataclass(frozen=True)
class MatchedPair:
    """An annotated pair and what an extractor made of it.

    Attributes:
        pair: the truth, in the same pixels as the keypoints.
        keypoints0: N0×2 float32, all keypoints of the first photo.
        keypoints1: N1×2 float32, all keypoints of the second photo.
        matches: K×2 int64 indices of matched keypoints.
        sizes: of the two photos in which the pixels count.
    """

    pair: AnnotatedPair
    keypoints0: Tensor
    keypoints1: Tensor
    matches: Tensor
    sizes: tuple[Size, Size]

    @property
    def points0(self) -> Tensor:
        """K×2, the matched positions in the first photo."""
        return self.keypoints0[self.matches[:, 0]]

    @property
    def points1(self) -> Tensor:
        """K×2, the matched positions in the second photo."""
        return self.keypoints1[self.matches[:, 1]]

    def resized(self, sizes: tuple[Size, Size]) -> "MatchedPair":
        """The same for photos resized to these sizes."""
        keypoints0, keypoints1 = (
            rescale_keypoints(keypoints, size[::-1], wanted[::-1])
            for keypoints, size, wanted in zip((self.keypoints0, self.keypoints1), self.sizes, sizes, strict=True)
        )
        return MatchedPair(self.pair.resized(self.sizes, sizes), keypoints0, keypoints1, self.matches, sizes)
