"""Photos in: files, arrays and tensors become RGB tensors; sizes change and keypoints find their way back."""

import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import ExifTags, Image, TiffImagePlugin, UnidentifiedImageError
from torch import Tensor

MIN_SIDE = 16
MAX_MEGAPIXELS = 200.0
EXTENSIONS = frozenset({".bmp", ".jpeg", ".jpg", ".png", ".ppm", ".pgm", ".tif", ".tiff", ".webp"})
FLOAT_RANGES = (1, 255, 65535)
UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What brings the pixels of a file upright, by its EXIF orientation."""

ImageLike = Tensor | np.ndarray | Image.Image | str | Path

_opening = threading.Lock()


def read_image(path: str | Path, *, max_megapixels: float = MAX_MEGAPIXELS) -> np.ndarray:
    """Read a photo as H×W×3 RGB; EXIF orientation is applied, alpha dropped.

    Args:
        path: of the file.
        max_megapixels: files of more million pixels are refused before they are decoded.

    Returns:
        uint8; uint16 for grey files of more than 8 bits. Floating-point values are those of the least of 0..1, 0..255
        and 0..65535 that holds all of them.

    Raises:
        FileNotFoundError: no such file.
        ValueError: no image that Pillow can decode, a side has fewer than 16 pixels, there are too many pixels, or grey
            values are out of range; the message names the file.
    """
    path = Path(path)
    with open_image(path) as image:
        check_megapixels(image, path, max_megapixels)
        pixels = _decode(image, str(path))
    _check_size(pixels.shape[:2], str(path))
    return pixels


def open_image(path: str | Path, formats: tuple[str, ...] | None = None) -> Image.Image:
    """Open a file with Pillow, which reads no more than its header, for use in a `with` statement.

    Pillow's own limit, a setting of the whole process, is set aside for that moment; see `check_megapixels`.

    Raises:
        FileNotFoundError, ValueError: no such file, or no image of these formats; the message names the file.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"{path}: no such file")
    with _opening, _named(str(path)):
        pillows, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            return Image.open(path, formats=formats)
        finally:
            Image.MAX_IMAGE_PIXELS = pillows


def check_megapixels(image: Image.Image, path: str | Path, limit: float) -> None:
    """Raise a `ValueError` that names the file if an image has more than `limit` million pixels."""
    width, height = image.size
    if width * height > limit * 1e6:
        raise ValueError(
            f"{path}: {width}×{height} pixels, {width * height / 1e6:.0f} million, where the limit is {limit:g}; raise "
            "it (max_megapixels, --max-megapixels), or make a smaller copy"
        )


def orientation(image: Image.Image) -> int:
    """The EXIF orientation, 1 to 8, that `image`'s pixels still need to be turned by; 1 (none) where it is unreadable.

    No other tag is looked at. For TIFF files Pillow turns the pixels itself when it loads them.
    """
    try:
        value = image.getexif().get(ExifTags.Base.Orientation)
        return int(value) if value in UPRIGHT else 1
    except Exception:  # Pillow's readers of metadata fail on damage in every way that there is
        return 1


def stored_size(image: Image.Image) -> tuple[int, int]:
    """(width, height) of the pixels as they are stored in the file of an image that is opened but not yet loaded."""
    if isinstance(image, TiffImagePlugin.TiffImageFile):  # whose `size` is upright already in new releases of Pillow
        return image.tag_v2[TiffImagePlugin.IMAGEWIDTH], image.tag_v2[TiffImagePlugin.IMAGELENGTH]
    return image.size


@contextmanager
def _named(name: str) -> Iterator[None]:
    """Whatever goes wrong in Pillow becomes a `ValueError` that says with which image."""
    try:
        yield
    except UnidentifiedImageError as error:
        raise ValueError(f"{name}: not an image, or of a kind that Pillow cannot read") from error
    except Exception as error:  # damaged files make its decoders fail in every way that there is
        raise ValueError(f"{name}: damaged or unreadable image ({error or type(error).__name__})") from error


def _decode(image: Image.Image, name: str) -> np.ndarray:
    with _named(name):
        image.load()
        turn = UPRIGHT.get(orientation(image))
        upright = image if turn is None else image.transpose(turn)
        is_deep = upright.mode in ("F", "I") or upright.mode.startswith("I;16")
        values = np.asarray(upright if is_deep or upright.mode == "RGB" else upright.convert("RGB"))
    return np.repeat(_levels(values, name)[:, :, None], 3, axis=2) if is_deep else values


def _levels(grey: np.ndarray, name: str) -> np.ndarray:
    """Grey values H×W, whole or floating-point, as uint16."""
    low, high = grey.min(), grey.max()
    ranges = FLOAT_RANGES if grey.dtype.kind == "f" else FLOAT_RANGES[-1:]
    top = next((top for top in ranges if low >= 0 and high <= top), None)
    if top is None:
        wanted = ", ".join(f"0..{top}" for top in ranges)
        raise ValueError(f"{name}: grey values from {low:g} to {high:g}; bring them to {wanted}")
    return (np.rint(grey * (65535 / top)) if grey.dtype.kind == "f" else grey).astype(np.uint16)


def _check_size(size: Sequence[int], name: str) -> None:
    if min(size) < MIN_SIDE:
        raise ValueError(f"{name}: {size[1]}×{size[0]} pixels; both sides need {MIN_SIDE} or more")


