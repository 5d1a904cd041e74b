"""Glue Factory and hloc load our models by their own rules: the real packages if installed, otherwise stand-ins."""

import importlib
import importlib.util
import inspect
import subprocess
import sys
import textwrap
import tomllib
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import h5py
import numpy as np
import pytest
import torch
import yaml
from torch.nn.utils.rnn import pad_sequence

import ripe
from ripe.cli import main
from ripe.cli.info import CONFIGURATIONS
from ripe.features import Features
from ripe.images import as_rgb

ROOT = Path(__file__).parents[1]


class StandInModel(torch.nn.Module):
    """What our models need of Glue Factory's BaseModel: merged, checked settings, and `forward`."""

    default_conf: dict[str, Any] = {}  # noqa: RUF012
    strict_conf = False
    required_data_keys: list[str] = []  # noqa: RUF012

    def __init__(self, conf: dict[str, Any]) -> None:
        super().__init__()
        allowed = {"name": None, "trainable": True, **self.default_conf}
        if self.strict_conf and not conf.keys() <= allowed.keys():
            raise KeyError(conf.keys() - allowed.keys())
        self.conf = SimpleNamespace(**{**allowed, **conf})
        self.initialized = False
        self._init(self.conf)

    def forward(self, data: dict[str, Any]) -> dict[str, torch.Tensor]:
        assert all(key in data for key in self.required_data_keys)
        return self._forward(data)

    def set_initialized(self, to: bool = True) -> None:
        self.initialized = to


