"""Try the installed `ripe-keypoints-onnx`: `python smoke_onnx.py`, outside the checkout; prints its size and times."""

import contextlib
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np

import ripe
from ripe import runtime
from ripe.cli import main

TIMED = "import time; start = time.process_time(); {}; print(time.process_time() - start)"
NOT_OURS = {"pip", "setuptools", "pkg_resources"}


def seconds(code: str) -> float:
    """The least processor time of five fresh processes for `code`."""
    command = [sys.executable, "-c", TIMED.format(code)]
    return min(float(subprocess.run(command, check=True, capture_output=True, text=True).stdout) for _ in range(5))


def check() -> None:
    """Use it, without what is not there."""
    assert "site-packages" in Path(ripe.__file__).parts
    assert ripe.__version__.count(".") == 2
    assert not [name for name in ("torch", "cv2", "poselib") if find_spec(name)]
    photos = [Path(ripe.__file__).parent / "assets" / f"motorcycle_{side}.jpg" for side in ("left", "right")]
    features0, features1 = runtime.load().extract(photos)
    points0, points1 = runtime.match(features0, features1).points(features0, features1)
    assert len(points0) > 500
    assert np.median(np.abs(points0[:, 1] - points1[:, 1])) < 1  # a rectified pair
    assert main(["extract", *map(str, photos), "-o", "features_onnx.h5", "--backend", "onnx"]) == 0
    assert main(["match", *map(str, photos)]) == 1  # says that this needs PyTorch
    with contextlib.suppress(SystemExit):
        main(["--help"])

    installed = Path(sys.prefix) / "lib"
    files = [path for path in installed.rglob("*") if path.is_file() and not NOT_OURS & set(path.parts)]
    compiled = sum(path.stat().st_size for path in files if path.suffix == ".pyc")
    size = sum(path.stat().st_size for path in files)
    print(f"{size / 1e6:.0f} MB with all dependencies, {(size - compiled) / 1e6:.0f} without compiled Python")
    print(f"import ripe.runtime: {seconds('import ripe.runtime'):.2f} s")
    print(f"with runtime.load(): {seconds('import ripe.runtime; ripe.runtime.load(threads=1)'):.2f} s")


if __name__ == "__main__":
    check()
