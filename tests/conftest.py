"""Fixtures: real photos, and a compact model with random weights where trained ones do not matter."""

from pathlib import Path

import pytest
import torch

import ripe
from ripe.architectures import build

ASSETS = Path(ripe.__file__).parent / "assets"


@pytest.fixture(scope="session")
def photos() -> list[Path]:
    """The two bundled photos."""
    return [ASSETS / "motorcycle_left.jpg", ASSETS / "motorcycle_right.jpg"]


@pytest.fixture(scope="session")
def random_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A weights file of a compact network with seeded random weights."""
    path = tmp_path_factory.mktemp("weights") / "random.safetensors"
    with torch.random.fork_rng():
        torch.manual_seed(0)
        ripe.save_weights(build("compact"), path)
    return path


@pytest.fixture(scope="session")
def model(random_weights: Path) -> ripe.RIPE:
    """A compact model with random weights, on the CPU. Do not change it."""
    return ripe.load(random_weights, device="cpu")
