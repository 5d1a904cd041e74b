"""The extractor: a dense network, a descriptor head and the settings of the detector, behind one interface."""

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import repeat

import torch
from torch import Tensor, nn

from ripe import checks
from ripe.allocator import give_back, large_blocks_returned
from ripe.ceiling import Ceiling, parse_bytes, share_out
from ripe.detection import DetectionSettings, detect
from ripe.features import Features
from ripe.images import (
    MAX_MEGAPIXELS,
    MIN_SIDE,
    ImageLike,
    as_rgb,
    fit_long_side,
    rescale_keypoints,
    split_batch,
    turn_keypoints,
)
from ripe.images import resize as resize_image
from ripe.inference import READ_AHEAD, Failed, MaskLike, Prepared, Size, batches, inside, prepare, stacked
from ripe.networks.dense import DenseMaps, DenseNetwork, DescriptorHead
from ripe.networks.folding import FoldedCopy
from ripe.parts import Cut, cuts, detect_in, in_size, margin
from ripe.photos import check_long_side
from ripe.regions import Stored
from ripe.resizing import ONE_SCALE, check_scales


@dataclass(frozen=True)
class _Asked:
    """What is looked for in an image: as the detector says, at most so many keypoints, at these scales."""

    detection: DetectionSettings
    max_keypoints: int | None
    scales: tuple[float, ...]


_Found = tuple[Tensor, Tensor, Tensor]
"""Keypoints, best first: N×2 in pixels of what the network saw, N×2 in those of the image; and N scores."""


