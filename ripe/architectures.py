"""The architectures by name, with random weights; `ripe.pretrained` knows the trained ones."""

from collections.abc import Callable
from typing import Any

from ripe.detection import DetectionSettings
from ripe.model import RIPE
from ripe.networks.compact import CompactNet
from ripe.networks.descriptors import ProjectedColumn

COMPACT_HIDDEN = 256
COMPACT_DIM = 128


def build_compact() -> RIPE:
    """The compact network: fast without a GPU, 128-d descriptors, sub-pixel keypoints."""
    detection = DetectionSettings(threshold=-6.0, nms_radius=2, border=4, subpixel=True)
    descriptor = ProjectedColumn(CompactNet.channels, COMPACT_HIDDEN, COMPACT_DIM)
    return RIPE("compact", CompactNet(), descriptor, detection)


def build_vgg_hyper(**options: Any) -> RIPE:
    """The published network; `ripe.networks.vgg.build_vgg_hyper` says which options there are."""
    from ripe.networks import vgg

    return vgg.build_vgg_hyper(**options)


ARCHITECTURES: dict[str, Callable[..., RIPE]] = {"compact": build_compact, "vgg_hyper": build_vgg_hyper}


def build(name: str, **options: Any) -> RIPE:
    """A model of the architecture `name` with random weights.

    Raises:
        ValueError: there is no such architecture; the message lists those that there are.
    """
    if name not in ARCHITECTURES:
        raise ValueError(f"unknown architecture {name!r}; there are {', '.join(ARCHITECTURES)}")
    return ARCHITECTURES[name](**options)