@pytest.fixture
def glue_factory(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Makes its modules importable, and ours are imported anew."""
    ours = ("ripe.integrations.gluefactory", "ripe.integrations.gluefactory_matcher")
    if importlib.util.find_spec("gluefactory") is None:
        for name in ("gluefactory", "gluefactory.models", "gluefactory.models.base_model"):
            monkeypatch.setitem(sys.modules, name, ModuleType(name))
        sys.modules["gluefactory.models.base_model"].BaseModel = StandInModel  # type: ignore[attr-defined]
    for name in ours:
        monkeypatch.delitem(sys.modules, name, raising=False)
    yield
    for name in ours:
        sys.modules.pop(name, None)


@pytest.fixture
def plugin(glue_factory: None) -> ModuleType:
    return importlib.import_module("ripe.integrations.gluefactory")


@pytest.fixture
def matcher_plugin(glue_factory: None) -> ModuleType:
    return importlib.import_module("ripe.integrations.gluefactory_matcher")


def glue_factory_class(module: ModuleType) -> Any:
    """By the rule of its `get_class`: the only subclass of BaseModel that the module itself defines."""
    base = sys.modules["gluefactory.models.base_model"].BaseModel
    classes = [cls for _, cls in inspect.getmembers(module, inspect.isclass) if cls.__module__ == module.__name__]
    [found] = [cls for cls in classes if issubclass(cls, base)]
    return found


def make(module: ModuleType, weights: Path, **conf: Any) -> Any:
    return glue_factory_class(module)({"name": module.__name__, "weights": str(weights), **conf}).eval()


@pytest.fixture(scope="module")
def images(photos: list[Path]) -> torch.Tensor:
    return torch.stack([as_rgb(path)[:, 100:196, 100:228] for path in photos])


def test_glue_factory_sees_our_features_half_a_pixel_on(
    plugin: ModuleType, images: torch.Tensor, random_weights: Path, model: ripe.RIPE
) -> None:
    extractor = make(plugin, random_weights, max_num_keypoints=64, detection_threshold=-1e9)
    found = extractor({"image": images})
    expected = model.extract(images, max_keypoints=64, threshold=-1e9)
    assert found["keypoints"].shape == (2, 64, 2)
    for index, single in enumerate(expected):
        torch.testing.assert_close(found["keypoints"][index], single.keypoints + 0.5)
        torch.testing.assert_close(found["keypoint_scores"][index], single.scores.sigmoid())
        torch.testing.assert_close(found["descriptors"][index], single.descriptors)
    with pytest.raises(NotImplementedError):
        extractor.loss(found, {})


def test_glue_factory_batches_are_padded(plugin: ModuleType, images: torch.Tensor, random_weights: Path) -> None:
    """One image padded with black: nothing is found beyond its size, and its list is filled up."""
    padded = images.clone()
    padded[1, :, 40:] = padded[1, :, :, 48:] = 0
    sizes = torch.tensor([[128, 96], [48, 40]])
    extractor = make(plugin, random_weights, max_num_keypoints=500, detection_threshold=-1e9)
    found = extractor({"image": padded, "image_size": sizes})
    [alone] = extractor.model.extract(images[1, :, :40, :48], max_keypoints=500, threshold=-1e9)
    assert 0 < len(alone) < found["keypoints"].shape[1]
    torch.testing.assert_close(found["keypoints"][1, : len(alone)], alone.keypoints + 0.5)
    assert (found["keypoints"][1] >= 0).all()
    assert (found["keypoints"][1] <= sizes[1]).all()
    assert (found["keypoint_scores"][1, len(alone) :] == 0).all()
    assert (found["descriptors"][1, len(alone) :] == 0).all()
    forced = make(plugin, random_weights, max_num_keypoints=700, force_num_keypoints=True)
    assert forced({"image": images})["keypoints"].shape == (2, 700, 2)


def test_a_blank_image_and_a_grey_one(plugin: ModuleType, random_weights: Path) -> None:
    blank = make(plugin, random_weights, detection_threshold=1e9)({"image": torch.zeros(1, 1, 32, 48)})
    assert blank["keypoints"].shape == (1, 1, 2)
    assert blank["keypoint_scores"].item() == 0


def test_a_misspelt_setting_is_refused(plugin: ModuleType, random_weights: Path) -> None:
    with pytest.raises(Exception, match="max_keypoints"):
        make(plugin, random_weights, max_keypoints=5)
    with pytest.raises(ValueError, match="float33"):
        make(plugin, random_weights, dtype="float33")


def random_features(count: int, seed: int, size: tuple[int, int]) -> Features:
    generator = torch.Generator().manual_seed(seed)
    descriptors = torch.nn.functional.normalize(torch.randn(count, 128, generator=generator), dim=1)
    keypoints = torch.rand(count, 2, generator=generator) * (torch.tensor(size) - 1)
    return Features(keypoints, torch.arange(count, 0, -1.0), descriptors, size)


FIRST = [random_features(60, 0, (320, 240)), random_features(45, 1, (200, 300))]
SECOND = [random_features(50, 2, (320, 240)), random_features(70, 3, (300, 100))]


def glue_factory_data(side: str, images: list[Features], length: int, padding: torch.Tensor) -> dict[str, Any]:
    """A batch of images as its pipeline hands them on; descriptors of the padding are those of `padding`."""
    corner = pad_sequence([image.keypoints + 0.5 for image in images], batch_first=True, padding_value=7.0)
    scores = pad_sequence([image.scores.sigmoid() for image in images], batch_first=True)
    descriptors = padding.expand(len(images), length, 128).clone()
    for row, image in zip(descriptors, images, strict=True):
        row[: len(image)] = image.descriptors
    sizes = torch.tensor([image.image_size for image in images])
    return {
        f"view{side}": {"image_size": sizes},
        f"keypoints{side}": torch.nn.functional.pad(corner, (0, 0, 0, length - corner.shape[1])),
        f"keypoint_scores{side}": torch.nn.functional.pad(scores, (0, length - scores.shape[1])),
        f"descriptors{side}": descriptors,
    }


@pytest.mark.parametrize("padding", ["zeros", "copies"])
def test_glue_factory_matches_as_the_library_does(
    matcher_plugin: ModuleType, matcher_weights: Path, padding: str
) -> None:
    """Also where padding looks like a keypoint, as Glue Factory's cache has it, and scores alone tell."""
    filler = torch.zeros(128) if padding == "zeros" else FIRST[0].descriptors[0]
    data = glue_factory_data("0", FIRST, 80, filler) | glue_factory_data("1", SECOND, 75, filler)
    if padding == "zeros":  # then they are not needed
        del data["keypoint_scores0"], data["keypoint_scores1"]
    found = make(matcher_plugin, matcher_weights, filter_threshold=0.001)(data)
    assert found["matches0"].shape == found["matching_scores0"].shape == (2, 80)
    assert found["matches1"].shape == found["matching_scores1"].shape == (2, 75)
    for index, pair in enumerate(zip(FIRST, SECOND, strict=True)):
        expected = ripe.match(*pair, method="lightglue", matcher=matcher_weights, min_score=0.001)
        assert len(expected) > 5
        for side, (own, other) in enumerate(((0, 1), (1, 0))):
            partners = found[f"matches{side}"][index]
            wanted = torch.full_like(partners, -1)
            wanted[expected.indices[:, own]] = expected.indices[:, other]
            assert partners.tolist() == wanted.tolist()
            scores = found[f"matching_scores{side}"][index]
            assert (scores[partners < 0] == 0).all()
            torch.testing.assert_close(scores[expected.indices[:, own]], expected.scores, atol=1e-5, rtol=0)


def test_glue_factory_matches_blank_images(
    plugin: ModuleType, matcher_plugin: ModuleType, random_weights: Path, matcher_weights: Path
) -> None:
    """One keypoint of padding each; without its size an image is as large as its pixels."""
    view = {"image": torch.zeros(1, 1, 32, 48)}
    blank = make(plugin, random_weights, detection_threshold=1e9)(view)
    data = {f"{key}{side}": value for side in "01" for key, value in {**blank, "view": view}.items()}
    found = make(matcher_plugin, matcher_weights)(data)
    assert found["matches0"].tolist() == found["matches1"].tolist() == [[-1]]
    assert found["matching_scores0"].tolist() == [[0]]


def test_glue_factory_is_told_what_is_no_matcher(
    matcher_plugin: ModuleType, matcher_weights: Path, random_weights: Path
) -> None:
    with pytest.raises(Exception, match="min_score"):
        make(matcher_plugin, matcher_weights, min_score=0.5)
    with pytest.raises(ValueError, match=r"must be in 0\.\.1, a probability"):
        make(matcher_plugin, matcher_weights, filter_threshold=1.5)
    with pytest.raises(ValueError, match="not the weights of a matcher"):
        make(matcher_plugin, random_weights)
    with pytest.raises(NotImplementedError):
        make(matcher_plugin, matcher_weights).loss({}, {})


@pytest.mark.parametrize(
    ("name", "weights"),
    [("ripe+NN", "vgg_hyper"), ("ripe-compact+NN", "compact"), ("ripe-compact+lightglue", "compact")],
)
def test_the_shipped_configurations(
    plugin: ModuleType, matcher_plugin: ModuleType, name: str, weights: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["info", "--gluefactory-conf", name]) == 0
    path = Path(capsys.readouterr().out.strip())
    conf = yaml.safe_load(path.read_text())
    extractor = conf["model"]["extractor"]
    assert importlib.import_module(extractor.pop("name")) is plugin
    assert extractor.keys() <= glue_factory_class(plugin).default_conf.keys()
    assert extractor["weights"] == weights
    matcher = conf["model"]["matcher"]
    if name.endswith("+NN"):
        assert matcher == {"name": "matchers.nearest_neighbor_matcher"}
    else:
        assert importlib.import_module(matcher.pop("name")) is matcher_plugin
        assert matcher == {"weights": weights}
    megadepth, hpatches = conf["benchmarks"]["megadepth1500"], conf["benchmarks"]["hpatches"]
    assert megadepth["data"]["preprocessing"] == {"side": "long", "resize": 1600}
    assert hpatches["data"]["preprocessing"] == {"side": "short", "resize": 480}
    assert extractor["max_num_keypoints"] == 2048
    assert hpatches["model"]["extractor"]["max_num_keypoints"] == 1024
    assert megadepth["eval"] == hpatches["eval"] == {"estimator": "poselib", "ransac_th": 0.5}


def test_the_configurations_are_package_data() -> None:
    """Otherwise they would lack in a wheel."""
    package = ROOT / "ripe"
    patterns = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]["ripe"]
    shipped = {path for pattern in patterns for path in package.glob(pattern)}
    names = {"ripe+NN.yaml", "ripe-compact+NN.yaml", "ripe-compact+lightglue.yaml"}
    assert {path.name for path in CONFIGURATIONS.iterdir()} == names
    assert set(CONFIGURATIONS.iterdir()) <= shipped


