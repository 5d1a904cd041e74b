"""Install the wheels and the sdist of a folder, each in an environment of its own, and try them there.

    python package_tests/install.py dist sbom

Nothing but what the package declares is installed, so a forgotten dependency or file shows here. What each wheel
brings along is written to the second folder, in CycloneDX's format (an SBOM).
"""

import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[1]


def main(dist: Path, sbom: Path) -> None:
    """Try each archive; the first failure ends it."""
    sbom.mkdir(exist_ok=True)
    [wheel], [sdist] = dist.glob("ripe_keypoints-*.whl"), dist.glob("*.tar.gz")
    [light] = dist.glob("ripe_keypoints_onnx-*.whl")
    with tempfile.TemporaryDirectory() as folder:
        python = _environment(Path(folder) / "environment")
        for archive, options in ((wheel, []), (sdist, ["--no-deps", "--force-reinstall"])):
            constraints = ["-c", ROOT / "constraints.txt"]
            _run(python, "-m", "pip", "install", "--quiet", *constraints, *options, archive.resolve(), cwd=folder)
            _run(python, ROOT / "package_tests" / "smoke.py", ROOT / "ripe", cwd=folder)
            print(f"{archive.name}: installed and works")
        _list_packages(python, sbom / f"{wheel.stem}.cdx.json")
        python = _environment(Path(folder) / "light")
        _run(python, "-m", "pip", "install", "--quiet", light.resolve(), cwd=folder)
        _run(python, ROOT / "package_tests" / "smoke_onnx.py", cwd=folder)
        print(f"{light.name}: installed and works without PyTorch")
        _list_packages(python, sbom / f"{light.stem}.cdx.json")


def _environment(folder: Path) -> Path:
    _run(sys.executable, "-m", "venv", folder)
    return folder / "bin" / "python"


def _list_packages(python: Path, path: Path) -> None:
    """Write what is installed in an environment, with versions and licences."""
    command = "cyclonedx_py", "environment", "--output-reproducible", "--output-file", path, python
    _run(sys.executable, "-m", *command)


def _run(*command: str | Path, cwd: str | None = None) -> None:
    subprocess.run([str(word) for word in command], cwd=cwd, check=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
