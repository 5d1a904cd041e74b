"""Pairs of views as training takes them."""

from dataclasses import dataclass
from typing import Self

from torch import Tensor


@dataclass
class PairBatch:
    """P pairs of views of S×S pixels.

    Attributes:
        images: 2P×3×S×S uint8 RGB; the P first views, then the P second ones. The networks normalise them.
        valid: 2P×S×S bool, False beyond the photo's border.
        positive: P bool, same scene or not.
        H_0to1: P×3×3 float32, the warp of self-pairs and of photos that a known homography joins; NaN for others.
        one_photo: P bool, True for self-pairs, of which the warp says all: other pairs hold more than one plane.
        skipped: files that could not be read and were replaced by others.
    """

    images: Tensor
    valid: Tensor
    positive: Tensor
    H_0to1: Tensor
    one_photo: Tensor
    skipped: list[str]

    def __len__(self) -> int:
        return len(self.positive)

    def pin_memory(self) -> Self:
        """The batch in page-locked memory, from where a GPU copies while it computes; PyTorch's loader asks for it."""
        images, valid, positive, warps, one_photo = (
            part.pin_memory() for part in (self.images, self.valid, self.positive, self.H_0to1, self.one_photo)
        )
        return type(self)(images, valid, positive, warps, one_photo, self.skipped)

    @property
    def by_warp(self) -> Tensor:
        """P bool, True for the pairs whose warp is known: self-pairs, and photos that a known homography joins."""
        return self.H_0to1.isfinite().flatten(1).all(dim=1)
