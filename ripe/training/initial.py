"""Weights that a run is given: those it starts from instead of random ones, and an extractor that it learns from."""

from pathlib import Path

from torch import Tensor

from ripe.download import cache_dir, check_sha256, fetch, verify
from ripe.model import RIPE
from ripe.networks.vgg import VggNet
from ripe.pretrained import load
from ripe.stored_weights import read_state_dict
from ripe.training.engine import Engine

# torchvision's published file; the digits in its name are the first of its SHA-256.
IMAGENET_URL = "https://download.pytorch.org/models/vgg19_bn-c79401a0.pth"
IMAGENET_SHA256 = "c79401a0"


def load_initial(model: RIPE, name_or_path: str | Path) -> None:
    """Give `model` the weights and the detector settings of a trained one.

    A robust network that starts from a compact one's weights computes what that one does.

    Args:
        model: changed in place; on any device.
        name_or_path: as for `ripe.load`: "compact", "robust", "vgg_hyper" or a weights file.

    Raises:
        ValueError, OSError: as `ripe.load`, or the weights are of another architecture; `model` stays as it was.
    """
    trained = load(name_or_path, device="cpu")
    shapes, wanted = _shapes(trained.state_dict()), _shapes(model.state_dict())
    grows = (trained.name, model.name) == ("compact", "robust") and shapes.items() <= wanted.items()
    if not grows and (trained.name != model.name or shapes != wanted):
        raise ValueError(
            f"{name_or_path}: weights of {trained.name} cannot start a {model.name} network"
            f"{' that was built with other options' if trained.name == model.name else ''}; choose others, or the model"
        )
    model.load_state_dict(trained.state_dict(), strict=not grows)
    model.detection = trained.detection


def load_frozen(name_or_path: str | Path, engine: Engine) -> RIPE:
    """A trained extractor that a run learns from and leaves as it is, on the device of the run.

    Args:
        name_or_path: as for `ripe.load`.
        engine: of the run, whose main process alone reads the weights.

    Raises:
        ValueError, OSError: as `ripe.load`.
    """
    extractor: RIPE = engine.by_main(lambda: load(name_or_path, device="cpu"))
    return extractor.to(engine.device)


def load_imagenet_encoder(model: RIPE, path: str | Path | None = None) -> None:
    """Give the encoder of a `vgg_hyper` the weights of a VGG-19 with batch normalisation that was trained on ImageNet.

    The four stages of the encoder are the first 40 of the 53 layers `features.<i>` of torchvision's `vgg19_bn`, with
    the same numbers; the rest of the file has no use. That network saw ImageNet-normalised images.

    Args:
        model: changed in place; on any device.
        path: such a state dict; if None, torchvision's file, fetched once to the cache folder and checked.

    Raises:
        ValueError: the model has no such encoder, or the file is damaged or of another network; `model` is unchanged.
        OSError: the file does not exist, or cannot be fetched.
    """
    if not isinstance(model.net, VggNet):
        raise ValueError(f"the {model.name} network has no VGG encoder; ImageNet weights are for vgg_hyper")
    file = _published_file() if path is None else Path(path)
    if not file.is_file():
        raise FileNotFoundError(f"{file}: no such weights file")
    layers = model.net.encoder.layers
    layers.load_state_dict(_encoder_state(read_state_dict(file), layers.state_dict(), file))


def _published_file() -> Path:
    path = cache_dir() / IMAGENET_URL.rsplit("/", 1)[-1]
    if path.is_file():
        verify(path)
        check_sha256(path, IMAGENET_SHA256)
    else:
        fetch(IMAGENET_URL, path, sha256=IMAGENET_SHA256)
    return path


def _encoder_state(file_state: dict[str, Tensor], wanted: dict[str, Tensor], file: Path) -> dict[str, Tensor]:
    """The encoder's part of the file under the encoder's own names."""
    state = {}
    for key, value in wanted.items():
        # Files from before PyTorch 0.4.1, as torchvision's, do not count batches.
        given = file_state.get(f"features.{key}", value if key.endswith("num_batches_tracked") else None)
        if given is None:
            raise ValueError(f"{file}: not weights of torchvision's vgg19_bn (no features.{key})")
        if given.shape != value.shape:
            shapes = f"{tuple(given.shape)} instead of {tuple(value.shape)}"
            raise ValueError(f"{file}: not weights of torchvision's vgg19_bn (features.{key} is {shapes})")
        state[key] = given
    return state


def _shapes(state: dict[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return {key: tuple(value.shape) for key, value in state.items()}