class RIPE(nn.Module):
    """Finds and describes keypoints; made by `ripe.load`, or by `ripe.vgg_hyper` for the published network.

    The module itself is the trainable network. `extract` and `detectAndCompute` run a float32 copy of it that is made
    for inference (see `ripe.networks.folding`), and made anew whenever a weight has changed, by whatever means. Weights
    of half precision (`model.half()`) make it compute in half precision. Results are float32 always, have no gradient,
    and are ordinary tensors: a matcher or a head can be trained on them.
    """

    def __init__(
        self, name: str, network: DenseNetwork, descriptor: DescriptorHead, detection: DetectionSettings
    ) -> None:
        super().__init__()
        self.name = name
        self.net = network
        # The published checkpoints name the descriptor's weights so.
        self.conv_dim_reduction_coarse_desc = descriptor
        self.detection = detection
        self.compute_dtype = torch.float32
        self._folded = FoldedCopy[RIPE]()

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.parameters()).device

    @property
    def descriptor_dim(self) -> int:
        """Length of a descriptor."""
        return self.conv_dim_reduction_coarse_desc.dim

    def forward(self, images: Tensor) -> DenseMaps:
        """Score map and feature maps of B×3×H×W images, differentiable."""
        return self.net(images)

    def describe(self, maps: DenseMaps, keypoints: Tensor) -> Tensor:
        """Unit descriptors B×M×D of B×M×2 keypoints (x, y) in pixels of the network's input, differentiable.

        Of a part's maps, they are in pixels of the image that it is a part of.
        """
        # The finest map has the input's resolution, and the padding, if any, that all maps share.
        size = maps.pyramid[0].shape[-2:] if maps.frames is None else maps.frames[0].size
        return self.conv_dim_reduction_coarse_desc(maps.pyramid, keypoints, (size[0], size[1]), maps.frames)

    def extract(
        self,
        images: ImageLike | Iterable[ImageLike],
        *,
        max_keypoints: int | None = 2048,
        threshold: float | None = None,
        resize: int | None = None,
        enlarge: bool = True,
        scales: Sequence[float] = ONE_SCALE,
        masks: Sequence[MaskLike | None] | None = None,
        max_megapixels: float = MAX_MEGAPIXELS,
        max_memory: int | str | None = None,
    ) -> list[Features]:
        """Keypoints and descriptors of one image or many, of any sizes.

        What an image gives does not depend on the images beside it: only images of equal size share a batch. Files are
        read as they are wanted, so memory does not grow with their number. See `extract_stream` for lists whose
        results would fill the memory, or among which unusable files are expected.

        Args:
            images: a path, array, tensor or Pillow image (see `ripe.images.as_rgb`), a batch B×3×H×W, or several
                images.
            max_keypoints: how many keypoints an image keeps at most, the best ones; None keeps all.
            threshold: least score of a keypoint, a logit; the network's own default if None.
            resize: bring the longer side to this many pixels before the network sees the image. Keypoints are always
                given in pixels of the image as it was handed in. None keeps the image's size; the command line and
                reconstruction shrink to 1600 unless told otherwise.
            enlarge: whether images that are smaller than `resize` are brought to it, too.
            scales: factors of the image's size (after `resize`) at which the network sees it, such as (1, 0.5, 0.25):
                for photos of which one is a detail of the other, in some 1.4 times the time. Keypoints of all scales
                compete for `max_keypoints` by their scores. Scales at which a side would have fewer than 16 pixels are
                left out; the image is seen as it is if none remains.
            masks: one mask per image, or None: a path, a Pillow image, an array or a tensor, H×W as the image that is
                turned upright; no keypoint lies on a pixel where the mask is zero.
            max_megapixels: files of more million pixels are refused.
            max_memory: bytes that the process may take at most if it does nothing else, or such as "2G"; photos are
                read one at a time, and seen in overlapping parts where they are too large. Keypoints are those of the
                whole photo, scores and descriptors to 1e-4. None sees photos as a whole.

        Returns:
            One `Features` per image, in order, on the model's device.

        Raises:
            FileNotFoundError, ValueError: an argument or an image is not usable; the message says why.
        """
        single = split_batch(images)
        if masks is not None and len(masks) != len(single):
            raise ValueError(f"{len(masks)} masks for {len(single)} images; give one mask (or None) per image")
        stream = self.extract_stream(
            single,
            max_keypoints=max_keypoints,
            threshold=threshold,
            resize=resize,
            enlarge=enlarge,
            scales=scales,
            masks=masks,
            max_megapixels=max_megapixels,
            max_memory=max_memory,
        )
        return [features for _, features in stream]

    def extract_stream(
        self,
        images: Iterable[ImageLike],
        *,
        max_keypoints: int | None = 2048,
        threshold: float | None = None,
        resize: int | None = None,
        enlarge: bool = True,
        scales: Sequence[float] = ONE_SCALE,
        masks: Iterable[MaskLike | None] | None = None,
        max_megapixels: float = MAX_MEGAPIXELS,
        max_memory: int | str | None = None,
        failed: Failed | None = None,
    ) -> Iterator[tuple[int, Features]]:
        """The features of many images one after the other, in bounded memory, while the next files are being read.

        Args:
            images: taken one by one, a few ahead of the results; otherwise all arguments are those of `extract`.
            max_keypoints: see `extract`.
            threshold: see `extract`.
            resize: see `extract`.
            enlarge: see `extract`.
            scales: see `extract`.
            masks: see `extract`.
            max_megapixels: see `extract`.
            max_memory: see `extract`.
            failed: told the index and the error of an image that cannot be read or used; the others go on. If None,
                the error is raised.

        Returns:
            The index of each usable image and its features, in order.

        Raises:
            ValueError: an argument is not usable; at once, before any image is read.
        """
        _check_max_keypoints(max_keypoints, "max_keypoints")
        check_long_side(resize)
        settings = self.detection if threshold is None else replace(self.detection, threshold=threshold)
        asked = _Asked(settings, max_keypoints, check_scales(scales))
        masked = zip(images, repeat(None)) if masks is None else zip(images, masks, strict=True)
        ceiling = None if max_memory is None else self._ceiling(max_memory, asked)
        prepared = prepare(
            masked,
            long_side=resize,
            enlarge=enlarge,
            max_megapixels=max_megapixels,
            failed=failed,
            ahead=READ_AHEAD if ceiling is None else 0,
            ceiling=ceiling,
        )
        if ceiling is None:
            return self._results(prepared, asked)
        return ((image.index, self._extract_in_parts(image, asked, ceiling)) for image in prepared)

    @torch.no_grad()
    def describe_turned(
        self, image: ImageLike, features: Features, quarter_turns: int, *, max_megapixels: float = MAX_MEGAPIXELS
    ) -> Features:
        """The same keypoints, in the frame of the image as it is, described as they look in the turned image.

        Descriptors follow rotations by some 60° only. Of two photos that are turned against each other, those of one
        can be described in four turns, of which one will match.

        Args:
            image: as it was given to `extract`.
            features: that `extract` found in it, at whatever scales.
            quarter_turns: by how many times 90° the image is turned, counter-clockwise as by `numpy.rot90`.
            max_megapixels: files of more million pixels are refused.

        Returns:
            Features whose descriptors alone are new: row k is still keypoint k, so that matches stay valid.

        Raises:
            FileNotFoundError, ValueError: the image is not usable, or of another size than the features' image.
        """
        checks.features(features, "features")
        if len(features) == 0:
            return features
        finest = float(features.scales.min())
        width, height = features.image_size
        if width * height / finest**2 > 1e6 * max_megapixels:
            raise ValueError(f"a keypoint has scale {finest:g}, for which the image would be enlarged beyond the limit")
        side = round(max(features.image_size) / finest)
        unmasked: list[tuple[ImageLike, MaskLike | None]] = [(image, None)]
        photo = next(prepare(unmasked, long_side=side, enlarge=True, max_megapixels=max_megapixels, failed=None))
        if photo.original_size != features.image_size[::-1]:
            raise ValueError(
                f"these are features of another image, of {'×'.join(map(str, features.image_size))} pixels"
            )
        model = self._folded.of(self)
        pixels = stacked([photo], self.device)[0]
        descriptors = torch.empty_like(features.descriptors)
        with self._reduced_precision():
            for scale in features.scales.unique():  # as `_sizes` had them
                size = fit_long_side(photo.size, round(max(features.image_size) / float(scale)))
                seen = torch.rot90(_resized(pixels, size), quarter_turns, (1, 2))
                at = features.scales == scale
                keypoints = rescale_keypoints(features.keypoints[at].to(self.device), photo.original_size, size)
                turned = turn_keypoints(keypoints, size, quarter_turns)
                descriptors[at] = model.describe(model.net.infer(seen[None]), turned[None])[0].to(descriptors)
        return replace(features, descriptors=descriptors)

    def _results(self, prepared: Iterable[Prepared], asked: _Asked) -> Iterator[tuple[int, Features]]:
        for gathered in batches(prepared, self.device):
            order = deque(sorted(image.index for batch in gathered for image in batch))
            found: dict[int, Features] = {}
            for batch in gathered:
                found |= self._extract_batch(batch, asked)
                while order and order[0] in found:
                    index = order.popleft()
                    yield index, found.pop(index)

    @torch.no_grad()
    def _extract_batch(self, batch: Sequence[Prepared], asked: _Asked) -> dict[int, Features]:
        """The features of equally large images, by the images' indices."""
        model = self._folded.of(self)
        with self._reduced_precision():
            images = stacked(batch, self.device)
            seen = []
            for size in _sizes(batch[0].size, asked.scales):
                scaled = images if size == batch[0].size else torch.stack([_resized(image, size) for image in images])
                seen.append((size, model.net.infer(scaled)))
            return {
                image.index: model._choose(image, [(size, maps.image(position)) for size, maps in seen], asked)
                for position, image in enumerate(batch)
            }

    def _ceiling(self, max_memory: int | str, asked: _Asked) -> Ceiling:
        if asked.max_keypoints is None:
            raise ValueError("max_memory needs a number of max_keypoints, as their descriptors are held, too")
        return share_out(
            parse_bytes(str(max_memory)),
            self.net,
            weights=sum(weight.nbytes for weight in self.parameters()),
            margin=margin(asked.detection),
            features=asked.max_keypoints * 4 * (self.descriptor_dim + 4),
        )

    @torch.no_grad()
    def _extract_in_parts(self, image: Prepared, asked: _Asked, ceiling: Ceiling) -> Features:
        """What `_extract_batch` gives for an image whose pixels are of its own size, part by part."""
        model = self._folded.of(self)
        side = ceiling.side(image.pixels, image.mask, max(image.size))
        best = self._no_features(image.original_size)
        photo = in_size(Stored(image.pixels), image.size, side)
        with self._reduced_precision(), large_blocks_returned():
            for size in _sizes(image.size, asked.scales):
                for cut in cuts(in_size(photo, size, side), model.net, side, margin(asked.detection), self.device):
                    best = model._join(best, image, cut, size, asked)
                    give_back()
        return best[best.scores.argsort(descending=True, stable=True)]

    def _join(self, best: Features, image: Prepared, cut: Cut, size: Size, asked: _Asked) -> Features:
        """The best keypoints so far, in no order, and those of one more part of an image that is seen in `size`."""
        maps = self.net.infer(cut.pixels, cut.part)
        found = detect_in(cut, maps, asked.detection, _limit(image, asked))
        positions, keypoints, scores = _placed(image, size, *found)
        order = torch.cat([best.scores, scores]).argsort(descending=True, stable=True)[: asked.max_keypoints]
        new = order[order >= len(best)] - len(best)
        best = best[order[order < len(best)]]
        descriptors = self.describe(maps, positions[new][None])[0]
        scales = torch.full_like(scores[new], max(best.image_size) / max(size))
        return Features(
            torch.cat([best.keypoints, keypoints[new]]),
            torch.cat([best.scores, scores[new]]),
            torch.cat([best.descriptors, descriptors]),
            best.image_size,
            torch.cat([best.scales, scales]),
        )

    def _no_features(self, size: Size) -> Features:
        keypoints = torch.zeros(0, 2, device=self.device)
        descriptors = keypoints.new_zeros((0, self.descriptor_dim))
        return Features(keypoints, keypoints.new_zeros(0), descriptors, (size[1], size[0]))

    def _choose(self, image: Prepared, seen: Sequence[tuple[Size, DenseMaps]], asked: _Asked) -> Features:
        """The best keypoints of one image among those of its maps, which belong to images of these sizes."""
        found = [_detect(image, size, maps, asked) for size, maps in seen]
        positions, keypoints, scores = (torch.cat(parts) for parts in zip(*found, strict=True))
        counts = torch.tensor([len(part[2]) for part in found], device=scores.device)
        level = torch.arange(len(found), device=scores.device).repeat_interleave(counts)
        # Scores are comparable as they are, and what coincides at two scales is no double: its descriptors are those of
        # two patches, of which another photo may show the larger or the smaller one (docs/benchmarks.md).
        order = scores.argsort(descending=True, stable=True)[: asked.max_keypoints]
        positions, level = positions[order], level[order]
        descriptors = positions.new_zeros((len(order), self.descriptor_dim))
        for number, (_, maps) in enumerate(seen):
            descriptors[level == number] = self.describe(maps, positions[level == number][None])[0]
        height, width = image.original_size
        scales = positions.new_tensor([max(height, width) / max(size) for size, _ in seen])[level]
        return Features(keypoints[order], scores[order], descriptors, (width, height), scales)

    @torch.no_grad()
    def detectAndCompute(  # noqa: N802 (the published name)
        self, image: ImageLike, threshold: float | None = None, top_k: int | None = 2048
    ) -> tuple[Tensor, Tensor, Tensor] | list[tuple[Tensor, Tensor, Tensor]]:
        """The published interface.

        Args:
            image: 3×H×W or 1×3×H×W float tensor, or whatever else is an image; a batch of B > 1 images gives a list.
            threshold: least score of a keypoint (a logit), which is then a whole pixel that is the largest of 3×3, as
                published. If None, the network's own detector finds the keypoints: the published one with a threshold
                of 0.5 for the published network.
            top_k: how many keypoints are kept at most; None keeps all.

        Returns:
            keypoints N×2 float (x, y), descriptors N×D, and scores N (divided by the map's maximum where that is above
            0), ordered by falling score. N is 0 where nothing exceeds the threshold.
        """
        _check_max_keypoints(top_k, "top_k")
        images = torch.stack([as_rgb(single).to(self.device) for single in split_batch(image)])
        settings = self.detection if threshold is None else DetectionSettings(threshold=threshold)
        model = self._folded.of(self)
        results = []
        with self._reduced_precision():
            maps = model.net.infer(images)
            for index in range(len(images)):
                single = maps.image(index)
                keypoints, scores = detect(single.logits[0, 0], settings, top_k)
                best = single.logits.max()
                scores = scores / best if best > 0 else scores
                results.append((keypoints, model.describe(single, keypoints[None])[0], scores))
        return results[0] if len(results) == 1 else results

    def _reduced_precision(self) -> torch.autocast:
        stored = next(self.parameters()).dtype
        dtype = stored if self.compute_dtype == torch.float32 else self.compute_dtype
        reduced = dtype in (torch.bfloat16, torch.float16)
        return torch.autocast(self.device.type, dtype=dtype if reduced else None, enabled=reduced)

    def __getstate__(self) -> dict:
        return {**self.__dict__, "_folded": FoldedCopy[RIPE]()}


