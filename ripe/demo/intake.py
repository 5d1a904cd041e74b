"""Photos that anybody may send: what is let in, and in plain words what is not.

A file is judged by its header before anything is decoded. CMYK files are converted, 16-bit grey files keep their depth,
transparency is dropped, EXIF orientation is applied; animations, drawings (SVG) and documents are refused.
"""

import warnings
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from ripe.images import read_image

MAX_FILE_BYTES = 30_000_000
MAX_PIXELS = 25_000_000
FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
ANIMATED_FORMATS = ("GIF", "PNG", "WEBP")


def read_upload(path: str | Path) -> np.ndarray:
    """An untrusted photo as H×W×3 RGB, uint8 or uint16.

    Raises:
        ValueError: too large, too small, damaged, animated or no photo; the message has the file's name without its
            folder, which is nobody's business but the server's.
    """
    path = Path(path)
    _check_header(path)
    try:
        return read_image(path)
    except ValueError as error:
        raise ValueError(str(error).replace(str(path), path.name)) from error


def _check_header(path: Path) -> None:
    size = path.stat().st_size
    if size > MAX_FILE_BYTES:
        raise ValueError(f"{path.name}: {size / 1e6:.0f} MB; files may have {MAX_FILE_BYTES / 1e6:.0f} MB at most")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # our own limit is lower
            with Image.open(path, formats=FORMATS) as image:
                (width, height), kind = image.size, image.format
                animated = kind in ANIMATED_FORMATS and getattr(image, "is_animated", False)
    except Image.DecompressionBombError as error:
        raise ValueError(_too_many_pixels(path.name)) from error
    except UnidentifiedImageError as error:
        raise ValueError(f"{path.name}: not a photo that can be read; send a JPEG, PNG, WebP or TIFF file") from error
    except (OSError, SyntaxError, ValueError) as error:
        raise ValueError(f"{path.name}: damaged or unreadable image") from error
    if width * height > MAX_PIXELS:
        raise ValueError(_too_many_pixels(f"{path.name}: {width}×{height} pixels"))
    if animated:
        raise ValueError(f"{path.name}: an animation; send one still photo")


def _too_many_pixels(what: str) -> str:
    return f"{what}: more than the {MAX_PIXELS // 1_000_000} million pixels that are allowed; send a smaller copy"