HLOC_STAND_IN = {
    "hloc/__init__.py": "import pycolmap\n",
    "hloc/extractors/__init__.py": "",
    "hloc/matchers/__init__.py": "",
    "hloc/utils/__init__.py": "",
    "hloc/utils/base_model.py": """
        import inspect
        import torch

        class BaseModel(torch.nn.Module):
            default_conf = {}
            required_inputs = []

            def __init__(self, conf):
                super().__init__()
                self.conf = {**self.default_conf, **conf}
                self._init(self.conf)

            def forward(self, data):
                assert all(key in data for key in self.required_inputs)
                return self._forward(data)

        def dynamic_load(root, model):
            path = f"{root.__name__}.{model}"
            module = __import__(path, fromlist=[""])
            classes = [cls for _, cls in inspect.getmembers(module, inspect.isclass)]
            classes = [cls for cls in classes if cls.__module__ == path and issubclass(cls, BaseModel)]
            assert len(classes) == 1, classes
            return classes[0]
    """,
}
LOAD_BY_HLOC = """
import sys
import numpy as np
import ripe.integrations.hloc as plugin
from hloc import extractors
from hloc.utils.base_model import dynamic_load
import cv2, torch

image = torch.rand(1, 3, 48, 64, generator=torch.Generator().manual_seed(0))
conf = {**plugin.CONF["model"], "weights": sys.argv[1], "max_keypoints": 40, "detection_threshold": -1e9}
model = dynamic_load(extractors, plugin.CONF["model"]["name"])(conf).eval().to("cpu")
found = {key: values[0].cpu().numpy() for key, values in model({"image": image}).items()}
np.savez(sys.argv[2], image=image.numpy(), **found)
cv2.imwrite(sys.argv[2] + ".png", np.zeros((9, 9, 3), np.uint8))
try:
    dynamic_load(extractors, "ripe")({"weights": sys.argv[1], "max_keypoint": 3})
except ValueError as error:
    print(error)
"""

