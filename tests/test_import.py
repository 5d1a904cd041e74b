"""What `import ripe` brings along, what it does not, and which module may import which."""

import ast
import graphlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

import ripe

OPTIONAL = (
    "faiss",
    "gradio",
    "fsspec",
    "huggingface_hub",
    "hydra",
    "kornia",
    "lightning_fabric",
    "matplotlib",
    "omegaconf",
    "onnxruntime",
    "onnxscript",
    "pyarrow",
    "pycolmap",
    "ray",
    "s3fs",
    "skimage",
    "torchvision",
    "wandb",
)
# The package from the ground up: each folder and each module beside them may import those that stand before it, alone.
ORDER = """
    files resizing filters photos halving quantisation runtime features checks settings tables images feature_arrays
    folders recipe geometry detection download drawing storage pair_lists two_views stored_weights
    allocator networks ceiling inference regions parts model pretrained matchers matching export
    attempts alignment stitching extract_many extractors match_many
    integrations utils
    pairing scale
    data objective
    reconstruction evaluation training
    demo cli train
"""
USE_EVERY_NAME = "import ripe; [getattr(ripe, name) for name in ripe.__all__]"


def loaded_optional_packages(code: str) -> set[str]:
    """The optional packages that are imported after `code` has run in a fresh Python."""
    report = f"{code}\nimport sys; print(*({set(OPTIONAL)!r} & set(sys.modules)))"
    result = subprocess.run([sys.executable, "-c", report], capture_output=True, text=True, check=True)
    return set(result.stdout.split())


def test_no_optional_package_is_imported() -> None:
    assert loaded_optional_packages(USE_EVERY_NAME) == set()


def test_the_check_can_fail() -> None:
    assert loaded_optional_packages(f"{USE_EVERY_NAME}; import matplotlib") == {"matplotlib"}


NEEDING_MORE = {
    "ripe.demo.page": "gradio",
    "ripe.integrations.gluefactory": "gluefactory",
    "ripe.integrations.gluefactory_matcher": "gluefactory",
    "ripe.integrations.hloc": "hloc",
    "ripe.integrations.huggingface": "huggingface_hub",
    "ripe.integrations.imcui": "imcui",
    "ripe.integrations.vismatch": "vismatch",
    "ripe.scale.conversion": "pyarrow",
    "ripe.scale.extraction": "pyarrow",
    "ripe.scale.feature_tables": "pyarrow",
    "ripe.scale.match_tables": "pyarrow",
    "ripe.scale.matching": "pyarrow",
    "ripe.scale.places": "fsspec",
    "ripe.scale.shards": "pyarrow",
}


@pytest.mark.parametrize(
    ("given", "spins"),
    [({}, "10000"), ({"OMP_WAIT_POLICY": "PASSIVE"}, None), ({"GOMP_SPINCOUNT": "5"}, "5")],
    ids=str,
)
def test_threads_do_not_wait_long_unless_one_says_so(given: dict[str, str], spins: str | None) -> None:
    """It has to be said before PyTorch is imported."""
    code = (
        "import sys; from ripe.cli import main; import ripe.cli.info as info\n"
        "info.run = lambda _: print(__import__('os').environ.get('GOMP_SPINCOUNT'), 'torch' in sys.modules) or 0\n"
        "main(['info'])"
    )
    environment = {key: value for key, value in os.environ.items() if key not in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")}
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env={**environment, **given}
    )
    assert result.stdout.split() == [str(spins), "False"]


def test_modules_need_optional_packages_only_where_they_say_so() -> None:
    """Every module can be imported where no optional package is installed, but for those whose purpose it is."""
    code = f"""
import importlib, pkgutil, sys, ripe
for name in {OPTIONAL!r}:
    sys.modules[name] = None  # makes its import fail
for module in pkgutil.walk_packages(ripe.__path__, "ripe."):
    if not module.name.endswith("__main__"):
        try:
            importlib.import_module(module.name)
        except ImportError as error:
            print(module.name, error.name)
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert dict(line.split() for line in result.stdout.splitlines()) == NEEDING_MORE


def test_importing_the_package_loads_neither_pytorch_nor_numpy() -> None:
    code = "import ripe, sys; print(*({'torch', 'numpy', 'cv2', 'PIL', 'h5py'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split() == []


def imports() -> dict[str, set[str]]:
    """What each module of the package imports of it: at its top, in functions, and for types alone."""
    root = Path(ripe.__file__).parent
    paths = {".".join(("ripe", *path.relative_to(root).with_suffix("").parts)): path for path in root.rglob("*.py")}
    modules = {name.removesuffix(".__init__"): path for name, path in paths.items()}
    found: dict[str, set[str]] = {name: set() for name in modules if name != "ripe"}  # that one names what is public
    for name in found:
        for node in ast.walk(ast.parse(modules[name].read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.module is not None and node.module.split(".")[0] == "ripe":
                whole = {f"{node.module}.{alias.name}" for alias in node.names}
                found[name] |= {each if each in modules else node.module for each in whole} - {name, "ripe"}
            assert not (isinstance(node, ast.ImportFrom) and node.level), f"{name}: imports are written in full"
    return found


def test_no_module_imports_in_a_circle() -> None:
    graphlib.TopologicalSorter(imports()).prepare()  # raises CycleError, which names the circle


def test_no_import_runs_up() -> None:
    order = ORDER.split()

    def place(module: str) -> int:
        part = module.split(".")[1]
        assert part in order, f"{module}: say in ORDER where ripe.{part} stands"
        return order.index(part)

    upwards = [
        f"{module} imports {other}"
        for module, found in imports().items()
        for other in found
        if place(other) > place(module)
    ]
    assert upwards == []


def test_every_public_name_is_there() -> None:
    assert all(hasattr(ripe, name) for name in ripe.__all__)
    assert set(ripe.__all__) <= set(dir(ripe))
    assert ripe.__version__.count(".") == 2


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = ripe.nothing


@pytest.mark.parametrize("order", ["import_pycolmap(); import ripe.drawing", "import ripe.drawing; import_pycolmap()"])
def test_pictures_survive_pycolmap(order: str, tmp_path: Path) -> None:
    """A process that imports pycolmap 4.2 before zlib's other users dies of writing a PNG; our way in must not."""
    pytest.importorskip("pycolmap")
    path = tmp_path / "a.png"
    code = (
        f"from ripe.integrations.colmap import import_pycolmap; {order}; import cv2, numpy, ripe.drawing as drawing;"
        "picture = numpy.zeros((9, 9, 3), dtype=numpy.uint8);"
        f"drawing.save_picture(picture, {str(path)!r}); cv2.imwrite({str(path)!r}, picture)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    assert path.is_file()


def test_evaluation_and_reconstruction_do_not_need_each_other() -> None:
    for package, other in (("evaluation", "reconstruction"), ("reconstruction", "evaluation")):
        for path in (Path(ripe.__file__).parent / package).rglob("*.py"):
            assert f"ripe.{other}" not in path.read_text(encoding="utf-8"), path