def as_rgb(image: ImageLike, *, max_megapixels: float = MAX_MEGAPIXELS) -> Tensor:
    """A 3×H×W float32 RGB tensor of any accepted image; integers are scaled to 0..1, grey is repeated, alpha dropped.

    Args:
        image: a path; a Pillow image (turned upright by its EXIF orientation, as files are); a NumPy array H×W, H×W×1,
            H×W×3 or H×W×4 (RGB order); or a tensor H×W, 1×H×W, 3×H×W or 4×H×W. uint8, uint16 or floating point.
        max_megapixels: larger files are refused.

    Raises:
        FileNotFoundError, ValueError: with the file or the shape, type or value that is wrong.
    """
    return unit_range(as_planes(image, max_megapixels=max_megapixels))


def as_planes(image: ImageLike, *, max_megapixels: float = MAX_MEGAPIXELS) -> Tensor:
    """What `as_rgb` gives, except that 8-bit images stay uint8, in a quarter of the memory; see `unit_range`."""
    name = "image"
    if isinstance(image, str | Path):
        name, image = str(image), read_image(image, max_megapixels=max_megapixels)
    if isinstance(image, Image.Image):
        image = _decode(image, name)
    if isinstance(image, np.ndarray):
        image = as_tensor(image.transpose(2, 0, 1) if image.ndim == 3 else image)
    if not isinstance(image, Tensor):
        raise ValueError(f"an image is a path, a Pillow image, a NumPy array or a tensor, not {type(image).__name__}")
    if image.ndim == 2:
        image = image[None]
    if image.ndim != 3 or image.shape[0] not in (1, 3, 4):
        raise ValueError(
            f"{name}: shape {tuple(image.shape)} is no image; give tensors as 3×H×W and NumPy arrays as H×W×3 "
            "(1 or 4 channels, or H×W, are fine too)"
        )
    _check_size(image.shape[1:], name)
    return _as_known_type(image, name)[:3].expand(3, -1, -1)


def as_tensor(array: np.ndarray) -> Tensor:
    """A tensor of an array's values; they share memory unless that is read-only or not in order."""
    return torch.from_numpy(np.require(array, requirements=["C", "W"]))


def unit_range(planes: Tensor) -> Tensor:
    """Images of uint8 or floating point as float32; uint8 is scaled to 0..1."""
    return planes.float() / 255 if planes.dtype == torch.uint8 else planes.float()


def _as_known_type(image: Tensor, name: str) -> Tensor:
    if image.dtype == torch.uint8:
        return image
    if image.dtype == torch.uint16:
        return image.float() / 65535
    if not image.is_floating_point():
        raise ValueError(f"{name}: values of type {image.dtype}; give uint8, uint16 or floating point")
    if not torch.isfinite(image).all():
        raise ValueError(f"{name}: holds NaN or infinite values")
    return image.float()


def split_batch(images: ImageLike | Iterable[ImageLike]) -> list[ImageLike]:
    """The single images of one image, a batch (a 4-dimensional tensor or array) or several images."""
    if isinstance(images, Tensor | np.ndarray):
        return list(images) if images.ndim == 4 else [images]
    return [images] if isinstance(images, str | Path | Image.Image) else list(images)


def resize(image: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize a C×H×W float image to (height, width), bilinear, with antialiasing."""
    return F.interpolate(image[None], size=size, mode="bilinear", antialias=True, align_corners=False)[0]


def fit_long_side(size: tuple[int, int], long_side: int) -> tuple[int, int]:
    """(height, width) scaled so that the longer side is `long_side`, both at least 1; sides are rounded."""
    scale = long_side / max(size)
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def shrink(image: Tensor, long_side: int) -> Tensor:
    """A C×H×W image whose longer side is `long_side` pixels at most; one that is smaller stays as it is."""
    size = (image.shape[1], image.shape[2])
    return image if max(size) <= long_side else resize(image, fit_long_side(size, long_side))


def rescale_keypoints(keypoints: Tensor, from_size: tuple[int, int], to_size: tuple[int, int]) -> Tensor:
    """Move N×2 (x, y) keypoints with an image that is resized from (H, W) `from_size` to `to_size`.

    Pixel centres are integers, so a position p goes to (p + 0.5)·s − 0.5.
    """
    if from_size == to_size:
        return keypoints
    scale = keypoints.new_tensor([to_size[1] / from_size[1], to_size[0] / from_size[0]])
    return (keypoints + 0.5) * scale - 0.5


def turn_keypoints(keypoints: Tensor, size: tuple[int, int], quarter_turns: int) -> Tensor:
    """Move N×2 (x, y) keypoints with an image of (H, W) `size` that `torch.rot90(image, quarter_turns, (1, 2))` turns.

    A turn is counter-clockwise as one looks at the image, as `numpy.rot90` has it. Positions stay exact.
    """
    x, y = keypoints[:, 0], keypoints[:, 1]
    height, width = size
    match quarter_turns % 4:
        case 1:
            x, y = y, width - 1 - x
        case 2:
            x, y = width - 1 - x, height - 1 - y
        case 3:
            x, y = height - 1 - y, x
    return torch.stack([x, y], dim=-1)