MATCH_BY_HLOC = """
import sys
import numpy as np
import ripe.integrations.hloc as plugin
from hloc import matchers
from hloc.utils.base_model import dynamic_load
import torch

weights, given, written = sys.argv[1:]
data = {key: torch.from_numpy(value)[None] for key, value in np.load(given).items()}
for side in "01":
    width, height = data.pop("size" + side)[0].tolist()
    data["image" + side] = torch.empty(1, 1, height, width)  # hloc has photos' sizes and no pixels
conf = {**plugin.MATCHER_CONF["model"], "weights": weights, "filter_threshold": 0.01}
Model = dynamic_load(matchers, plugin.MATCHER_CONF["model"]["name"])
model = Model(conf).eval().to("cpu")
found = {key: values[0].numpy() for key, values in model(data).items()}
for side in "01":
    data["keypoints" + side], data["descriptors" + side] = torch.zeros(1, 0, 2), torch.zeros(1, 128, 0)
    print([tuple(values.shape) for values in model(data).values()])
np.savez(written, **found)
try:
    Model({"weights": weights, "min_score": 3})
except ValueError as error:
    print(error)
"""


@pytest.fixture
def hloc_path(tmp_path: Path) -> str:
    """What to put on Python's path so that hloc can be imported."""
    if importlib.util.find_spec("hloc") is not None:
        return ""
    for name, code in HLOC_STAND_IN.items():
        (tmp_path / "packages" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "packages" / name).write_text(textwrap.dedent(code))
    return str(tmp_path / "packages")


