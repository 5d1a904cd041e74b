"""Images in: files, arrays and tensors become RGB tensors; sizes change and keypoints find their way back."""

from collections.abc import Iterable

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from ripe.photos import EXTENSIONS as EXTENSIONS
from ripe.photos import MAX_MEGAPIXELS as MAX_MEGAPIXELS
from ripe.photos import MIN_SIDE as MIN_SIDE
from ripe.photos import PhotoFile as PhotoFile
from ripe.photos import check_megapixels as check_megapixels
from ripe.photos import check_numbers, check_size, decode, singles
from ripe.photos import fit_long_side as fit_long_side
from ripe.photos import open_image as open_image
from ripe.photos import orientation as orientation
from ripe.photos import read_image as read_image
from ripe.photos import stored_size as stored_size
from ripe.photos import upright_size as upright_size

ImageLike = Tensor | np.ndarray | Image.Image | PhotoFile


def as_rgb(image: ImageLike, *, max_megapixels: float = MAX_MEGAPIXELS) -> Tensor:
    """A 3×H×W float32 RGB tensor of any accepted image; integers are scaled to 0..1, grey is repeated, alpha dropped.

    Args:
        image: a path; a `PhotoBytes`; a Pillow image (turned upright by its EXIF orientation, as files are); a NumPy
            array H×W, H×W×1, H×W×3 or H×W×4 (RGB order); or a tensor H×W, 1×H×W, 3×H×W or 4×H×W. uint8, uint16 or
            floating point.
        max_megapixels: larger files are refused.

    Raises:
        FileNotFoundError, ValueError: with the file or the shape, type or value that is wrong.
    """
    return unit_range(as_planes(image, max_megapixels=max_megapixels))


def as_planes(image: ImageLike, *, max_megapixels: float = MAX_MEGAPIXELS) -> Tensor:
    """What `as_rgb` gives, except that 8-bit images stay uint8, in a quarter of the memory; see `unit_range`."""
    name = "image"
    if isinstance(image, PhotoFile):
        name, image = str(image), read_image(image, max_megapixels=max_megapixels)
    if isinstance(image, Image.Image):
        image = decode(image, name)
    if isinstance(image, np.ndarray):
        check_numbers(image, name)
        image = as_tensor(image.transpose(2, 0, 1) if image.ndim == 3 else image)
    if not isinstance(image, Tensor):
        raise ValueError(f"an image is a path, a Pillow image, a NumPy array or a tensor, not {type(image).__name__}")
    check_dense(image, name)
    if image.ndim == 2:
        image = image[None]
    if image.ndim != 3 or image.shape[0] not in (1, 3, 4):
        raise ValueError(
            f"{name}: shape {tuple(image.shape)} is no image; give tensors as 3×H×W and NumPy arrays as H×W×3 "
            "(1 or 4 channels, or H×W, are fine too)"
        )
    check_size(image.shape[1:], name)
    return _as_known_type(image, name)[:3].expand(3, -1, -1)


def as_tensor(array: np.ndarray) -> Tensor:
    """A tensor of an array's numbers; they share memory unless that is read-only or not in order.

    Numbers of more than 64 bits, which PyTorch does not have, become float64.
    """
    kind = np.float64 if array.dtype.char == "g" else array.dtype.newbyteorder("=")
    return torch.from_numpy(np.require(array, kind, requirements=["C", "W"]))


def check_dense(tensor: Tensor, name: str) -> None:
    """Raise a `ValueError` unless a tensor holds a number for each element: sparse, quantised and meta ones do not."""
    if tensor.layout != torch.strided or tensor.is_quantized or tensor.is_nested or tensor.is_meta:
        raise ValueError(f"{name}: a tensor without its numbers (sparse, quantised, nested or meta); give a dense one")


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
    image = image.float()  # to which large numbers of float64 are infinite
    if not torch.isfinite(image).all():
        raise ValueError(f"{name}: holds NaN or infinite values")
    return image


def split_batch(images: ImageLike | Iterable[ImageLike]) -> list[ImageLike]:
    """The single images of one image, a batch (a 4-dimensional tensor or array) or several images."""
    if isinstance(images, Tensor | np.ndarray):
        return list(images) if images.ndim == 4 else [images]
    return singles(images)


def resize(image: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize a C×H×W float image to (height, width), bilinear, with antialiasing."""
    return F.interpolate(image[None], size=size, mode="bilinear", antialias=True, align_corners=False)[0]


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
