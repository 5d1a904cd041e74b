"""Extraction and matching without PyTorch: ONNX Runtime runs a file of `ripe.export`; NumPy arrays in and out.

    from ripe import runtime

    model = runtime.load()
    features0, features1 = model.extract(["left.jpg", "right.jpg"])
    matches = runtime.match(features0, features1)

The names, arguments, units and coordinates are those of `ripe.load`, `RIPE.extract` and `ripe.match`. Shape letters: N
keypoints of an image, D numbers of a descriptor, K matches.
"""

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import repeat
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from PIL import Image

from ripe.files import write_arrays
from ripe.filters import MIN_SCORE, MatchFilter
from ripe.photos import (
    MAX_MEGAPIXELS,
    MIN_SIDE,
    PhotoFile,
    check_long_side,
    check_mask_file,
    check_mask_size,
    check_numbers,
    check_size,
    decode,
    fit_long_side,
    read_image,
    singles,
)

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

COMPACT = Path(__file__).parent / "weights" / "compact.onnx"
COMPACT_SHA256 = "25eaa6c00e71c865c60ac9b9adb7110bfefbdf67c2c85ca92e9d2ad1b6d16a50"
CPU = ("CPUExecutionProvider",)
ALL = 2**62
BLOCK = 2**24  # similarities that are held at a time: 64 MiB

ImageLike = np.ndarray | Image.Image | PhotoFile
MaskLike = np.ndarray | Image.Image | PhotoFile


@dataclass(eq=False, repr=False)
class Features:
    """Keypoints of one image, best first; `ripe.Features` with arrays in place of tensors.

    Attributes:
        keypoints: N×2 float32, (x, y) in pixels of the original image, the centre of the top-left one at (0, 0).
        scores: N float32, falling; logits.
        descriptors: N×D float32, each of length 1.
        image_size: (width, height) of the original image in pixels.
    """

    keypoints: np.ndarray
    scores: np.ndarray
    descriptors: np.ndarray
    image_size: tuple[int, int]

    def __len__(self) -> int:
        return len(self.keypoints)

    def numpy(self) -> dict[str, np.ndarray]:
        """All fields by name, and `scales`, as `ripe.Features.numpy`; image_size is int64."""
        size = np.array(self.image_size, dtype=np.int64)
        parts = {"keypoints": self.keypoints, "scores": self.scores, "descriptors": self.descriptors}
        return {**parts, "image_size": size, "scales": np.ones(len(self), dtype=np.float32)}

    def save(self, path: str | Path) -> None:
        """Write `numpy()` to a file of NumPy's npz format, whole or not at all, which `ripe.load_features` reads.

        Raises:
            OSError: it cannot be written.
        """
        write_arrays(path, self.numpy())

    def __repr__(self) -> str:
        width, height = self.image_size
        return f"Features({len(self)} keypoints, {self.descriptors.shape[-1]} numbers each, {width}×{height} image)"


@dataclass(eq=False, repr=False)
class Matches:
    """Matches between two images.

    Attributes:
        indices: K×2 int64; row (i, j) joins keypoint i of the first image to keypoint j of the second.
        scores: K float32 cosine similarities of the descriptors, in −1..1, or a learned matcher's probabilities.
    """

    indices: np.ndarray
    scores: np.ndarray

    def __len__(self) -> int:
        return len(self.indices)

    def __repr__(self) -> str:
        return f"Matches({len(self)} matches)"

    def points(self, features0: Features, features1: Features) -> tuple[np.ndarray, np.ndarray]:
        """Matched keypoints of both images, each K×2."""
        return features0.keypoints[self.indices[:, 0]], features1.keypoints[self.indices[:, 1]]


