"""What the library hands out: the features of one image, the matches of two, and their geometry.

Shape letters: N keypoints of an image, D numbers of a descriptor, K matches. Keypoints are (x, y) in pixels of the
original image, with the centre of the top-left pixel at (0, 0), as in OpenCV, kornia and hloc.

All three are the caller's own: their tensors may be changed in place and replaced. Each is equal to itself alone; to
compare contents, compare the tensors.
"""

from dataclasses import dataclass, replace
from typing import Any, Literal, Self

import torch
from torch import Tensor

GeometryKind = Literal["fundamental", "homography", "essential"]


@dataclass(eq=False)
class Features:
    """Keypoints of one image, best first. No keypoint at all (N = 0) is a valid result.

    Attributes:
        keypoints: N×2 float32, (x, y) in pixels of the original image.
        scores: N float32, falling; the network's logits, the unit in which `threshold` is given.
        descriptors: N×D, each of length 1.
        image_size: (width, height) of the original image in pixels.
    """

    keypoints: Tensor
    scores: Tensor
    descriptors: Tensor
    image_size: tuple[int, int]

    def __len__(self) -> int:
        return len(self.keypoints)

    def __getitem__(self, index: Any) -> Self:
        """The features that `index` (a slice, a mask or indices) selects."""
        return replace(
            self, keypoints=self.keypoints[index], scores=self.scores[index], descriptors=self.descriptors[index]
        )

    def to(self, *args: Any, **kwargs: Any) -> Self:
        """The same features with all tensors moved by `Tensor.to`."""
        return replace(
            self,
            keypoints=self.keypoints.to(*args, **kwargs),
            scores=self.scores.to(*args, **kwargs),
            descriptors=self.descriptors.to(*args, **kwargs),
        )


@dataclass(eq=False)
class Matches:
    """Matches between two images.

    Attributes:
        indices: K×2 int64; row (i, j) joins keypoint i of the first image to keypoint j of the second.
        scores: K float32 cosine similarities of the descriptors, in -1..1.
    """

    indices: Tensor
    scores: Tensor

    def __len__(self) -> int:
        return len(self.indices)

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


@dataclass(eq=False)
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

    @classmethod
    def failed(cls, kind: GeometryKind, max_error: float, num_matches: int) -> Self:
        """No model and no inlier."""
        return cls(kind, max_error, None, torch.zeros(num_matches, dtype=torch.bool))

    @property
    def num_inliers(self) -> int:
        """How many matches agree with the model."""
        return int(self.inliers.sum())