def run(code: str, *words: object, path: str = "") -> subprocess.CompletedProcess[str]:
    start = f"import sys; sys.path[:0] = [{str(ROOT)!r}, {path!r}]\n"
    return subprocess.run([sys.executable, "-c", start + code, *map(str, words)], capture_output=True, text=True)


def test_hloc_loads_the_extractor_by_name(
    hloc_path: str, random_weights: Path, model: ripe.RIPE, tmp_path: Path
) -> None:
    result = run(LOAD_BY_HLOC, random_weights, tmp_path / "found.npz", path=hloc_path)
    assert result.returncode == 0, result.stderr
    assert "unknown settings max_keypoint; there are name, weights, max_keypoints" in result.stdout
    found = np.load(tmp_path / "found.npz")
    [expected] = model.extract(torch.from_numpy(found["image"]), max_keypoints=40, threshold=-1e9)
    np.testing.assert_allclose(found["keypoints"], expected.keypoints, atol=1e-4)
    np.testing.assert_allclose(found["scores"], expected.scores, atol=1e-5)
    np.testing.assert_allclose(found["descriptors"].T, expected.descriptors, atol=1e-5)


def test_hloc_loads_the_matcher_by_name(hloc_path: str, matcher_weights: Path, tmp_path: Path) -> None:
    pair = FIRST[1], SECOND[1]
    given = {}
    for side, image in zip("01", pair, strict=True):
        given |= {f"keypoints{side}": image.keypoints, f"descriptors{side}": image.descriptors.T}
        given |= {f"scores{side}": image.scores, f"size{side}": np.array(image.image_size)}
    np.savez(tmp_path / "given.npz", **given)
    words = matcher_weights, tmp_path / "given.npz", tmp_path / "found.npz"
    result = run(MATCH_BY_HLOC, *words, path=hloc_path)
    assert result.returncode == 0, result.stderr
    found = np.load(tmp_path / "found.npz")
    expected = ripe.match(*pair, method="lightglue", matcher=matcher_weights, min_score=0.01)
    wanted = np.full(45, -1)
    wanted[expected.indices[:, 0]] = expected.indices[:, 1]
    assert found["matches0"].tolist() == wanted.tolist()
    np.testing.assert_allclose(found["matching_scores0"][expected.indices[:, 0]], expected.scores, atol=1e-5)
    first, second, refused = result.stdout.splitlines()
    assert first == second == "[(1, 0), (1, 0)]"
    assert refused == "unknown settings min_score; there are name, weights, filter_threshold"


def test_without_hloc_the_message_says_where_it_is() -> None:
    result = run("sys.modules['hloc'] = None\nimport ripe.integrations.hloc")
    assert result.returncode == 1
    assert "hloc is needed; it is not on PyPI, see https://github.com/cvg/Hierarchical-Localization" in result.stderr


def test_files_have_what_hlocs_readers_take(photos: list[Path], random_weights: Path, tmp_path: Path) -> None:
    """Types, shapes and names; every later step of hloc goes by these."""
    features, matches, pairs = (tmp_path / name for name in ("features.h5", "matches.h5", "pairs.txt"))
    names = [path.name for path in photos]
    pairs.write_text(" ".join(names) + "\n")
    words = ["--model", str(random_weights), "--max-keypoints", "60", "--device", "cpu"]
    assert main(["extract", *map(str, photos), "-o", str(features), *words]) == 0
    assert main(["match", "--pairs", str(pairs), "--features", str(features), "-o", str(matches)]) == 0
    with h5py.File(features) as file:
        for name in names:
            group = file[name]
            count = len(group["keypoints"])
            assert group["keypoints"].dtype == np.float32
            assert group["keypoints"].attrs["uncertainty"] == 1
            assert group["descriptors"].shape == (128, count)
            assert group["scores"].shape == (count,)
            assert group["image_size"].shape == (2,)
    with h5py.File(matches) as file:
        group = file["/".join(names)]
        assert group["matches0"].dtype == np.int16
        assert group["matches0"].shape == group["matching_scores0"].shape == (60,)
        assert (group["matches0"][()] >= -1).all()
