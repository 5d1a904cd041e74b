"""Masks: files, arrays, tensors and Pillow images beside a photo."""

from typing import Any

from harness import Provider, pick, refusing, run, scratch, spoilt, watched

with watched():
    import arrays
    import numpy as np
    import torch
    from images import encoded
    from PIL import Image

    from ripe.folders import masks_below
    from ripe.inference import as_mask

FOLDER = scratch()
FILE = FOLDER / "mask.png"
PHOTO = np.random.default_rng(0).integers(0, 256, (20, 24, 3), dtype=np.uint8)
TYPES = ("?", "u1", "<u2", "<i8", "<f4", ">f4", "<f8", "<c8", "O", "S1", "U1", "M8[s]")


def mask(provider: Provider) -> Any:
    """What should be a mask."""
    match provider.ConsumeIntInRange(0, 5):
        case 0:
            FILE.write_bytes(spoilt(provider, encoded(provider), 3))
            return FILE
        case 1:
            kind = pick(provider, ("1", "L", "P", "RGB", "RGBA", "I;16", "F"))
            Image.fromarray((PHOTO[:, :, 0] > 128).astype(np.uint8) * 255).convert(kind).save(
                FILE, "TIFF" if kind == "F" else "PNG"
            )
            return FILE
        case 2:
            return (PHOTO[:, :, 0] > provider.ConsumeIntInRange(0, 255)).astype(pick(provider, TYPES))
        case 3:
            return torch.from_numpy(PHOTO[:, :, 0] > 128).to(pick(provider, arrays.TORCH_TYPES))
        case _:
            return arrays.anything(provider)


def check(chosen: Any) -> None:
    """No keypoint lies where the mask is zero, in either back end."""
    kept = as_mask(chosen, "photo", (20, 24))
    assert kept.dtype == torch.bool
    assert tuple(kept.shape) == (20, 24)
    models = (arrays.MODEL,) if isinstance(chosen, torch.Tensor) else (arrays.MODEL, arrays.ONNX)
    for model in models:
        [found] = model.extract(PHOTO, masks=[chosen], max_keypoints=None)
        points = np.rint(np.asarray(found.keypoints)).astype(int)
        assert kept.numpy()[points[:, 1], points[:, 0]].all()


def target(provider: Provider) -> None:
    """One mask of a photo of 24×20 pixels."""
    chosen = mask(provider)
    if chosen is FILE:
        with refusing(FILE):
            check(chosen)
    else:
        arrays.refused(check, chosen)
    name = provider.ConsumeUnicodeNoSurrogates(8)
    with refusing(FOLDER):
        masks_below(FOLDER, [name, f"{name}.jpg", "mask.jpg"])


if __name__ == "__main__":
    run(target)
