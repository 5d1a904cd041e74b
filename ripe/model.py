"""The extractor: a dense network, a descriptor head and the settings of the detector, behind one interface."""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from ripe.detection import DetectionSettings, detect
from ripe.features import Features
from ripe.images import MIN_SIDE, ImageLike, as_rgb, fit_long_side, rescale_keypoints, resize, split_batch
from ripe.inference import fold
from ripe.networks.dense import DenseMaps, DenseNetwork, DescriptorHead

MAX_PIXELS_PER_BATCH = 2_000_000


class RIPE(nn.Module):
    """Finds and describes keypoints; made by `ripe.load`, or by `ripe.vgg_hyper` for the published network.

    The module itself is the trainable network. `extract` and `detectAndCompute` run a copy of it that is made for
    inference (see `ripe.inference.fold`) and remade whenever a weight has changed.
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
        self._folded: tuple[object, DenseNetwork] | None = None

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
        return self.conv_dim_reduction_coarse_desc(maps.pyramid, keypoints, _size(maps.pyramid[0]))

    def extract(
        self,
        images: ImageLike | Sequence[ImageLike],
        *,
        max_keypoints: int = 2048,
        threshold: float | None = None,
        resize: int | None = None,
        masks: Sequence[Tensor | None] | None = None,
    ) -> list[Features]:
        """Keypoints and descriptors of one image or many, of any sizes.

        What an image gives does not depend on the images beside it: only images of equal size share a batch.

        Args:
            images: a path, array or tensor (see `ripe.images.as_rgb`), a batch B×3×H×W, or a sequence of images.
            max_keypoints: how many keypoints an image keeps at most, the best ones.
            threshold: least score of a keypoint, a logit; the network's own default if None.
            resize: bring the longer side to this many pixels before the network sees the image. Keypoints are always
                given in pixels of the image as it was handed in.
            masks: one H×W mask per image, or None; no keypoint lies where the mask is zero.

        Returns:
            One `Features` per image, in order, on the model's device.

        Raises:
            FileNotFoundError, ValueError, TypeError: an argument or an image is not usable; the message says why.
        """
        if max_keypoints < 1:
            raise ValueError(f"max_keypoints is {max_keypoints}; it must be 1 or more")
        if resize is not None and resize < MIN_SIDE:
            raise ValueError(f"resize is {resize}; the longer side needs {MIN_SIDE} pixels or more")
        originals = [as_rgb(image) for image in split_batch(images)]
        given_masks: Sequence[Tensor | None] = [None] * len(originals) if masks is None else masks
        if len(given_masks) != len(originals):
            raise ValueError(f"{len(given_masks)} masks for {len(originals)} images; give one mask (or None) per image")
        settings = self.detection if threshold is None else replace(self.detection, threshold=threshold)
        prepared = [_fit(image, resize).to(self.device) for image in originals]
        results: list[Features | None] = [None] * len(originals)
        for batch in _batches_of_equal_size(prepared):
            with torch.inference_mode():
                maps = self._infer(torch.stack([prepared[index] for index in batch]))
                for position, index in enumerate(batch):
                    mask = _fit_mask(given_masks[index], originals[index], maps.logits)
                    keypoints, scores, descriptors = self._read_out(maps.image(position), settings, max_keypoints, mask)
                    height, width = originals[index].shape[1:]
                    keypoints = rescale_keypoints(keypoints, _size(prepared[index]), (height, width))
                    results[index] = Features(keypoints, scores, descriptors, (width, height))
        return [features for features in results if features is not None]

    def detectAndCompute(  # noqa: N802 (the published name)
        self, image: Tensor, threshold: float = 0.5, top_k: int = 2048
    ) -> tuple[Tensor, Tensor, Tensor] | list[tuple[Tensor, Tensor, Tensor]]:
        """The published interface: whole-pixel keypoints of the network's raw score map.

        Args:
            image: 3×H×W or 1×3×H×W float tensor; a batch of B > 1 images gives a list.
            threshold: least score of a keypoint (a logit).
            top_k: how many keypoints are kept at most.

        Returns:
            keypoints N×2 float (x, y), descriptors N×D, and scores N (divided by the map's maximum), ordered by falling
            score. N is 0 where nothing exceeds the threshold.
        """
        batch = image if image.ndim == 4 else image[None]
        prepared = torch.stack([as_rgb(single) for single in batch]).to(self.device)
        settings = DetectionSettings(threshold=threshold)
        results = []
        with torch.inference_mode():
            maps = self._infer(prepared)
            for index in range(len(batch)):
                single = maps.image(index)
                keypoints, scores, descriptors = self._read_out(single, settings, top_k, None)
                results.append((keypoints, descriptors, scores / single.logits.max()))
        return results[0] if len(results) == 1 else results

    def _read_out(
        self, maps: DenseMaps, settings: DetectionSettings, max_keypoints: int, mask: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        keypoints, scores = detect(maps.logits[0, 0], settings, max_keypoints, mask)
        with self._reduced_precision():
            return keypoints, scores, self.describe(maps, keypoints[None])[0]

    def _infer(self, images: Tensor) -> DenseMaps:
        with self._reduced_precision():
            return self._inference_network().infer(images)

    def _reduced_precision(self) -> torch.autocast:
        reduced = self.compute_dtype != torch.float32
        return torch.autocast(self.device.type, dtype=self.compute_dtype if reduced else None, enabled=reduced)

    def _inference_network(self) -> DenseNetwork:
        state = [*self.net.parameters(), *self.net.buffers()]
        # Tensors made in inference mode count no versions; they cannot be trained either.
        version = tuple((tensor.data_ptr(), -1 if tensor.is_inference() else tensor._version) for tensor in state)
        if self._folded is None or self._folded[0] != version:
            self._folded = (version, fold(self.net))
        return self._folded[1]

    def __getstate__(self) -> dict:
        return {**self.__dict__, "_folded": None}


def _size(image: Tensor) -> tuple[int, int]:
    return image.shape[-2], image.shape[-1]


def _fit(image: Tensor, long_side: int | None) -> Tensor:
    if long_side is None:
        return image
    size = fit_long_side(_size(image), long_side)
    if min(size) < MIN_SIDE:
        raise ValueError(f"resized to {size[1]}×{size[0]} pixels; both sides need {MIN_SIDE} or more: raise `resize`")
    return image if size == _size(image) else resize(image, size)


def _fit_mask(mask: Tensor | None, original: Tensor, logits: Tensor) -> Tensor | None:
    if mask is None:
        return None
    mask = torch.as_tensor(mask)
    if mask.shape != original.shape[1:]:
        raise ValueError(f"a mask of shape {tuple(mask.shape)} for an image of {tuple(original.shape[1:])} pixels")
    kept = (mask != 0).float()[None, None].to(logits.device)
    return torch.nn.functional.interpolate(kept, size=logits.shape[-2:], mode="nearest-exact")[0, 0] > 0


def _batches_of_equal_size(images: Sequence[Tensor]) -> list[list[int]]:
    groups: dict[tuple[int, int], list[int]] = {}
    for index, image in enumerate(images):
        groups.setdefault(_size(image), []).append(index)
    batches = []
    for (height, width), group in groups.items():
        count = max(1, MAX_PIXELS_PER_BATCH // (height * width))
        batches += [group[start : start + count] for start in range(0, len(group), count)]
    return batches
