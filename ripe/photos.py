"""Photos from files: RGB arrays, upright, by NumPy and Pillow alone."""

import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from PIL import ExifTags, Image, TiffImagePlugin, UnidentifiedImageError

MIN_SIDE = 16
MAX_MEGAPIXELS = 200.0
FORMATS = ("AVIF", "BMP", "GIF", "HEIF", "JPEG", "JPEG2000", "MPO", "PNG", "PPM", "TIFF", "WEBP")
"""Pillow's names of what is read, HEIF where a plug-in is registered. Others are no photos, such as EPS, a program that
Pillow would hand to Ghostscript, whatever the file is called."""
EXTENSIONS = frozenset({".bmp", ".jpeg", ".jpg", ".png", ".ppm", ".pgm", ".tif", ".tiff", ".webp"})
FLOAT_RANGES = (1, 255, 65535)
BAND_PIXELS = 1 << 20
AS_STORED: dict[int, Callable[[np.ndarray], np.ndarray]] = {
    2: lambda upright: upright[:, ::-1],
    3: lambda upright: upright[::-1, ::-1],
    4: lambda upright: upright[::-1],
    5: lambda upright: upright.swapaxes(0, 1),
    6: lambda upright: np.rot90(upright),
    7: lambda upright: upright[::-1, ::-1].swapaxes(0, 1),
    8: lambda upright: np.rot90(upright, -1),
}
"""The view of upright pixels, H×W×…, as the file has them, by its EXIF orientation."""
DECODING_BYTES = 7
"""For each pixel: four in Pillow's RGB, three in the array that is made of it."""
PROGRESSIVE_BYTES = 10
DEEP_BYTES = 24
WEBP_BYTES = 16

_opening = threading.Lock()


@dataclass(frozen=True)
class PhotoBytes:
    """A photo's file that is in memory, such as from a store of objects.

    Attributes:
        name: for messages.
        content: of the file.
    """

    name: str
    content: bytes

    def __str__(self) -> str:
        return self.name


PhotoFile = str | Path | PhotoBytes
"""A photo's file: where it is, or what it holds."""


def read_image(path: PhotoFile, *, max_megapixels: float = MAX_MEGAPIXELS) -> np.ndarray:
    """Read a photo as H×W×3 RGB; EXIF orientation is applied, alpha dropped.

    Args:
        path: of the file, or its content.
        max_megapixels: files of more million pixels are refused before they are decoded.

    Returns:
        uint8; uint16 for grey files of more than 8 bits. Floating-point values are those of the least of 0..1, 0..255
        and 0..65535 that holds all of them.

    Raises:
        FileNotFoundError: no such file.
        ValueError: no image of a kind that is read, a damaged one, a side has fewer than 16 pixels, there are too many
            pixels, or grey values are out of range; the message names the file.
    """
    with open_image(path) as image:
        check_megapixels(image, path, max_megapixels)
        return decode(image, str(path))


def check_mask_file(path: PhotoFile, image: object, size: tuple[int, ...]) -> None:
    """`check_mask_size` of a file, by its header: a small file may decode to any number of pixels.

    Raises:
        FileNotFoundError, ValueError: no such file, no image, or of another size; the message names it.
    """
    with open_image(path) as opened:
        with _named(str(path)):
            width, height = upright_size(opened)
        check_mask_size(path, image, (height, width), size)


def check_mask_size(mask: object, image: object, found: tuple[int, ...], size: tuple[int, ...]) -> None:
    """Raise a `ValueError` where a mask's (H, W) are not its image's; it names both if they are files."""
    if found != size:
        names = [str(one) if isinstance(one, PhotoFile) else None for one in (mask, image)]
        shown, wanted = ("×".join(map(str, reversed(shape))) for shape in (found, size))
        raise ValueError(
            f"{names[0] or 'a mask'} is {shown} pixels, and {names[1] or 'an image'} is {wanted}: a mask must have the "
            "size of its photo, as it is shown upright"
        )


def open_image(path: PhotoFile, formats: Sequence[str] = FORMATS) -> Image.Image:
    """Open a file with Pillow, which reads no more than its header, for use in a `with` statement.

    Pillow's own limit, a setting of the whole process, is set aside for that moment; see `check_megapixels`.

    Raises:
        FileNotFoundError, ValueError: no such file, or no image of these formats; the message names the file.
    """
    if isinstance(path, PhotoBytes):
        source: str | Path | BytesIO = BytesIO(path.content)
    elif Path(path).is_file():
        source = path
    else:
        raise FileNotFoundError(f"{path}: no such file")
    with _opening, _named(str(path)):
        pillows, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            Image.init()
            image = Image.open(source, formats=[name for name in formats if name in Image.OPEN])
        finally:
            Image.MAX_IMAGE_PIXELS = pillows
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        image.filename = ""  # else grey pixels are mapped from the file, in rows as long as those of the turned image
    return image


def check_megapixels(image: Image.Image, path: PhotoFile, limit: float) -> None:
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
        return int(value) if value in AS_STORED else 1
    except Exception:  # Pillow's readers of metadata fail on damage in every way that there is
        return 1