def _check_max_keypoints(count: int | None, name: str) -> None:
    if count is not None and count < 1:
        raise ValueError(f"{name} is {count}; it must be 1 or more, or None for all")


def _sizes(size: Size, scales: Sequence[float]) -> list[Size]:
    """(H, W) of an image of `size` at each scale where both sides have the pixels that a network needs."""
    found = [fit_long_side(size, round(max(size) * scale)) for scale in scales]
    return [scaled for scaled in dict.fromkeys(found) if min(scaled) >= MIN_SIDE] or [size]


def _resized(image: Tensor, size: Size) -> Tensor:
    return image if image.shape[1:] == size else resize_image(image, size)


def _detect(image: Prepared, size: Size, maps: DenseMaps, asked: _Asked) -> _Found:
    """An image's keypoints in the maps of its pixels at `size`, best first."""
    return _placed(image, size, *detect(maps.logits[0, 0], asked.detection, _limit(image, asked)))


def _limit(image: Prepared, asked: _Asked) -> int | None:
    """How many keypoints the detector may keep: a mask is asked where they end up, so the best are chosen after it."""
    return asked.max_keypoints if image.mask is None else None


def _placed(image: Prepared, size: Size, positions: Tensor, scores: Tensor) -> _Found:
    """Keypoints that were found in an image at `size`, without those outside its mask."""
    keypoints = rescale_keypoints(positions, size, image.original_size)
    if image.mask is None:
        return positions, keypoints, scores
    kept = inside(image.mask.to(positions.device), keypoints)
    return positions[kept], keypoints[kept], scores[kept]
