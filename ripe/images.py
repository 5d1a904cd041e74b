"""Photos in: files, arrays and tensors become RGB tensors; sizes change and keypoints find their way back."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

MIN_SIDE = 16
EXTENSIONS = frozenset({".bmp", ".jpeg", ".jpg", ".png", ".ppm", ".pgm", ".tif", ".tiff", ".webp"})

ImageLike = Tensor | np.ndarray | str | Path


def read_image(path: str | Path) -> np.ndarray:
    """Read a photo as H×W×3 RGB, uint8, or uint16 for 16-bit grey files; EXIF orientation is applied, alpha dropped.

    Raises:
        FileNotFoundError: no such file.
        ValueError: no image that Pillow can decode, or a side has fewer than 16 pixels; the message names the file.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    try:
        with Image.open(path) as file:
            pixels = _decode(file)
    except UnidentifiedImageError as error:
        raise ValueError(f"{path}: not an image, or of a kind that Pillow cannot read") from error
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ValueError(f"{path}: damaged or unreadable image ({error})") from error
    _check_size(pixels.shape[:2], str(path))
    return pixels


def _decode(file: Image.Image) -> np.ndarray:
    upright = ImageOps.exif_transpose(file)
    if upright.mode.startswith("I;16") or upright.mode == "I":
        grey = np.clip(np.asarray(upright), 0, 65535).astype(np.uint16)
        return np.repeat(grey[:, :, None], 3, axis=2)
    return np.asarray(upright.convert("RGB"))


def _check_size(size: Sequence[int], name: str) -> None:
    if min(size) < MIN_SIDE:
        raise ValueError(f"{name}: {size[1]}×{size[0]} pixels; both sides need {MIN_SIDE} or more")


def as_rgb(image: ImageLike) -> Tensor:
    """A 3×H×W float32 RGB tensor of any accepted image; integers are scaled to 0..1, grey is repeated, alpha dropped.

    Args:
        image: a path; a NumPy array H×W, H×W×1, H×W×3 or H×W×4 (RGB order); or a tensor H×W, 1×H×W, 3×H×W or 4×H×W.
            uint8, uint16 or floating point.

    Raises:
        FileNotFoundError, ValueError, TypeError: with the file or the shape, type or value that is wrong.
    """
    name = "image"
    if isinstance(image, str | Path):
        name, image = str(image), read_image(image)
    if isinstance(image, np.ndarray):
        if image.ndim == 3:
            image = image.transpose(2, 0, 1)
        image = torch.from_numpy(np.ascontiguousarray(image))
    if not isinstance(image, Tensor):
        raise TypeError(f"an image is a path, a NumPy array or a tensor, not {type(image).__name__}")
    if image.ndim == 2:
        image = image[None]
    if image.ndim != 3 or image.shape[0] not in (1, 3, 4):
        raise ValueError(
            f"{name}: shape {tuple(image.shape)} is no image; give tensors as 3×H×W and NumPy arrays as H×W×3 "
            "(1 or 4 channels, or H×W, are fine too)"
        )
    _check_size(image.shape[1:], name)
    return _as_unit_range(image, name)[:3].expand(3, -1, -1)


def _as_unit_range(image: Tensor, name: str) -> Tensor:
    if image.dtype == torch.uint8:
        return image.float() / 255
    if image.dtype == torch.uint16:
        return image.float() / 65535
    if not image.is_floating_point():
        raise TypeError(f"{name}: values of type {image.dtype}; give uint8, uint16 or floating point")
    if not torch.isfinite(image).all():
        raise ValueError(f"{name}: holds NaN or infinite values")
    return image.float()


def split_batch(images: ImageLike | Sequence[ImageLike]) -> list[ImageLike]:
    """The single images of one image, a batch (a 4-dimensional tensor or array) or a sequence of images."""
    if isinstance(images, Tensor | np.ndarray):
        return list(images) if images.ndim == 4 else [images]
    return [images] if isinstance(images, str | Path) else list(images)


def resize(image: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize a C×H×W float image to (height, width), bilinear, with antialiasing."""
    return F.interpolate(image[None], size=size, mode="bilinear", antialias=True, align_corners=False)[0]


def fit_long_side(size: tuple[int, int], long_side: int) -> tuple[int, int]:
    """(height, width) scaled so that the longer side is `long_side`, both at least 1; sides are rounded."""
    scale = long_side / max(size)
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def rescale_keypoints(keypoints: Tensor, from_size: tuple[int, int], to_size: tuple[int, int]) -> Tensor:
    """Move N×2 (x, y) keypoints with an image that is resized from (H, W) `from_size` to `to_size`.

    Pixel centres are integers, so a position p goes to (p + 0.5)·s − 0.5.
    """
    if from_size == to_size:
        return keypoints
    scale = keypoints.new_tensor([to_size[1] / from_size[1], to_size[0] / from_size[0]])
    return (keypoints + 0.5) * scale - 0.5
