"""Photos from files, in every format that Pillow writes, damaged or not: `ripe.images` and `ripe.photos`."""

import io

import numpy as np
from harness import Provider, pick, refusing, run, scratch, spoilt, watched

with watched():
    from PIL import Image

    from ripe.images import as_rgb, orientation, read_image, stored_size
    from ripe.photos import open_image

FILE = scratch() / "photo"
MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr", "LAB", "HSV", "I;16", "I", "F")
KINDS = {
    "AVIF": ({},),
    "BMP": ({},),
    "EPS": ({},),
    "GIF": ({},),
    "ICO": ({},),
    "JPEG": ({}, {"progressive": True}, {"quality": 1, "subsampling": 2}),
    "JPEG2000": ({}, {"irreversible": True}),
    "PCX": ({},),
    "PNG": ({}, {"bits": 4}),
    "PPM": ({},),
    "SGI": ({},),
    "TGA": ({}, {"compression": "tga_rle"}),
    "TIFF": tuple({"compression": name} for name in ("raw", "packbits", "tiff_lzw", "jpeg", "tiff_adobe_deflate")),
    "WEBP": ({}, {"lossless": True}),
}
IN_JPEG = ("L", "LA", "RGB", "RGBA", "CMYK", "YCbCr", "LAB")
"""What TIFF holds as JPEG. Where libtiff refuses to write it, as of other modes, Pillow's writer spoils the process's
memory, as it does with some tags that come in by EXIF, whatever the compression (12.3.0 with libtiff 4.7.1)."""
MEGAPIXELS = 1


def encoded(provider: Provider) -> bytes:
    """A small photo in some format; nothing where that cannot hold its mode."""
    kind = pick(provider, sorted(KINDS))
    options = dict(pick(provider, KINDS[kind]))
    size = provider.ConsumeIntInRange(1, 40), provider.ConsumeIntInRange(12, 40)
    image = Image.fromarray(np.random.default_rng(provider.ConsumeIntInRange(0, 3)).integers(0, 256, size, np.uint8))
    in_jpeg = options.get("compression") == "jpeg"
    by_libtiff = kind == "TIFF" and options["compression"] != "raw"
    if provider.ConsumeBool() and not by_libtiff:
        options["exif"] = b"Exif\0\0II*\0\x08\0\0\0" + spoilt(provider, b"\1\0\x12\1\3\0\1\0\0\0\6\0\0\0\0\0\0\0")
    content = io.BytesIO()
    mode = pick(provider, IN_JPEG if in_jpeg else MODES)
    try:
        image.convert(mode).save(content, kind, **options)
    except Exception:  # what Pillow does not write
        return b""
    return content.getvalue()


def target(provider: Provider) -> None:
    """One file: it is read, or refused by name, by each of the functions that read photos."""
    made = provider.ConsumeBool()
    FILE.write_bytes(spoilt(provider, encoded(provider)) if made else provider.ConsumeBytes(4096))
    with refusing(FILE):
        pixels = read_image(FILE, max_megapixels=MEGAPIXELS)
        assert pixels.ndim == 3
        assert pixels.shape[2] == 3
        assert min(pixels.shape[:2]) >= 16
        assert pixels.size <= 3e6 * MEGAPIXELS
        assert pixels.dtype in (np.uint8, np.uint16)
        image = as_rgb(FILE, max_megapixels=MEGAPIXELS)
        assert tuple(image.shape) == (3, *pixels.shape[:2])
        assert 0 <= image.min() <= image.max() <= 1
    with refusing(FILE), open_image(FILE) as opened:
        assert 1 <= orientation(opened) <= 8
        assert min(stored_size(opened)) >= 0


if __name__ == "__main__":
    run(target)
