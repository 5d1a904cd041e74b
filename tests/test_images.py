"""Images of every kind and in every state."""

import struct
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import ExifTags, Image, ImageOps

from ripe.images import (
    as_rgb,
    fit_long_side,
    open_image,
    orientation,
    read_image,
    rescale_keypoints,
    resize,
    split_batch,
    stored_size,
    upright_size,
)

NUMPY_RNG = np.random.default_rng(0)
PIXELS = NUMPY_RNG.integers(0, 256, (24, 40, 3), dtype=np.uint8)


def save(path: Path, pixels: np.ndarray, mode: str | None = None, **options: object) -> Path:
    image = Image.fromarray(pixels)
    (image.convert(mode) if mode else image).save(path, **options)
    return path


def assert_image_or_named(path: Path) -> None:
    """Nothing but a `ValueError` that names the file may come of damage, so that one file cannot end a long run."""
    try:
        pixels = read_image(path)
    except ValueError as error:
        message = str(error)
    else:
        assert pixels.ndim == 3
        return
    assert str(path) in message


def test_exif_orientation_is_applied(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was held so that the file must be turned by 90° clockwise
    path = save(tmp_path / "turned.png", PIXELS, exif=exif)
    np.testing.assert_array_equal(read_image(path), np.rot90(PIXELS, -1))


@pytest.mark.parametrize("compression", ["raw", "tiff_lzw"])
@pytest.mark.parametrize("shape", [(24, 20), (24, 20, 3)])
def test_turned_tiffs_are_upright(tmp_path: Path, shape: tuple[int, ...], compression: str) -> None:
    """Pillow 12.3 reads uncompressed grey ones in rows of the wrong length."""
    pixels = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    path = tmp_path / "turned.tif"
    Image.fromarray(pixels).save(path, tiffinfo={ExifTags.Base.Orientation: 6}, compression=compression)
    found = read_image(path)
    np.testing.assert_array_equal(found, np.broadcast_to(np.rot90(pixels, -1).reshape(20, 24, -1), (20, 24, 3)))
    with open_image(path) as opened:
        assert upright_size(opened) == (24, 20)


SIZES = {2: 1, 3: 2, 4: 4, 5: 8, 7: 1, 10: 8, 12: 8}
"""Bytes of a value, by the type's number in EXIF."""


def exif_with(tag: int, kind: int, value: bytes) -> bytes:
    """EXIF data with orientation 6 and one other tag."""
    entries, tail = b"", b""
    for key, number, content in sorted([(0x0112, 3, struct.pack("<H", 6)), (tag, kind, value)]):
        place = struct.pack("<I", 8 + 2 + 2 * 12 + 4 + len(tail)) if len(content) > 4 else content.ljust(4, b"\0")
        entries += struct.pack("<HHI", key, number, len(content) // SIZES[number]) + place
        tail += content if len(content) > 4 else b""
    return b"Exif\0\0II*\0" + struct.pack("<IH", 8, 2) + entries + struct.pack("<I", 0) + tail


BROKEN_TAGS = {
    "XResolution, signed": (0x011A, 10, struct.pack("<ii", -72, 1)),
    "XResolution, text": (0x011A, 2, b"seventy\0"),
    "Make, a fraction": (0x010F, 5, struct.pack("<II", 1, 0)),
    "Make, a number": (0x010F, 12, struct.pack("<d", 1.5)),
    "ImageWidth, text": (0x0100, 2, b"forty\0"),
    "Exif, text": (0x8769, 2, b"nowhere\0"),
    "GPS, beyond the end": (0x8825, 4, struct.pack("<I", 99999)),
}


@pytest.mark.filterwarnings("ignore:.*(EXIF|Metadata):UserWarning")
@pytest.mark.parametrize("tag", BROKEN_TAGS)
def test_a_photo_beside_a_broken_tag_is_read_and_upright(tmp_path: Path, tag: str) -> None:
    path = save(tmp_path / "a.jpg", PIXELS, exif=exif_with(*BROKEN_TAGS[tag]))
    plain = read_image(save(tmp_path / "plain.jpg", PIXELS))
    np.testing.assert_array_equal(read_image(path), np.rot90(plain, -1))


@settings(max_examples=60, deadline=None)
@given(st.binary(max_size=60), st.sampled_from(["jpg", "png", "webp"]))
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_any_metadata_leaves_the_pixels_readable(
    tmp_path_factory: pytest.TempPathFactory, content: bytes, kind: str
) -> None:
    path = tmp_path_factory.mktemp("metadata") / f"a.{kind}"
    save(path, PIXELS, exif=b"Exif\0\0II*\0\x08\0\0\0" + content)
    assert read_image(path).shape in {(24, 40, 3), (40, 24, 3)}


@pytest.mark.parametrize("turned", range(1, 9))
def test_every_orientation_is_what_pillow_makes_of_it(tmp_path: Path, turned: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = turned
    for name in ("a.png", "a.tif", "a.jpg"):
        path = save(tmp_path / name, PIXELS, exif=exif)
        with Image.open(path) as image:
            expected = np.asarray(ImageOps.exif_transpose(image))
        np.testing.assert_array_equal(read_image(path), expected)
        with open_image(path) as image:
            assert (stored_size(image), orientation(image)) == ((40, 24), turned)


def test_16_bit_grey_keeps_its_depth(tmp_path: Path) -> None:
    grey = NUMPY_RNG.integers(0, 65536, (20, 30), dtype=np.uint16)
    image = as_rgb(save(tmp_path / "deep.png", grey))
    torch.testing.assert_close(image[0], torch.from_numpy(grey.astype(np.float32)) / 65535)
    assert torch.equal(image[0], image[2])


@pytest.mark.parametrize("top", [1, 255, 65535])
def test_floating_point_tiffs_are_read_by_their_range(tmp_path: Path, top: int) -> None:
    grey = np.random.default_rng(1).random((20, 30)).astype(np.float32)
    grey[0, 0] = 1
    image = as_rgb(save(tmp_path / "a.tif", grey * top))
    torch.testing.assert_close(image, torch.from_numpy(grey).expand(3, -1, -1), rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    "grey",
    [
        np.full((20, 30), -0.5, dtype=np.float32),
        np.full((20, 30), 70_000, dtype=np.float32),
        np.full((20, 30), np.nan, dtype=np.float32),
        np.full((20, 30), 70_000, dtype=np.int32),
        np.full((20, 30), -1, dtype=np.int32),
    ],
)
def test_grey_values_without_a_known_range_are_refused_by_name(tmp_path: Path, grey: np.ndarray) -> None:
    with pytest.raises(ValueError, match=r"a\.tif: grey values from .* bring them to 0\.\."):
        read_image(save(tmp_path / "a.tif", grey))


def test_the_limit_of_pixels_is_ours_and_can_be_raised(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save(tmp_path / "a.png", np.zeros((1000, 1100), dtype=np.uint8))
    with pytest.raises(ValueError, match=r"a\.png: 1100×1000 pixels, 1 million, where the limit is 1; raise it"):
        read_image(path, max_megapixels=1)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)  # Pillow would refuse 200 and more
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert read_image(path, max_megapixels=1.1).shape == (1000, 1100, 3)
        assert as_rgb(path).shape == (3, 1000, 1100)
    assert Image.MAX_IMAGE_PIXELS == 100


def test_read_only_arrays_are_taken_without_a_warning() -> None:
    torch.set_warn_always(True)  # PyTorch would warn only once in a process
    try:
        for array in (PIXELS[:, :, 0].copy(), PIXELS.copy()):
            array.flags.writeable = False
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                assert as_rgb(array).shape == (3, 24, 40)
    finally:
        torch.set_warn_always(False)


def test_pillow_images_are_what_their_files_are(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    grey = NUMPY_RNG.integers(0, 65536, (20, 30), dtype=np.uint16)
    for path in (
        save(tmp_path / "turned.jpg", PIXELS, exif=exif),
        save(tmp_path / "turned.tif", PIXELS, exif=exif),
        save(tmp_path / "palette.png", PIXELS, "P"),
        save(tmp_path / "deep.png", grey),
    ):
        with Image.open(path) as image:
            torch.testing.assert_close(as_rgb(image), as_rgb(path), rtol=0, atol=0)
            assert split_batch(image) == [image]


@pytest.mark.parametrize(("mode", "name"), [("L", "a.png"), ("RGBA", "a.png"), ("CMYK", "a.jpg"), ("P", "a.png")])
def test_every_colour_mode_becomes_rgb(tmp_path: Path, mode: str, name: str) -> None:
    image = as_rgb(save(tmp_path / name, PIXELS, mode))
    assert image.shape == (3, 24, 40)
    assert image.dtype == torch.float32
    assert 0 <= image.min() <= image.max() <= 1


def test_alpha_is_dropped_and_not_blended(tmp_path: Path) -> None:
    transparent = np.dstack([PIXELS, np.zeros(PIXELS.shape[:2], dtype=np.uint8)])
    np.testing.assert_array_equal(read_image(save(tmp_path / "a.png", transparent)), PIXELS)


def test_text_named_jpg_is_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "text.jpg"
    path.write_text("no image")
    with pytest.raises(ValueError, match=r"text\.jpg: not an image"):
        read_image(path)


def test_missing_file_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"missing\.jpg"):
        read_image(tmp_path / "missing.jpg")


@pytest.mark.parametrize("shape", [(1, 1), (15, 100), (100, 15)])
def test_less_than_16_pixels_is_refused_by_name(tmp_path: Path, shape: tuple[int, int]) -> None:
    path = save(tmp_path / "tiny.png", np.zeros((*shape, 3), dtype=np.uint8))
    with pytest.raises(ValueError, match=rf"tiny\.png: {shape[1]}×{shape[0]} pixels"):
        read_image(path)


@settings(max_examples=60, deadline=None)
@given(keep=st.floats(0, 0.9), kind=st.sampled_from(["jpg", "png", "tif", "webp", "bmp"]))
def test_a_truncated_file_is_a_value_error_or_an_image(
    tmp_path_factory: pytest.TempPathFactory, keep: float, kind: str
) -> None:
    path = save(tmp_path_factory.mktemp("cut") / f"cut.{kind}", PIXELS)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * keep)])
    assert_image_or_named(path)


