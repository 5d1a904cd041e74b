"""Files of trained weights: ours are safetensors with a line on what they are; PyTorch's state dicts are read, too."""

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from ripe.files import replacing

State = Mapping[str, Tensor]


def write_weights(state: State, path: str | Path, metadata: dict[str, str], dtype: torch.dtype = torch.float32) -> None:
    """Write a safetensors file.

    Args:
        state: tensors by name.
        path: replaced whole.
        metadata: what the weights are of.
        dtype: of the stored floating-point numbers; float16 halves the file.

    Raises:
        ValueError: a weight is not finite, or too large for `dtype`.
    """
    tensors = {
        key: (value.to(dtype) if value.is_floating_point() else value).detach().cpu().contiguous()
        for key, value in state.items()
    }
    broken = [key for key, value in tensors.items() if not torch.isfinite(value).all()]
    if broken:
        raise ValueError(f"{broken[0]} holds NaN or values beyond the range of {dtype}; nothing was saved")
    with replacing(path) as temporary:
        temporary.write_bytes(safetensors.torch.save(tensors, metadata))


def is_safetensors(path: Path) -> bool:
    """Whether a file looks like one, by its first bytes."""
    with path.open("rb") as file:
        return file.read(9)[8:] == b"{"


def read_weights(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors by name, on the CPU, and the metadata of a safetensors file; `ValueError` names one that is damaged."""
    with _opened(path) as file:
        return {key: file.get_tensor(key) for key in file.keys()}, file.metadata() or {}  # noqa: SIM118 (no iterator)


def read_metadata(path: Path) -> dict[str, str]:
    """What a weights file says of itself; nothing if it is no safetensors file. Errors as in `read_weights`."""
    if not is_safetensors(path):
        return {}
    with _opened(path) as file:
        return file.metadata() or {}


def load_into(network: nn.Module, state: State, path: Path, what: str) -> None:
    """Give a network the weights of a file; `ValueError` says that they do not fit `what` the network is."""
    try:
        network.load_state_dict(state)
    except RuntimeError as error:
        summary = " ".join(str(error).split())[:200]
        raise ValueError(f"{path}: the weights do not fit {what} ({summary}…)") from error


def read_state_dict(path: Path) -> dict[str, Tensor]:
    """Names and tensors of a PyTorch state dict, on the CPU; `ValueError` names a file that is none."""
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # other bytes make the unpickler fail in every way that there is
        raise ValueError(f"{path}: not a weights file, or a damaged one") from error
    if not isinstance(state, Mapping) or not all(isinstance(value, Tensor) for value in state.values()):
        raise ValueError(f"{path}: holds no plain state dict (names and tensors)")
    return dict(state)


def hash_of(name: str, state: State) -> str:
    """SHA-256 over a network's name and all weights, in hexadecimal digits: equal for equal ones, whatever the file."""
    digest = hashlib.sha256(name.encode())
    for key, value in sorted(state.items()):
        digest.update(key.encode())
        digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """A safetensors file, open."""
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            yield file
    except safetensors.SafetensorError as error:
        raise ValueError(f"{path}: damaged weights file ({error})") from error
