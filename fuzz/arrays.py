"""Images as arrays, tensors and Pillow images of any type, stride and shape."""

import math
from typing import Any

from harness import Provider, pick, run, watched

with watched():
    import numpy as np
    import torch
    from PIL import Image

    from ripe import runtime
    from ripe.images import as_rgb, split_batch
    from ripe.pretrained import build

torch.manual_seed(0)
MODEL = build("compact").eval()
ONNX = runtime.load()
SIDES = (0, 1, 2, 3, 4, 15, 16, 17, 24)
NUMPY_TYPES = (
    *("u1", "u1", "<u2", ">u2", "<f4", ">f4", "<f8", "f2", "g", "i1", "<i8", "?", "<c8", "U2", "S2", "O", "M8[s]"),
    "<f4,<i2",
)
TORCH_TYPES = (
    *(torch.uint8, torch.uint16, torch.float32, torch.float16, torch.bfloat16, torch.float64, torch.int64, torch.bool),
    *(torch.complex64, torch.uint32, torch.float8_e4m3fn),
)
MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "LAB", "HSV", "I;16", "I;16B", "I", "F")
OPTIONS: tuple[dict[str, Any], ...] = ({}, {"resize": 20}, {"resize": 16, "enlarge": False}, {"max_keypoints": 3})
FILLS = (0, 1, 0.5, 255, -1, math.nan, math.inf, 1e300, 70000)


def shape(provider: Provider) -> list[int]:
    """Of an image, mostly."""
    if provider.ConsumeBool():
        size = [pick(provider, (16, 17, 24)), pick(provider, (16, 20))]
        return pick(provider, ([*size, 3], [3, *size], size, [*size, 1], [*size, 4], [2, *size, 3], [2, 3, *size]))
    return [pick(provider, SIDES) for _ in range(provider.ConsumeIntInRange(0, 5))]


def array(provider: Provider) -> np.ndarray:
    """An array of any type, shape and order."""
    dtype, fill = np.dtype(pick(provider, NUMPY_TYPES)), pick(provider, FILLS)
    sides = shape(provider)
    if dtype.names is not None or dtype.kind in "MSUO":
        values = np.zeros(sides, dtype)
    else:
        with np.errstate(all="ignore"):
            values = (np.random.default_rng(0).random(sides) * fill).astype(dtype)
    for axis in range(values.ndim):
        match provider.ConsumeIntInRange(0, 5):
            case 0:
                values = np.flip(values, axis)
            case 1:
                values = np.broadcast_to(values.take([0], axis), values.shape) if values.size else values
            case 2:
                values = np.repeat(values, 2, axis)[(slice(None),) * axis + (slice(None, None, 2),)]
    if values.ndim > 1 and not provider.ConsumeIntInRange(0, 4):
        values = np.asfortranarray(values)
    if values.ndim and provider.ConsumeBool():
        values = values.view()
        values.flags.writeable = False
    match provider.ConsumeIntInRange(0, 12):
        case 0:
            return np.ma.masked_array(values, mask=np.zeros(values.shape, bool)) if dtype.kind in "iuf" else values
        case 1 if values.ndim == 2 and dtype.kind in "iuf":
            return np.asmatrix(values)
    return values


def tensor(provider: Provider) -> torch.Tensor:
    """A tensor of any type, layout and stride."""
    dtype, fill = pick(provider, TORCH_TYPES), pick(provider, FILLS)
    values = (torch.rand(shape(provider)) * fill).to(dtype)
    match provider.ConsumeIntInRange(0, 9):
        case 0:
            return values.to_sparse() if dtype == torch.float32 else values
        case 1:
            return values.to("meta")
        case 2 if dtype == torch.float32 and math.isfinite(fill):
            return torch.quantize_per_tensor(values, 0.1, 0, torch.quint8)
        case 3 if values.is_floating_point():
            return values.requires_grad_()
        case 4 if values.ndim:
            return values.transpose(0, -1)
        case 5 if values.ndim and values.shape[0]:
            return values[:1].expand_as(values)
        case 6 if dtype == torch.complex64:
            return values.conj()
    return values


def picture(provider: Provider) -> Image.Image:
    """A Pillow image of any mode, size and metadata."""
    image = Image.new(pick(provider, MODES), (pick(provider, SIDES), pick(provider, SIDES)))
    if provider.ConsumeBool():
        image.info["exif"] = provider.ConsumeBytes(20)
    if not provider.ConsumeIntInRange(0, 5):
        image.close()
    return image


def anything(provider: Provider) -> Any:
    """What a caller may take for an image."""
    others = (None, 3, b"bytes", "", "no.jpg", "\0", [], [[0.0]], torch.Size([3]))
    match provider.ConsumeIntInRange(0, 9):
        case 0:
            return pick(provider, others)
        case 1 | 2:
            return picture(provider)
        case 3 | 4 | 5 | 6:
            return array(provider)
        case _:
            return tensor(provider)


def check_rgb(image: Any) -> None:
    """What `as_rgb` gives of what it takes."""
    found = as_rgb(image)
    assert found.dtype == torch.float32
    assert found.ndim == 3
    assert found.shape[0] == 3
    assert min(found.shape[1:]) >= 16
    if isinstance(image, np.ndarray):  # which are (height, width, channels)
        top = {"u1": 255, "u2": 65535}.get(image.dtype.str[1:], 1)
        values = np.asarray(image).reshape(*image.shape[:2], -1)[:, :, :3].astype(np.float64) / top
        assert np.allclose(found.numpy().transpose(1, 2, 0), values, rtol=1e-6, atol=1e-7)


def check_features(found: list, images: list) -> None:
    """Keypoints are on their images, in whichever back end."""
    assert len(found) == len(images)
    for features in found:
        width, height = features.image_size
        points = features.numpy()["keypoints"]
        assert np.isfinite(points).all()
        assert ((points >= -0.5) & (points <= np.array([width, height]) - 0.5)).all()


def refused(call: Any, *arguments: Any) -> None:
    """A call whose errors are those that it documents: raised by the library itself, not by what it calls."""
    try:
        call(*arguments)
    except (OSError, ValueError) as error:
        place = error.__traceback__
        while place is not None and place.tb_next is not None:
            place = place.tb_next
        assert place is not None
        if "ripe" not in place.tb_frame.f_globals.get("__name__", "").split("."):
            raise AssertionError(f"a foreign error: {error!r}") from error


def extract(image: Any, options: dict[str, Any]) -> None:
    """The features of what is given."""
    check_features(MODEL.extract(image, **options), split_batch(image))


def extract_onnx(image: Any, options: dict[str, Any]) -> None:
    """The same without PyTorch."""
    if not isinstance(image, torch.Tensor):
        check_features(ONNX.extract(image, **options), split_batch(image))


def target(provider: Provider) -> None:
    """One image, or what is none."""
    image, options = anything(provider), pick(provider, OPTIONS)
    refused(check_rgb, image)
    refused(extract, image, options)
    refused(extract_onnx, image, options)


if __name__ == "__main__":
    run(target)
