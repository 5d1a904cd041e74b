"""Files of weights: safetensors with any metadata, PyTorch's state dicts and checkpoints with any content, damaged."""

import io
import json
import pickle
import struct
from collections import OrderedDict
from typing import Any

from harness import Provider, pick, plain, refusing, run, scratch, spoilt, watched

with watched():
    import torch

    import ripe
    from ripe.pretrained import build, vgg_hyper
    from ripe.stored_weights import read_state_dict
    from ripe.training.checkpoint import load_checkpoint

FILE = scratch() / "weights.bin"
STATE = build("compact").state_dict()
WORDS = (
    *("architecture", "options", "detection", "extractor", "compact", "vgg_hyper", "lightglue", "desc_shares"),
    *("descriptor_dim", "interpolation", "hypercolumn", "normalise_input", "imagenet", "threshold", "nms_radius"),
    *("border", "subpixel", "width", "layers", "heads", "step", "model", "config", *list(STATE)[:6]),
)
DTYPES = ("F32", "F16", "BF16", "F64", "I64", "U8", "BOOL", "F8_E4M3", "F8_E5M2", "C64", "U16", "F4", "NONE")


def safetensors(provider: Provider) -> bytes:
    """A safetensors file: a header in JSON and bytes."""
    header: dict[str, Any] = {}
    if provider.ConsumeIntInRange(0, 3):
        said = {"architecture": pick(provider, ("compact", "vgg_hyper", "lightglue", "other"))}
        for key in ("options", "detection", "extractor"):
            if provider.ConsumeBool():
                said[key] = json.dumps(plain(provider, WORDS)) if provider.ConsumeBool() else provider.ConsumeString(6)
        header["__metadata__"] = said if provider.ConsumeIntInRange(0, 5) else plain(provider, WORDS)
    length = 0
    for _ in range(provider.ConsumeIntInRange(0, 4)):
        shape = [provider.ConsumeIntInRange(0, 3) for _ in range(provider.ConsumeIntInRange(0, 3))]
        size = provider.ConsumeIntInRange(0, 64)
        header[pick(provider, WORDS)] = {
            "dtype": pick(provider, DTYPES),
            "shape": shape if provider.ConsumeBool() else plain(provider, WORDS),
            "data_offsets": [length, length + size],
        }
        length += size
    text = spoilt(provider, json.dumps(header).encode(), 2)
    return struct.pack("<Q", len(text)) + text + provider.ConsumeBytes(length).ljust(length, b"\0")


def tensor(provider: Provider) -> Any:
    """A tensor of a kind that PyTorch stores, or something else."""
    match provider.ConsumeIntInRange(0, 6):
        case 0:
            return torch.zeros(3, 2).to_sparse()
        case 1:
            return torch.quantize_per_tensor(torch.zeros(3), 0.1, 0, torch.quint8)
        case 2:
            return torch.zeros(2, device="meta")
        case 3:
            return torch.zeros(2, dtype=pick(provider, (torch.complex64, torch.int64, torch.bool, torch.bfloat16)))
        case 4:
            return torch.full((3,), float("nan")).expand(2, 3)
        case 5:
            return torch.nn.Parameter(torch.zeros(1))
        case _:
            return plain(provider, WORDS)


def pickled(provider: Provider) -> bytes:
    """What `torch.save` writes of a mapping, in the new or in the old format; or a pickle."""
    names = [*list(STATE)[:3], *(pick(provider, WORDS) for _ in range(provider.ConsumeIntInRange(0, 3))), 7, ("a", 1)]
    state: Any = OrderedDict((name, tensor(provider)) for name in names[: provider.ConsumeIntInRange(0, len(names))])
    if not provider.ConsumeIntInRange(0, 4):
        state = plain(provider, WORDS)
    content = io.BytesIO()
    if provider.ConsumeIntInRange(0, 5):
        torch.save(state, content, _use_new_zipfile_serialization=provider.ConsumeBool())
    else:
        pickle.dump(plain(provider, WORDS), content)
    return content.getvalue()


def target(provider: Provider) -> None:
    """One file, read by all that reads weights."""
    makers = (safetensors, safetensors, pickled, lambda p: spoilt(p, safetensors(p)), lambda p: spoilt(p, pickled(p)))
    try:
        content = pick(provider, makers)(provider)
    except (NotImplementedError, OverflowError, RuntimeError, TypeError, UnicodeEncodeError):
        return  # what PyTorch cannot store
    FILE.write_bytes(content)
    for read in (ripe.load, ripe.load_matcher, vgg_hyper, read_state_dict, load_checkpoint):
        with refusing(FILE):
            read(FILE)


if __name__ == "__main__":
    run(target)