def stored_size(image: Image.Image) -> tuple[int, int]:
    """(width, height) of the pixels as they are stored in the file of an image that is opened but not yet loaded."""
    if isinstance(image, TiffImagePlugin.TiffImageFile):  # whose `size` is upright already in new releases of Pillow
        return image.tag_v2[TiffImagePlugin.IMAGEWIDTH], image.tag_v2[TiffImagePlugin.IMAGELENGTH]
    return image.size


def upright_size(image: Image.Image) -> tuple[int, int]:
    """(width, height) of an image that is opened but not yet loaded, as it is shown."""
    width, height = stored_size(image)
    return (height, width) if orientation(image) >= 5 else (width, height)


@contextmanager
def _named(name: str) -> Iterator[None]:
    """Whatever goes wrong in Pillow becomes a `ValueError` that says with which image."""
    try:
        yield
    except UnidentifiedImageError as error:
        raise ValueError(f"{name}: not an image, or of a kind that is not read") from error
    except Exception as error:  # damaged files make its decoders fail in every way that there is
        raise ValueError(f"{name}: damaged or unreadable image ({error or type(error).__name__})") from error


def decode(image: Image.Image, name: str) -> np.ndarray:
    """The pixels of an opened image as `read_image` gives them; a `ValueError` has its `name` if it cannot be used."""
    check_size(image.size[::-1], name)
    with _named(name):
        image.load()
        found = orientation(image)
        width, height = image.size
        size = (width, height) if found >= 5 else (height, width)
        as_stored = AS_STORED.get(found, lambda upright: upright)
        if _is_deep(image):
            values = np.asarray(image)
        else:
            upright = np.empty((*size, 3), dtype=np.uint8)
            stored = as_stored(upright)
            rows = max(1, BAND_PIXELS // width)
            for top in range(0, height, rows):  # NumPy's copy of a whole image takes that of its bytes beside it
                count = min(rows, height - top)
                # A mere copy; `crop` would do, but looks at Pillow's own limit of pixels.
                band = image.resize((width, count), Image.Resampling.NEAREST, box=(0, top, width, top + count))
                stored[top : top + count] = np.asarray(band.convert("RGB"))
            return upright
    deep = np.empty((*size, 3), dtype=np.uint16)
    as_stored(deep)[...] = _levels(values, name)[:, :, None]
    return deep


def decoding_bytes(image: Image.Image) -> int:
    """What memory `decode` takes at most for an image that is opened but not yet loaded, itself included."""
    each = DECODING_BYTES
    if _is_deep(image):
        each = DEEP_BYTES
    elif image.format == "WEBP":
        each = WEBP_BYTES
    elif image.info.get("progressive"):
        each = PROGRESSIVE_BYTES
    return each * image.size[0] * image.size[1]


def decoded_bytes(image: Image.Image) -> int:
    """What its pixels take as `ripe.images.as_planes` holds them: three of a byte each, or of four if it is deep."""
    return (12 if _is_deep(image) else 3) * image.size[0] * image.size[1]


def _is_deep(image: Image.Image) -> bool:
    """Whether its grey values have more than 8 bits."""
    return image.mode in ("F", "I") or image.mode.startswith("I;16")


def _levels(grey: np.ndarray, name: str) -> np.ndarray:
    """Grey values H×W, whole or floating-point, as uint16."""
    low, high = grey.min(), grey.max()
    ranges = FLOAT_RANGES if grey.dtype.kind == "f" else FLOAT_RANGES[-1:]
    top = next((top for top in ranges if low >= 0 and high <= top), None)
    if top is None:
        wanted = ", ".join(f"0..{top}" for top in ranges)
        raise ValueError(f"{name}: grey values from {low:g} to {high:g}; bring them to {wanted}")
    return (np.rint(grey * (65535 / top)) if grey.dtype.kind == "f" else grey).astype(np.uint16)


def check_size(size: Sequence[int], name: str) -> None:
    """Raise a `ValueError` that names an image of (H, W) `size` if that is too small."""
    if min(size) < MIN_SIDE:
        raise ValueError(f"{name}: {size[1]}×{size[0]} pixels; both sides need {MIN_SIDE} or more")


def check_numbers(array: np.ndarray, name: str) -> None:
    """Raise a `ValueError` that names an array unless it holds real numbers or booleans."""
    if array.dtype.kind not in "biuf":
        raise ValueError(f"{name}: values of type {array.dtype}; give numbers")


def singles(images: Any) -> list[Any]:
    """The single images of one or several that are no arrays; what is no image is one of its own, refused later."""
    several = isinstance(images, Iterable) and not isinstance(images, bytes | PhotoFile | Image.Image)
    return list(images) if several else [images]


def check_long_side(resize: int | None) -> None:
    """Raise a `ValueError` if photos cannot be brought to a longer side of `resize` pixels; None is none at all."""
    if resize is not None and resize < MIN_SIDE:
        raise ValueError(f"resize is {resize}; the longer side needs {MIN_SIDE} pixels or more")


def fit_long_side(size: tuple[int, int], long_side: int) -> tuple[int, int]:
    """(height, width) scaled so that the longer side is `long_side`, both at least 1; sides are rounded."""
    scale = long_side / max(size)
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))
