"""Our models for `torch.hub.load`: `torch.hub.load("path/of/the/checkout", "compact", source="local")`."""

from ripe.model import RIPE
from ripe.pretrained import load

dependencies = ["h5py", "numpy", "PIL", "platformdirs", "safetensors", "torch"]


def compact(**options: object) -> RIPE:
    """The compact network with the shipped weights; `options` are those of `ripe.load`: device, dtype."""
    return load("compact", **options)


def robust(**options: object) -> RIPE:
    """The robust network with the shipped weights."""
    return load("robust", **options)


def vgg_hyper(**options: object) -> RIPE:
    """The published network; its weights, whose licence is non-commercial, are fetched at first use."""
    return load("vgg_hyper", **options)
