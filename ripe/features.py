"""What the library hands out: the features of one image, the matches of two, and their geometry.

Shape letters: N keypoints of an image, D numbers of a descriptor, K matches. Keypoints are (x, y) in pixels of the
original image, with the centre of the top-left pixel at (0, 0), as in OpenCV, kornia and hloc.

Each shows itself in one line. All three are the caller's own: their tensors may be changed in place and replaced. Each
is equal to itself alone; to compare contents, compare the tensors.
"""

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import torch
from torch import Tensor

from ripe.files import write_arrays
from ripe.filters import NO_MATCH

GeometryKind = Literal["fundamental", "homography", "essential"]


@dataclass(eq=False, repr=False)
class Features:
    """Keypoints of one image, best first. No keypoint at all (N = 0) is a valid result.

    Attributes:
        keypoints: N×2 float32, (x, y) in pixels of the original image.
        scores: N float32, falling; the network's logits, the unit in which `threshold` is given.
        descriptors: N×D, each of length 1.
        image_size: (width, height) of the original image in pixels.
        scales: N float32, the size of a keypoint: how many pixels of the original image, along its longer side, one
            pixel of that image spans in which the network saw the keypoint; 1 where it saw the original. All 1 if not
            given.
    """

    keypoints: Tensor
    scores: Tensor
    descriptors: Tensor
    image_size: tuple[int, int]
    scales: Tensor = None  # type: ignore[assignment]

    def __post_init__(self) -> None:
        if self.scales is None:
            self.scales = torch.ones(self.keypoints.shape[:1], device=self.keypoints.device)

    def __len__(self) -> int:
        return len(self.keypoints)

    def __getitem__(self, index: Any) -> Self:
        """The features that `index` (a slice, a mask or indices) selects."""
        return self._of(lambda tensor: tensor[index])

    def to(self, *args: Any, **kwargs: Any) -> Self:
        """The same features with all tensors moved by `Tensor.to`."""
        return self._of(lambda tensor: tensor.to(*args, **kwargs))

    def _of(self, change: Callable[[Tensor], Tensor]) -> Self:
        """The same with all tensors changed."""
        return replace(
            self,
            keypoints=change(self.keypoints),
            scores=change(self.scores),
            descriptors=change(self.descriptors),
            scales=change(self.scales),
        )

    def numpy(self) -> dict[str, np.ndarray]:
        """All fields by name as arrays in the main memory; they share it with tensors that are there already.

        bfloat16, which NumPy does not have, becomes float32; image_size is int64.
        """
        return {field.name: _as_array(getattr(self, field.name)) for field in fields(self)}

    def save(self, path: str | Path) -> None:
        """Write `numpy()` to a file of NumPy's npz format, whole or not at all, which `ripe.load_features` reads.

        For the features of many images see `ripe.storage.FeatureFile`, in hloc's layout.

        Raises:
            OSError: it cannot be written.
        """
        write_arrays(path, self.numpy())

    def __repr__(self) -> str:
        width, height = self.image_size
        length = self.descriptors.shape[-1]
        return (
            f"Features({len(self)} keypoints, {length} numbers each, {width}×{height} image, {self.keypoints.device})"
        )


def _as_array(value: Tensor | tuple[int, int]) -> np.ndarray:
    if not isinstance(value, Tensor):
        return np.array(value, dtype=np.int64)
    value = value.detach().cpu()
    return (value.float() if value.dtype == torch.bfloat16 else value).numpy()


@dataclass(eq=False, repr=False)
class Matches:
    """Matches between two images.

    Attributes:
        indices: K×2 int64; row (i, j) joins keypoint i of the first image to keypoint j of the second.
        scores: K float32 cosine similarities of the descriptors, in -1..1, or a learned matcher's probabilities.
    """

    indices: Tensor
    scores: Tensor

    def __len__(self) -> int:
        return len(self.indices)

    def __repr__(self) -> str:
        return f"Matches({len(self)} matches)"

    def points(self, features0: Features, features1: Features) -> tuple[Tensor, Tensor]:
        """Matched keypoints of both images, each K×2.

        Raises:
            ValueError: a match joins keypoints that these features do not have.
        """
        counts = len(features0), len(features1)
        if ((self.indices < 0) | (self.indices >= self.indices.new_tensor(counts))).any():
            raise ValueError(
                f"these are not matches of these features, which have {counts[0]} and {counts[1]} keypoints"
            )
        return features0.keypoints[self.indices[:, 0]], features1.keypoints[self.indices[:, 1]]

    def partners(self, count0: int) -> tuple[Tensor, Tensor]:
        """The matches as hloc and Glue Factory have them, one number for each keypoint of the first image.

        Args:
            count0: how many keypoints it has.

        Returns:
            count0 int64, which of the second image's keypoints belongs to it, −1 for none; and count0 scores, 0 there.
        """
        partners = self.indices.new_full((count0,), NO_MATCH)
        scores = self.scores.new_zeros(count0)
        partners[self.indices[:, 0]], scores[self.indices[:, 0]] = self.indices[:, 1], self.scores
        return partners, scores

    def reversed(self) -> Self:
        """The same matches from the second image to the first."""
        return replace(self, indices=self.indices.flip(1))


@dataclass(eq=False, repr=False)
class TwoViewGeometry:
    """A model fitted to matches. A failed fit is `model=None` with no inliers, never an exception.

    A model is found for unrelated images as well: `ripe.judge` tells whether it is worth anything.

    Attributes:
        kind: of the model.
        max_error: inlier threshold in pixels.
        model: 3×3 float64 matrix of that kind, first image to second, or None.
        inliers: K bool, on the CPU, one per match.
    """

    kind: GeometryKind
    max_error: float
    model: Tensor | None
    inliers: Tensor

    def __repr__(self) -> str:
        found = "no model" if self.model is None else f"{self.num_inliers} inliers"
        return (
            f"{type(self).__name__}({self.kind}, {found} of {len(self.inliers)} matches, within {self.max_error:g} px)"
        )

    @classmethod
    def failed(cls, kind: GeometryKind, max_error: float, num_matches: int) -> Self:
        """No model and no inlier."""
        return cls(kind, max_error, None, torch.zeros(num_matches, dtype=torch.bool))

    @property
    def num_inliers(self) -> int:
        """How many matches agree with the model."""
        return int(self.inliers.sum())