@settings(max_examples=60, deadline=None)
@given(
    position=st.floats(0, 1, exclude_max=True), value=st.integers(0, 255), kind=st.sampled_from(["jpg", "png", "tif"])
)
def test_a_changed_byte_is_a_value_error_or_an_image(
    tmp_path_factory: pytest.TempPathFactory, position: float, value: int, kind: str
) -> None:
    path = save(tmp_path_factory.mktemp("changed") / f"changed.{kind}", PIXELS)
    content = bytearray(path.read_bytes())
    content[int(position * len(content))] = value
    path.write_bytes(bytes(content))
    assert_image_or_named(path)


def test_arrays_tensors_and_files_agree(tmp_path: Path) -> None:
    expected = torch.from_numpy(PIXELS).permute(2, 0, 1).float() / 255
    deep = PIXELS.astype(np.uint16) * 257
    for image in (
        save(tmp_path / "a.png", PIXELS),
        str(tmp_path / "a.png"),
        PIXELS,
        np.asfortranarray(PIXELS),
        deep,
        np.dstack([PIXELS, np.zeros(PIXELS.shape[:2], dtype=np.uint8)]),
        PIXELS.astype(np.float64) / 255,
        torch.from_numpy(PIXELS).permute(2, 0, 1),
        expected,
    ):
        torch.testing.assert_close(as_rgb(image), expected)


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((20, 20, 2)),
        torch.zeros(2, 20, 20),
        torch.zeros(1, 3, 20, 20),
        np.zeros((20, 20), dtype=np.int64),
        np.full((20, 20), np.nan),
        3,
    ],
)
def test_what_is_no_image_is_refused(image: object) -> None:
    with pytest.raises(ValueError, match="image"):
        as_rgb(image)  # type: ignore[arg-type]


