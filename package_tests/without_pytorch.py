"""Build the wheel of `ripe-keypoints-onnx`: the same package for machines that have no room for PyTorch.

    python package_tests/without_pytorch.py dist

Name and dependencies are its own, everything else is that of `ripe-keypoints`, in place of which it is installed.
"""

import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]
SOURCES = ("pyproject.toml", "README.md", "LICENSE", "NOTICE", "ripe")
NAME = "ripe-keypoints-onnx"
KEPT = {"filelock", "h5py", "numpy", "pillow", "tqdm"}
"""What `ripe.runtime` and `ripe extract --backend onnx` need of the dependencies, beside ONNX Runtime."""


def described(pyproject: str) -> str:
    """The pyproject.toml of the distribution without PyTorch, made of that of the whole one."""
    project = tomllib.loads(pyproject)["project"]
    kept = [requirement for requirement in project["dependencies"] if re.split(r"[^\w-]", requirement)[0] in KEPT]
    needed = [*kept, *project["optional-dependencies"]["onnx"]]
    changes = {
        r'^name = "ripe-keypoints"$': f'name = "{NAME}"',
        r"^dependencies = \[\n.*?^\]$": f"dependencies = {needed!r}",
        r"^\[project\.optional-dependencies\]\n.*?\n\n": "",
    }
    for pattern, replacement in changes.items():
        pyproject, count = re.subn(pattern, replacement, pyproject, flags=re.MULTILINE | re.DOTALL)
        assert count == 1, pattern
    return pyproject


def build(dist: Path) -> None:
    """Build it from a copy of the sources."""
    with tempfile.TemporaryDirectory() as folder:
        for name in SOURCES:
            if (ROOT / name).is_dir():
                shutil.copytree(ROOT / name, Path(folder) / name, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy(ROOT / name, folder)
        pyproject = Path(folder) / "pyproject.toml"
        pyproject.write_text(described(pyproject.read_text()))
        command = [sys.executable, "-m", "build", "--wheel", "--quiet", "--outdir", str(dist.resolve()), folder]
        subprocess.run(command, check=True)


if __name__ == "__main__":
    build(Path(sys.argv[1]))
