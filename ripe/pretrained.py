"""The networks by name: how each is built, which trained weights there are, and how weights are loaded and saved.

Our own files are safetensors whose metadata name the architecture, its options and the detector's settings. A PyTorch
state dict is taken for one of the published network; it is read with `weights_only=True`, so that it cannot run code.
"""

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from importlib import resources
from pathlib import Path
from typing import Any, Literal

import torch

from ripe.detection import DetectionSettings
from ripe.download import cache_dir, fetch, sha256_of, verify
from ripe.model import RIPE
from ripe.networks.compact import CompactNet
from ripe.networks.descriptors import ProjectedColumn
from ripe.networks.robust import RobustNet
from ripe.networks.vgg import Interpolation, VggNet, descriptor_head
from ripe.stored_weights import (
    build_for,
    describing,
    hash_of,
    is_safetensors,
    read_state_dict,
    read_weights,
    write_weights,
)

RELEASE_URL = "https://cvg.hhi.fraunhofer.de/RIPE/ripe_weights.pth"
COMPACT_HIDDEN = 256
COMPACT_DIM = 128
PRECISIONS = (torch.float32, torch.bfloat16, torch.float16)

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Pretrained:
    """A model that `load` knows by name.

    Attributes:
        description: one line on what it is.
        license: of the weights.
        file: its name.
        sha256: of the file where it comes with the package.
        url: where it is fetched from otherwise.
    """

    description: str
    license: str
    file: str
    sha256: str | None = None
    url: str | None = None

    def path(self) -> Path:
        """Where the weights are, or will be once they are fetched."""
        if self.url is None:
            return Path(str(resources.files("ripe") / "weights" / self.file))
        return cache_dir() / self.file


MODELS = {
    "compact": Pretrained(
        "small and fast, for CPUs; the default",
        "Apache-2.0",
        "compact.safetensors",
        sha256="286ea297d8fe0c5e152e315dcc9da70740e03a7dd313fee7704070628f853851",
    ),
    "robust": Pretrained(
        "sees further than compact, for hard pairs; slower",
        "Apache-2.0",
        "robust.safetensors",
        sha256="c56df7aa150e06e17e653647a998dd4c0caaa2c74ae102d2c7527f0c76da2e22",
    ),
    "vgg_hyper": Pretrained(
        "the published network (ICCV 2025), fetched at first use",
        "academic, non-commercial",
        RELEASE_URL.rsplit("/", 1)[-1],
        url=RELEASE_URL,
    ),
}


def build_compact() -> RIPE:
    """The compact network: fast without a GPU, 128-d descriptors, sub-pixel keypoints."""
    return _extractor("compact", CompactNet)


def build_robust() -> RIPE:
    """The robust network: the compact one that sees further; descriptors and scores are made as that one's are."""
    return _extractor("robust", RobustNet)


def _extractor(name: str, network: type[CompactNet]) -> RIPE:
    detection = DetectionSettings(threshold=-6.0, nms_radius=2, border=4, subpixel=True)
    descriptor = ProjectedColumn(network.channels, COMPACT_HIDDEN, COMPACT_DIM)
    return RIPE(name, network(), descriptor, detection)


def build_vgg_hyper(
    desc_shares: Sequence[int] | None = None,
    descriptor_dim: int | None = 256,
    interpolation: Interpolation = "hypercolumn",
    normalise_input: bool | Literal["imagenet"] = True,
) -> RIPE:
    """The published network; `ripe.networks.vgg` says what the options are.

    Raises:
        ValueError: the options do not go together.
    """
    descriptor = descriptor_head(desc_shares, descriptor_dim, interpolation)
    return RIPE("vgg_hyper", VggNet(normalise_input), descriptor, DetectionSettings(threshold=0.5))


ARCHITECTURES: dict[str, Callable[..., RIPE]] = {
    "compact": build_compact,
    "robust": build_robust,
    "vgg_hyper": build_vgg_hyper,
}


def build(name: str, **options: Any) -> RIPE:
    """A model of the architecture `name` with random weights.

    Raises:
        ValueError: there is no such architecture; the message lists those that there are.
    """
    if name not in ARCHITECTURES:
        raise ValueError(f"unknown architecture {name!r}; there are {', '.join(ARCHITECTURES)}")
    return ARCHITECTURES[name](**options)


def load(
    name_or_path: str | Path = "compact",
    *,
    device: str | torch.device | None = None,
    dtype: torch.dtype = torch.float32,
) -> RIPE:
    """A trained model, ready to extract.

    Args:
        name_or_path: "compact", "robust", "vgg_hyper", or a weights file: one of ours, or a published state dict.
        device: where it runs; a GPU if there is one, otherwise the CPU, if None.
        dtype: float32, or bfloat16 or float16 for half-precision arithmetic. Weights and results stay float32.

    Raises:
        ValueError: unknown name or dtype, a device that is not there, or a file that is damaged, changed or of another
            architecture.
        OSError: the file does not exist, or the weights cannot be fetched.
    """
    if dtype not in PRECISIONS:
        raise ValueError(f"dtype is {dtype}; give one of {', '.join(str(known) for known in PRECISIONS)}")
    place = usable_device(device)
    name = str(name_or_path)
    if name == "vgg_hyper":
        model = vgg_hyper()
    elif name in MODELS:
        model = _load_shipped(MODELS[name])
    else:
        model = _load_file(_existing(name_or_path))
    model.compute_dtype = dtype
    return model.to(place)