class Extractor:
    """A file of `ripe export`, ready to extract; made by `load`.

    Attributes:
        metadata: what the file says about itself, such as its name, licence and the SHA-256 of the weights.
        threshold: least score of a keypoint unless another is asked for.
    """

    def __init__(self, session: "InferenceSession", metadata: dict[str, str]) -> None:
        self._session = session
        self.metadata = metadata
        self.threshold = float(metadata["threshold"])

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

        Args:
            images: a path, a Pillow image, an array H×W or H×W×3 (uint8, uint16, or floating point in 0..1), an array
                of several, or a list.
            max_keypoints: how many keypoints an image keeps at most, the best ones; None keeps all.
            threshold: least score of a keypoint, a logit; the model's own if None.
            resize: bring the longer side to this many pixels first; keypoints are in pixels of the original all the
                same. None keeps the image's size.
            enlarge: whether images that are smaller than `resize` are brought to it, too.
            masks: one mask per image, or None: a path, a Pillow image or an H×W array; no keypoint lies where it is 0.
            max_megapixels: files of more million pixels are refused.

        Returns:
            One `Features` per image, in order.

        Raises:
            FileNotFoundError, ValueError: an argument or an image is not usable; the message says why.
        """
        single = _split_batch(images)
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
        failed: Callable[[int, Exception], object] | None = None,
    ) -> Iterator[tuple[int, Features]]:
        """The features of many images one after the other, each with its index; arguments are those of `extract`.

        Args:
            images: taken one by one.
            max_keypoints: see `extract`.
            threshold: see `extract`.
            resize: see `extract`.
            enlarge: see `extract`.
            masks: see `extract`.
            max_megapixels: see `extract`.
            failed: told the index and the error of an image that cannot be read or used; the others go on. If None,
                the error is raised.
        """
        if max_keypoints is not None and max_keypoints < 1:
            raise ValueError(f"max_keypoints is {max_keypoints}; it must be 1 or more, or None for all")
        check_long_side(resize)
        masked = zip(images, repeat(None)) if masks is None else zip(images, masks, strict=True)

        def results() -> Iterator[tuple[int, Features]]:
            for index, (image, mask) in enumerate(masked):
                try:
                    original = _as_array(image, max_megapixels)
                    kept = None if mask is None else _as_mask(mask, image, original.shape[:2], max_megapixels)
                    seen = _resized(original, resize, enlarge, image)
                except (OSError, ValueError) as error:
                    if failed is None:
                        raise
                    failed(index, error)
                else:
                    yield index, self._extract(seen, original.shape[:2], kept, max_keypoints, threshold)

        return results()

    def settings(self, threshold: float | None = None) -> dict[str, Any]:
        """What the features depend on, as `ripe.pretrained.model_settings` says it of the same model in PyTorch."""
        detection = json.loads(self.metadata["detection"])
        own = detection.pop("threshold")
        return {
            "model": self.metadata["name"],
            "weights": self.metadata["weights_sha256"],
            "precision": self.metadata.get("precision", "float32"),
            "threshold": own if threshold is None else threshold,
            "detection": ", ".join(f"{key} {value}" for key, value in detection.items()),
        }

    def _extract(
        self,
        seen: np.ndarray,
        original_size: tuple[int, ...],
        mask: np.ndarray | None,
        max_keypoints: int | None,
        threshold: float | None,
    ) -> Features:
        """The features of an H×W×3 float32 image that stands for one of (H, W) `original_size`."""
        # A mask is asked where the keypoints end up, so the best ones are chosen after it.
        most = ALL if max_keypoints is None or mask is not None else max_keypoints
        feed = {
            "image": np.ascontiguousarray(seen.transpose(2, 0, 1)[None]),
            "threshold": np.array(self.threshold if threshold is None else threshold, dtype=np.float32),
            "max_keypoints": np.array(most, dtype=np.int64),
        }
        keypoints, scores, descriptors = (
            part[0] for part in self._session.run(["keypoints", "scores", "descriptors"], feed)
        )
        height, width = original_size
        if seen.shape[:2] != (height, width):
            scale = np.array([width / seen.shape[1], height / seen.shape[0]], dtype=np.float32)
            keypoints = (keypoints + np.float32(0.5)) * scale - np.float32(0.5)
        if mask is not None:
            kept = np.flatnonzero(_inside(mask, keypoints))[:max_keypoints]
            keypoints, scores, descriptors = keypoints[kept], scores[kept], descriptors[kept]
        return Features(keypoints, scores, descriptors, (width, height))


def load(path: str | Path = "compact", *, threads: int | None = None, providers: Sequence[str] = CPU) -> Extractor:
    """The extractor of a file that `ripe export` has written.

    Args:
        path: the file; "compact" is the one that comes with the package.
        threads: of ONNX Runtime; as many as there are cores if None.
        providers: ONNX Runtime's execution providers, such as "CUDAExecutionProvider", the preferred one first.

    Raises:
        FileNotFoundError: no such file.
        ValueError: it is not a file of `ripe export`, or ONNX Runtime is not installed.
    """
    found = COMPACT if str(path) == "compact" else Path(path)
    if found == COMPACT and COMPACT.is_file() and hashlib.sha256(COMPACT.read_bytes()).hexdigest() != COMPACT_SHA256:
        raise ValueError(f"{COMPACT}: damaged or not of this version; install the package again")
    session, metadata = _session(found, threads, providers)
    if not {"name", "threshold", "detection", "weights_sha256"} <= metadata.keys():
        raise ValueError(f"{path}: not an extractor that `ripe export` has written")
    return Extractor(session, metadata)


def _session(found: Path, threads: int | None, providers: Sequence[str]) -> "tuple[InferenceSession, dict[str, str]]":
    """What runs a file, and the file's metadata."""
    if not found.is_file():
        raise FileNotFoundError(f"{found}: no such file; `ripe export NAME -o FILE` writes one")
    try:
        import onnxruntime
    except ImportError as error:
        message = f"ripe.runtime needs ONNX Runtime: pip install 'ripe-keypoints[onnx]' ({error})"
        raise ValueError(message) from error
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors
    # Waiting threads sleep: those that spin would take the processor from whatever else the machine does.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if threads is not None:
        options.intra_op_num_threads = threads
    try:
        session = onnxruntime.InferenceSession(found, options, providers=list(providers))
    except Exception as error:  # each of its many errors is a class of its own
        reason = " ".join(str(error).split())[:200]
        raise ValueError(f"{found}: cannot be run by ONNX Runtime ({reason})") from error
    return session, dict(session.get_modelmeta().custom_metadata_map)


