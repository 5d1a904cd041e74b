"""Large images part by part, with the results of the whole: what is wanted of each part, and keypoints of all."""

import math
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from ripe.detection import DetectionSettings, detect
from ripe.networks.dense import DenseMaps, DenseNetwork
from ripe.networks.windows import Part, Size, Window
from ripe.regions import Regions, Resized, Stored, moments


class Cut(NamedTuple):
    """A part of an image.

    Attributes:
        core: where its keypoints lie; those of all parts cover the image, each pixel once.
        part: what the network has to know of it.
        pixels: 1×3×h×w, what the network sees.
    """

    core: Window
    part: Part
    pixels: Tensor


def margin(settings: DetectionSettings) -> int:
    """How many pixels around a keypoint's the detector looks at."""
    return max(settings.nms_radius, 1)  # the sub-pixel fit looks at one


def cores(size: Size, side: int) -> Iterator[Window]:
    """Windows of nearly equal sizes, at most `side` pixels to a side, that cover an image of (H, W) `size`."""
    rows, columns = (_cuts(length, side) for length in size)
    for top, bottom in rows:
        for left, right in columns:
            yield Window(top, bottom, left, right)


def _cuts(length: int, side: int) -> list[tuple[int, int]]:
    count = math.ceil(length / side)
    return list(pairwise(length * index // count for index in range(count + 1)))


def in_size(image: Regions, size: Size, side: int) -> Regions:
    """An image in (H, W) `size`: at once if that is one part, otherwise whenever a part of it is read."""
    if size == image.size:
        return image
    found = Resized(image, size)
    return Stored(found.read(Window(0, size[0], 0, size[1]))) if max(size) <= side else found


def cuts(image: Regions, network: DenseNetwork, side: int, around: int, device: torch.device) -> Iterator[Cut]:
    """An image in parts whose cores have at most `side` pixels to a side, with the scores `around` pixels further."""
    mean, variance = (moment.to(device) for moment in moments(image))
    for core in cores(image.size, side):
        wanted = core.grown(around, image.size)
        seen = network.seen(wanted, image.size)
        yield Cut(core, Part(seen, wanted, image.size, mean, variance), image.read(seen)[None].to(device))


def detect_in(
    cut: Cut, maps: DenseMaps, settings: DetectionSettings, max_keypoints: int | None
) -> tuple[Tensor, Tensor]:
    """`ripe.detection.detect` of an image, as far as a part's core goes: N×2 positions in its pixels, and N scores."""
    assert maps.frames is not None
    core, part, _ = cut
    logits = part.wanted.within(maps.frames[0].window).of(maps.logits[0, 0])
    height, width = part.size
    border = settings.border
    allowed = torch.zeros_like(logits, dtype=torch.bool)
    inner = core.overlap(Window(border, height - border, border, width - border))
    inner.within(part.wanted).of(allowed).fill_(True)
    positions, scores = detect(logits, replace(settings, border=0), max_keypoints, allowed)
    return positions + positions.new_tensor([part.wanted.left, part.wanted.top]), scores