def usable_device(device: str | torch.device | None = None) -> torch.device:
    """The device of that name; a GPU if there is one, otherwise the CPU, if None.

    Raises:
        ValueError: PyTorch knows no such device, or there is none in this machine; the message lists those there are.
    """
    try:
        asked = torch.device(("cuda" if torch.cuda.is_available() else "cpu") if device is None else device)
        if asked.type == "meta":
            raise RuntimeError("it holds no numbers")
        torch.zeros(1, device=asked)
    except (RuntimeError, AssertionError, ImportError) as error:  # PyTorch's answers, of up to a thousand characters
        there = ["cpu", *(f"cuda:{index}" for index in range(torch.cuda.device_count()))]
        there += ["mps"] if torch.backends.mps.is_available() else []
        raise ValueError(f"device {device} cannot be used here; there are: {', '.join(there)}") from error
    return asked


def vgg_hyper(model_path: str | Path | None = None, desc_shares: Sequence[int] | None = None) -> RIPE:
    """The published network, on the CPU and in evaluation mode.

    Args:
        model_path: a state dict of it; if None, the released weights, which are fetched once (their licence is academic
            and non-commercial) to the user's cache folder or to `RIPE_CACHE`.
        desc_shares: lengths of the four descriptor parts, for weights that were trained so.

    Raises:
        ValueError: the file is damaged, has changed since its first use, or does not fit.
        OSError: the file does not exist, or the weights cannot be fetched.
    """
    options: dict[str, Any] = {} if desc_shares is None else {"desc_shares": list(desc_shares)}
    if model_path is not None:
        return _load_file(_existing(model_path), options)
    if desc_shares is not None:
        raise ValueError("the released weights have no desc_shares; give model_path as well")
    entry = MODELS["vgg_hyper"]
    path = entry.path()
    if not path.is_file():
        logger.warning("Fetching the released RIPE weights; their licence is %s.", entry.license)
        fetch(RELEASE_URL, path)
    verify(path)
    try:
        return _load_file(path)
    except ValueError as error:  # such as the page of a network that asks to log in
        raise ValueError(f"{error}; delete it, and it is fetched again") from error


def save_weights(
    model: RIPE, path: str | Path, *, dtype: torch.dtype = torch.float32, options: Mapping[str, Any] | None = None
) -> None:
    """Write a model's weights and detector settings so that `load(path)` gives it back.

    Args:
        model: what is saved; its name must be that of an architecture.
        path: a .safetensors file; replaced whole.
        dtype: of the stored floating-point numbers; float16 halves the file.
        options: what the architecture was built with, where it was not the default.

    Raises:
        ValueError: a weight is not finite, or too large for `dtype`.
    """
    metadata = {
        "architecture": model.name,
        "options": json.dumps(dict(options or {})),
        "detection": json.dumps(asdict(model.detection)),
    }
    write_weights(model.state_dict(), path, metadata, dtype)


def weights_hash(model: RIPE) -> str:
    """SHA-256 over all weights of a model, in hexadecimal digits: equal for equal weights, wherever they came from."""
    return hash_of(model.name, model.state_dict())


def model_settings(model: RIPE, threshold: float | None = None) -> dict[str, Any]:
    """What a model's features depend on: its name, weights, precision and detector.

    Args:
        model: any.
        threshold: least score of a keypoint; the model's own if None.
    """
    detection = asdict(model.detection)
    own = detection.pop("threshold")
    return {
        "model": model.name,
        "weights": weights_hash(model),
        "precision": str(model.compute_dtype).removeprefix("torch."),
        "threshold": own if threshold is None else threshold,
        "detection": ", ".join(f"{key} {value}" for key, value in detection.items()),
    }


def _load_shipped(entry: Pretrained) -> RIPE:
    path = entry.path()
    if not path.is_file():
        raise FileNotFoundError(f"{path}: the weights that come with the package are missing; install it again")
    if sha256_of(path) != entry.sha256:
        raise ValueError(f"{path}: damaged or not of this version; install the package again")
    return _load_file(path)


def _existing(name_or_path: str | Path) -> Path:
    path = Path(name_or_path)
    if path.is_file():
        return path
    if isinstance(name_or_path, Path) or path.suffix or len(path.parts) > 1:
        raise FileNotFoundError(f"{path}: no such weights file")
    raise ValueError(f"unknown model {name_or_path!r}; give {', '.join(MODELS)} or the path of a weights file")


def _load_file(path: Path, options: Mapping[str, Any] | None = None) -> RIPE:
    state, metadata = read_weights(path) if is_safetensors(path) else (read_state_dict(path), {})
    name = metadata.get("architecture", "vgg_hyper")
    with describing(path):
        given = {**json.loads(metadata.get("options", "{}")), **(options or {})}
    model = build_for(partial(build, name, **given), state, path, f"the architecture {name}")
    if "detection" in metadata:
        with describing(path):
            model.detection = DetectionSettings(**json.loads(metadata["detection"]))
    return model.eval()