class Matcher:
    """A learned matcher's file of `ripe export`; made by `load_matcher`.

    Attributes:
        metadata: what the file says about itself; `extractor_sha256` is of the weights whose descriptors it knows.
    """

    def __init__(self, session: "InferenceSession", metadata: dict[str, str]) -> None:
        self._session = session
        self.metadata = metadata

    def __call__(self, features0: Features, features1: Features, *, min_score: float = MIN_SCORE) -> Matches:
        """Match two images' features, as `ripe.Matcher`; scores are probabilities.

        Args:
            features0: of the first image, from the extractor that the matcher was trained for.
            features1: of the second image.
            min_score: least probability of a match, 0..1.

        Raises:
            ValueError: the descriptors are of another length than the matcher knows.
        """
        known = int(self.metadata["descriptor_dim"])
        feed: dict[str, np.ndarray] = {"min_score": np.array(min_score, dtype=np.float32)}
        for number, features in enumerate((features0, features1)):
            length = features.descriptors.shape[1]
            if length != known:
                raise ValueError(
                    f"features{number}: the matcher is for descriptors of {known} numbers, these have {length}; "
                    "extract the images with the model that it was trained for"
                )
            feed[f"keypoints{number}"] = features.keypoints.astype(np.float32)
            feed[f"descriptors{number}"] = features.descriptors.astype(np.float32)
            feed[f"size{number}"] = np.array(features.image_size, dtype=np.float32)
        if len(features0) == 0 or len(features1) == 0:
            return Matches(np.zeros((0, 2), dtype=np.int64), np.zeros(0, dtype=np.float32))
        return Matches(*self._session.run(["matches", "scores"], feed))