def test_split_batch_takes_one_image_or_many() -> None:
    image = torch.zeros(3, 20, 20)
    assert len(split_batch(image)) == 1
    assert len(split_batch(torch.zeros(4, 3, 20, 20))) == 4
    assert len(split_batch([image, image])) == 2
    assert split_batch("a.jpg") == ["a.jpg"]


@given(st.integers(1, 4000), st.integers(1, 4000), st.integers(16, 4000))
def test_fit_long_side_keeps_the_ratio(height: int, width: int, long_side: int) -> None:
    fitted = fit_long_side((height, width), long_side)
    assert max(fitted) == long_side
    scale = long_side / max(height, width)
    assert abs(fitted[0] - height * scale) <= 1
    assert abs(fitted[1] - width * scale) <= 1


def test_keypoints_follow_a_resized_image() -> None:
    """A dot stays under its keypoint: pixel centres are integers."""
    image = torch.zeros(3, 64, 96)
    image[:, 20:24, 40:44] = 1
    small = resize(image, (16, 24))
    row, column = divmod(int(small[0].argmax()), 24)
    moved = rescale_keypoints(torch.tensor([[41.5, 21.5]]), (64, 96), (16, 24))
    torch.testing.assert_close(moved, torch.tensor([[float(column), float(row)]]))
    torch.testing.assert_close(rescale_keypoints(moved, (16, 24), (64, 96)), torch.tensor([[41.5, 21.5]]))
