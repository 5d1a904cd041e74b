"""Fixtures: real photos, a compact model with random weights where trained ones do not matter, and devices.

`pytest --device cuda` runs the tests that take the fixture `device` on that device alone; otherwise they run on the CPU
and on a GPU, and are skipped where there is none.
"""

from pathlib import Path

import cv2
import pytest
import skimage.data
import torch

import ripe
from ripe.matchers import Matcher, save_matcher
from ripe.networks.lightglue import LightGlue
from ripe.pretrained import build, usable_device

DEVICES = ("cpu", "cuda")
ASSETS = Path(ripe.__file__).parent / "assets"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--device", action="append", help="run tests of devices on this one only; may be repeated")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "device" in metafunc.fixturenames:
        metafunc.parametrize("device", metafunc.config.getoption("--device") or DEVICES, indirect=True)


@pytest.fixture
def device(request: pytest.FixtureRequest) -> torch.device:
    """Each device in turn."""
    try:
        return usable_device(request.param)
    except ValueError as error:
        pytest.skip(str(error))


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


@pytest.fixture(scope="session")
def random_matcher() -> Matcher:
    """A matcher with seeded random weights, all of whose parts do something. Do not change it."""
    with torch.random.fork_rng():
        torch.manual_seed(1)
        network = LightGlue(128, 64, layers=2)
        with torch.no_grad():
            for parameter in network.parameters():
                parameter += 0.05 * torch.randn_like(parameter)
    return Matcher(network, "a hash")


@pytest.fixture(scope="session")
def matcher_weights(random_matcher: Matcher, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its weights file."""
    path = tmp_path_factory.mktemp("weights") / "matcher.safetensors"
    save_matcher(random_matcher, path)
    return path


@pytest.fixture(scope="session")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two scenes of real photos: crops of a face and of a cup of coffee."""
    root = tmp_path_factory.mktemp("photos")
    for scene, photo in (("astronaut", skimage.data.astronaut()), ("coffee", skimage.data.coffee())):
        (root / scene).mkdir()
        for index, (y, x) in enumerate(((0, 0), (20, 40), (60, 10))):
            cv2.imwrite(str(root / scene / f"{index}.png"), photo[y : y + 300, x : x + 320, ::-1])
    return root