def load_matcher(path: str | Path, *, threads: int | None = None, providers: Sequence[str] = CPU) -> Matcher:
    """The learned matcher of a file that `ripe export lightglue` has written; arguments and errors as of `load`."""
    session, metadata = _session(Path(path), threads, providers)
    if "extractor_sha256" not in metadata:
        raise ValueError(f"{path}: not a matcher that `ripe export` has written")
    return Matcher(session, metadata)


def match(
    features0: Features, features1: Features, *, ratio: float | None = None, min_similarity: float = -1.0
) -> Matches:
    """Mutual nearest neighbours of two images' descriptors, found by a part of the similarities at a time.

    Args:
        features0: features of the first image.
        features1: features of the second image, from the same model.
        ratio: most that the distance to the nearest descriptor may be of that to the second nearest, 0..1, in both
            directions; no such test if None.
        min_similarity: drop matches with a lower cosine similarity (−1..1).

    Raises:
        ValueError: a number is out of range, or the descriptors are of two models.
    """
    MatchFilter("mutual", ratio, min_similarity)  # which checks the numbers
    descriptors0, descriptors1 = features0.descriptors, features1.descriptors
    if descriptors0.shape[1] != descriptors1.shape[1]:
        raise ValueError(
            f"descriptors of {descriptors0.shape[1]} and {descriptors1.shape[1]} numbers cannot be matched; extract "
            "both images with the same model"
        )
    if min(len(features0), len(features1)) < (1 if ratio is None else 2):
        return Matches(np.zeros((0, 2), dtype=np.int64), np.zeros(0, dtype=np.float32))
    forward, backward = _nearest_neighbours(descriptors0, descriptors1)
    first = np.flatnonzero(backward.at[forward.at] == np.arange(len(forward.at)))
    kept = forward.similarity[first] >= min_similarity
    if ratio is not None:
        kept &= _passes(forward, ratio)[first] & _passes(backward, ratio)[forward.at[first]]
    first = first[kept]
    return Matches(np.stack([first, forward.at[first]], axis=-1), forward.similarity[first])


class _Nearest(NamedTuple):
    """Of each descriptor: which is the nearest of the other image, the cosine to it, and to the second nearest."""

    at: np.ndarray
    similarity: np.ndarray
    second: np.ndarray


