"""The extractor: a dense network, a descriptor head and the settings of the detector, behind one interface."""

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import repeat

import torch
from torch import Tensor, nn

from ripe.detection import DetectionSettings, detect
from ripe.features import Features
from ripe.images import MAX_MEGAPIXELS, MIN_SIDE, ImageLike, as_rgb, rescale_keypoints, split_batch
from ripe.inference import Failed, MaskLike, Prepared, batches, inside, prepare, stacked
from ripe.networks.dense import DenseMaps, DenseNetwork, DescriptorHead
from ripe.networks.folding import FoldedCopy


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
        """Unit descriptors B×M×D of B×M×2 keypoints (x, y) in pixels of the network's input, differentiable."""
        # The finest map has the input's resolution, and the padding, if any, that all maps share.
        height, width = maps.pyramid[0].shape[-2:]
        return self.conv_dim_reduction_coarse_desc(maps.pyramid, keypoints, (height, width))

    def extract(
        self,
        images: ImageLike | Iterable[ImageLike],
        *,
        max_keypoints: int | None = 2048,
        threshold: float | None = None,
        resize: int | None = None,
        enlarge: bool = True,
        masks: Sequence[MaskLike | None] | None = None,
        max_megapixels: float = MAX_MEGAPIXELS,
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
            masks: one mask per image, or None: a path, a Pillow image, an array or a tensor, H×W as the image that is
                turned upright; no keypoint lies on a pixel where the mask is zero.
            max_megapixels: files of more million pixels are refused.

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
            masks=masks,
            max_megapixels=max_megapixels,
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
        masks: Iterable[MaskLike | None] | None = None,
        max_megapixels: float = MAX_MEGAPIXELS,
        failed: Failed | None = None,
    ) -> Iterator[tuple[int, Features]]:
        """The features of many images one after the other, in bounded memory, while the next files are being read.

        Args:
            images: taken one by one, a few ahead of the results; otherwise all arguments are those of `extract`.
            max_keypoints: see `extract`.
            threshold: see `extract`.
            resize: see `extract`.
            enlarge: see `extract`.
            masks: see `extract`.
            max_megapixels: see `extract`.
            failed: told the index and the error of an image that cannot be read or used; the others go on. If None,
                the error is raised.

        Returns:
            The index of each usable image and its features, in order.

        Raises:
            ValueError: an argument is not usable; at once, before any image is read.
        """
        _check_max_keypoints(max_keypoints, "max_keypoints")
        if resize is not None and resize < MIN_SIDE:
            raise ValueError(f"resize is {resize}; the longer side needs {MIN_SIDE} pixels or more")
        settings = self.detection if threshold is None else replace(self.detection, threshold=threshold)
        masked = zip(images, repeat(None)) if masks is None else zip(images, masks, strict=True)
        prepared = prepare(masked, long_side=resize, enlarge=enlarge, max_megapixels=max_megapixels, failed=failed)
        return self._results(prepared, settings, max_keypoints)

    def _results(
        self, prepared: Iterable[Prepared], settings: DetectionSettings, max_keypoints: int | None
    ) -> Iterator[tuple[int, Features]]:
        for gathered in batches(prepared, self.device):
            order = deque(sorted(image.index for batch in gathered for image in batch))
            found: dict[int, Features] = {}
            for batch in gathered:
                found |= self._extract_batch(batch, settings, max_keypoints)
                while order and order[0] in found:
                    index = order.popleft()
                    yield index, found.pop(index)

    @torch.no_grad()
    def _extract_batch(
        self, batch: Sequence[Prepared], settings: DetectionSettings, max_keypoints: int | None
    ) -> dict[int, Features]:
        """The features of equally large images, by the images' indices."""
        model = self._folded.of(self)
        found = {}
        with self._reduced_precision():
            maps = model.net.infer(stacked(batch, self.device))
            for position, image in enumerate(batch):
                single = maps.image(position)
                # A mask is asked where the keypoints end up, so the best ones are chosen after it.
                seen, scores = detect(single.logits[0, 0], settings, max_keypoints if image.mask is None else None)
                keypoints = rescale_keypoints(seen, image.size, image.original_size)
                if image.mask is not None:
                    kept = inside(image.mask.to(seen.device), keypoints).nonzero()[:max_keypoints, 0]
                    seen, keypoints, scores = seen[kept], keypoints[kept], scores[kept]
                descriptors = model.describe(single, seen[None])[0]
                height, width = image.original_size
                found[image.index] = Features(keypoints, scores, descriptors, (width, height))
        return found

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
