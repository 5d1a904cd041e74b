"""EXIF: whatever a camera or a stranger wrote there, the photo is read, and cameras are numbers or None."""

import io
import math
import struct
from contextlib import nullcontext
from pathlib import Path

import numpy as np
from harness import Provider, pick, refusing, run, scratch, watched

with watched():
    from PIL import Image

    from ripe.geometry.intrinsics import exif_focal_length
    from ripe.images import as_rgb, orientation, read_image, stored_size
    from ripe.photos import open_image

FILES = scratch()
KINDS = ("JPEG", "PNG", "WEBP", "TIFF")
PIXELS = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
# Of the TIFF entries that are looked at, and that lead elsewhere.
TAGS = (0x0112, 0x8769, 0x8825, 0xA005, 0xA405, 0x0100, 0x0101, 0x011A, 0x010F, 0x927C)
PLAIN = {kind: io.BytesIO() for kind in KINDS}
for _kind, _content in PLAIN.items():
    Image.fromarray(PIXELS).save(_content, _kind)


def section(provider: Provider) -> bytes:
    """An EXIF section: entries of any tag, type, count and place."""
    order = pick(provider, "<>")
    entries = b""
    count = provider.ConsumeIntInRange(0, 6)
    for _ in range(count):
        tag = pick(provider, TAGS) if provider.ConsumeBool() else provider.ConsumeUInt(2)
        kind = provider.ConsumeIntInRange(0, 14)
        number = pick(provider, (1, 1, 1, 0, 2, 4, 1000, 2**31, 2**32 - 1))
        value = pick(provider, (1, 6, 8, 9, 26, 38, 50, 2**31, 2**32 - 1)) if provider.ConsumeBool() else None
        value = provider.ConsumeUInt(4) if value is None else value
        entries += struct.pack(f"{order}HHII", tag & 0xFFFF, kind, number, value & 0xFFFFFFFF)
    head = (b"II" if order == "<" else b"MM") + struct.pack(f"{order}HI", 42, 8)
    said = count if provider.ConsumeBool() else provider.ConsumeUInt(2)
    return head + struct.pack(f"{order}H", said & 0xFFFF) + entries + provider.ConsumeBytes(200)


def target(provider: Provider) -> None:
    """One section in a whole photo of each format."""
    kind = pick(provider, KINDS)
    path = FILES / f"photo.{kind.lower()}"
    written = io.BytesIO()
    try:
        Image.fromarray(PIXELS).save(written, kind, exif=b"Exif\0\0" + section(provider))
    except Exception:  # TIFF files hold the section's entries among their own, which Pillow understands or not
        written = PLAIN[kind]
    path.write_bytes(written.getvalue())
    # The entries of TIFF files say where the pixels are, too.
    with refusing(path) if kind == "TIFF" else nullcontext():
        check(path)


def check(path: Path) -> None:
    """The photo is read as it is, whatever its metadata are."""
    pixels = read_image(path)
    assert tuple(as_rgb(path).shape[1:]) == pixels.shape[:2]
    with open_image(path) as image:
        turned = orientation(image) >= 5
        width, height = stored_size(image)
    # Pillow writes TIFF files of the size that the section says.
    assert path.suffix == ".tiff" or (width, height) == (30, 20)
    assert pixels.shape == ((width, height, 3) if turned else (height, width, 3))
    focal = exif_focal_length(path)
    assert focal is None or 0 < focal < math.inf


if __name__ == "__main__":
    run(target)