def _nearest_neighbours(descriptors0: np.ndarray, descriptors1: np.ndarray) -> tuple[_Nearest, _Nearest]:
    rows = max(1, BLOCK // len(descriptors1))
    parts = []
    backward = None
    for start in range(0, len(descriptors0), rows):
        similarity = descriptors0[start : start + rows] @ descriptors1.T
        parts.append(_nearest(similarity))
        below = _nearest(similarity.T)
        below = below._replace(at=below.at + start)
        backward = below if backward is None else _nearer(backward, below)
    assert backward is not None
    return _Nearest(*map(np.concatenate, zip(*parts, strict=True))), backward


def _nearest(similarity: np.ndarray) -> _Nearest:
    at = similarity.argmax(axis=1)
    rows = np.arange(len(similarity))
    best = similarity[rows, at]
    similarity[rows, at] = -np.inf
    second = similarity.max(axis=1)
    similarity[rows, at] = best
    return _Nearest(at, best, second)


def _nearer(first: _Nearest, later: _Nearest) -> _Nearest:
    """The nearer of two neighbours of the same descriptors; the first if they are equally near."""
    at = np.where(later.similarity > first.similarity, later.at, first.at)
    loser = np.minimum(first.similarity, later.similarity)
    second = np.maximum(np.maximum(first.second, later.second), loser)
    return _Nearest(at, np.maximum(first.similarity, later.similarity), second)


def _passes(nearest: _Nearest, ratio: float) -> np.ndarray:
    """Lowe's test. Two neighbours at distance 0 are as ambiguous as can be, and 0/0 passes no comparison."""
    distances = [np.sqrt(np.maximum(2 - 2 * cosine, 0)) for cosine in (nearest.similarity, nearest.second)]
    with np.errstate(divide="ignore", invalid="ignore"):
        return distances[0] / distances[1] <= ratio


def _split_batch(images: ImageLike | Iterable[ImageLike]) -> list[ImageLike]:
    if isinstance(images, np.ndarray):
        return list(images) if images.ndim == 4 else [images]
    return singles(images)


def _as_array(image: ImageLike, max_megapixels: float) -> np.ndarray:
    """H×W×3 uint8, or float32 in 0..1, of any accepted image."""
    name = "image"
    if isinstance(image, PhotoFile):
        name, image = str(image), read_image(image, max_megapixels=max_megapixels)
    if isinstance(image, Image.Image):
        image = decode(image, name)
    if not isinstance(image, np.ndarray):
        raise ValueError(f"an image is a path, a Pillow image or a NumPy array, not {type(image).__name__}")
    check_numbers(image, name)
    image = np.asarray(image, image.dtype.newbyteorder("="))  # of its own class no more: matrices have no third axis
    if image.ndim == 2:
        image = image[:, :, None]
    if image.ndim != 3 or image.shape[2] not in (1, 3, 4):
        raise ValueError(f"{name}: shape {image.shape} is no image; give H×W, H×W×1, H×W×3 or H×W×4")
    check_size(image.shape[:2], name)
    values = np.broadcast_to(image[:, :, :3], (*image.shape[:2], 3))
    if values.dtype == np.uint8:
        return values
    if values.dtype == np.uint16:
        return values.astype(np.float32) / np.float32(65535)
    if values.dtype.kind != "f":
        raise ValueError(f"{name}: values of type {values.dtype}; give uint8, uint16 or floating point")
    with np.errstate(over="ignore"):
        values = values.astype(np.float32)  # to which large numbers of float64 are infinite
    if not np.isfinite(values).all():
        raise ValueError(f"{name}: holds NaN or infinite values")
    return values


def _as_mask(mask: MaskLike, image: ImageLike, size: tuple[int, ...], max_megapixels: float) -> np.ndarray:
    """H×W bool, True where keypoints may lie: where the mask, or one of its colours, is not 0."""
    if isinstance(mask, np.ndarray):
        check_numbers(mask, "a mask")
        values = np.asarray(mask) != 0
    else:
        if isinstance(mask, PhotoFile):
            check_mask_file(mask, image, size)
        values = _as_array(mask, max_megapixels).any(axis=2)
    check_mask_size(mask, image, values.shape, size)
    return values


def _resized(original: np.ndarray, long_side: int | None, enlarge: bool, image: ImageLike) -> np.ndarray:
    """H×W×3 float32 as the network shall see it: bilinear, antialiased."""
    values = original.astype(np.float32) / np.float32(255) if original.dtype == np.uint8 else original
    own = (values.shape[0], values.shape[1])
    size = own if long_side is None or (max(own) <= long_side and not enlarge) else fit_long_side(own, long_side)
    if size == own:
        return values
    if min(size) < MIN_SIDE:
        name = image if isinstance(image, PhotoFile) else "image"
        raise ValueError(
            f"{name}: resized to {size[1]}×{size[0]} pixels; both sides need {MIN_SIDE} or more: raise `resize`"
        )
    planes = (Image.fromarray(np.ascontiguousarray(values[:, :, channel])) for channel in range(3))
    return np.stack([np.asarray(plane.resize(size[::-1], Image.Resampling.BILINEAR)) for plane in planes], axis=-1)


def _inside(mask: np.ndarray, keypoints: np.ndarray) -> np.ndarray:
    """Which of N×2 keypoints lie on pixels of a mask that are True; one half-way between two pixels lies on both."""
    last = np.array([mask.shape[1] - 1, mask.shape[0] - 1])
    upper, lower = (
        np.clip(edge, 0, last).astype(np.int64) for edge in (np.floor(keypoints + 0.5), np.ceil(keypoints - 0.5))
    )
    return np.all([mask[y, x] for y in (lower[:, 1], upper[:, 1]) for x in (lower[:, 0], upper[:, 0])], axis=0)
