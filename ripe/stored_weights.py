"""Files of trained weights: ours are safetensors with a line on what they are; PyTorch's state dicts are read, too."""

import hashlib
import json
import math
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from ripe.files import check_plain_zip, replacing

State = Mapping[str, Tensor]
N = TypeVar("N", bound=nn.Module)


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
        temporary.write_bytes(_in_order(safetensors.torch.save(tensors, metadata)))


def _in_order(file: bytes) -> bytes:
    """A safetensors file with its metadata sorted: their order is random, and equal weights shall be equal files."""
    length = int.from_bytes(file[:8], "little")
    header = json.loads(file[8 : 8 + length])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text = text.ljust(math.ceil(len(text) / 8) * 8)  # what follows is aligned
    return len(text).to_bytes(8, "little") + text + file[8 + length :]


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


def build_for(build: Callable[[], N], state: State, path: Path, what: str) -> N:
    """The network of a file, with its weights.

    Args:
        build: makes it, as the file says: of whatever size.
        state: the weights; what they do not fit is not built, so that it takes no more memory than they do.
        path: the file, for messages.
        what: the network is, for messages.

    Raises:
        ValueError: the file says what makes no network, or its weights are not that network's.
    """
    with describing(path):
        with torch.device("meta"):
            sizes = {key: value.numel() for key, value in build().state_dict().items()}
        if sum(sizes.values()) > sum(value.numel() for value in state.values()):
            raise ValueError(f"the weights do not fit {what}: there are fewer")
        network = build()
    load_into(network, state, path, what)
    return network


@contextmanager
def describing(path: Path) -> Iterator[None]:
    """Whatever goes wrong with what a file says of itself becomes a `ValueError` that names the file."""
    try:
        yield
    except (KeyError, TypeError, ValueError, RecursionError, OverflowError, RuntimeError) as error:
        reason = f"{error} is missing" if isinstance(error, KeyError) else error
        raise ValueError(f"{path}: what it says of its weights makes no network ({reason})") from error


def load_into(network: nn.Module, state: State, path: Path, what: str) -> None:
    """Give a network the weights of a file; `ValueError` says that they do not fit `what` the network is."""
    try:
        network.load_state_dict(state)
    except (RuntimeError, NotImplementedError) as error:
        summary = " ".join(str(error).split())[:200]
        raise ValueError(f"{path}: the weights do not fit {what} ({summary}…)") from error


def read_state_dict(path: Path) -> dict[str, Tensor]:
    """Names and tensors of a PyTorch state dict, on the CPU; `ValueError` names a file that is none."""
    state = unpickled(path, "a weights file")
    if not isinstance(state, Mapping) or not all(isinstance(key, str) and _is_plain(state[key]) for key in state):
        raise ValueError(f"{path}: holds no plain state dict (names and tensors)")
    return dict(state)


def unpickled(path: Path, what: str) -> Any:
    """What `torch.save` has written, on the CPU: tensors and plain values, as nothing in the file is run.

    Raises:
        ValueError: the file holds something else, has compressed parts, or is damaged, and so is not `what` was wanted.
    """
    try:
        if zipfile.is_zipfile(path):
            check_plain_zip(path)
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # other bytes make the unpickler fail in every way that there is
        raise ValueError(f"{path}: not {what}, or a damaged one") from error  # PyTorch's words advise to run it


def _is_plain(value: object) -> bool:
    """Whether a value is a tensor that holds a number for each element."""
    if not isinstance(value, Tensor) or value.layout != torch.strided:
        return False
    return not (value.is_quantized or value.is_nested or value.is_meta)


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
    # The other two are of types of numbers that PyTorch has not.
    except (safetensors.SafetensorError, AttributeError, RuntimeError) as error:
        raise ValueError(f"{path}: damaged weights file ({error})") from error
