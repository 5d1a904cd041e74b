"""The shipped ONNX file in other hands: the C++ example, built and run, and OpenCV's own reader."""

import shutil
import subprocess
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from ripe import runtime

onnxruntime = pytest.importorskip("onnxruntime")

EXAMPLE = Path(__file__).parents[1] / "examples" / "cpp"
HEADERS = [Path(folder) / "onnxruntime" for folder in ("/usr/include", "/usr/local/include")]


@pytest.fixture(scope="module")
def pair(photos: list[Path], tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Parts of the two bundled photos, of two sizes, as PPM files."""
    folder = tmp_path_factory.mktemp("photos")
    for photo, box in zip(photos, ((100, 60, 500, 360), (60, 40, 521, 371)), strict=True):
        with Image.open(photo) as image:
            image.crop(box).save(folder / f"{photo.stem}.ppm")
    return [folder / f"{photo.stem}.ppm" for photo in photos]


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The C++ example, linked with the library of ONNX Runtime's Python package."""
    if shutil.which("cmake") is None or shutil.which("c++") is None:
        pytest.skip("there is no CMake or no C++ compiler (Debian: apt-get install cmake g++)")
    headers = next((folder for folder in HEADERS if (folder / "onnxruntime_cxx_api.h").is_file()), None)
    if headers is None:
        pytest.skip("ONNX Runtime's headers are not installed (Debian 13: apt-get install libonnxruntime-dev)")
    library = next((Path(onnxruntime.__file__).parent / "capi").glob("libonnxruntime.so.*"), None)
    if library is None:
        pytest.skip(f"onnxruntime {onnxruntime.__version__} comes without a library of its own")
    folder = tmp_path_factory.mktemp("build")
    for name in ("libonnxruntime.so", "libonnxruntime.so.1"):  # for the linker, and for the program
        (folder / name).symlink_to(library)
    found = [f"-DONNXRUNTIME_INCLUDE={headers}", f"-DONNXRUNTIME_LIBRARY={folder / 'libonnxruntime.so'}"]
    warnings = "-DCMAKE_CXX_FLAGS=-Wall -Wextra -Werror"
    for command in (["cmake", "-S", EXAMPLE, "-B", folder, warnings, *found], ["cmake", "--build", folder]):
        result = subprocess.run(command, capture_output=True, text=True)
        assert result.returncode == 0, result.stdout + result.stderr
    return folder / "match"


def test_the_cpp_example_finds_the_matches_of_the_runtime(program: Path, pair: list[Path]) -> None:
    result = subprocess.run([program, runtime.COMPACT, *pair], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    found = np.loadtxt(result.stdout.splitlines())
    features = runtime.load().extract(pair)
    matches = runtime.match(*features)
    expected = np.hstack([*matches.points(*features), matches.scores[:, None]])
    assert len(expected) > 500
    assert abs(len(found) - len(expected)) <= 0.01 * len(expected)
    distances = np.abs(found[:, None, :4] - expected[None, :, :4]).max(axis=2)
    near = distances.min(axis=1) < 0.05
    assert near.mean() > 0.99
    np.testing.assert_allclose(found[near, 4], expected[distances.argmin(axis=1)[near], 4], atol=0.001)


def test_the_cpp_example_says_what_is_wrong(program: Path, pair: list[Path], tmp_path: Path) -> None:
    def error(*words: object) -> str:
        result = subprocess.run([program, *words], capture_output=True, text=True)
        assert result.returncode == 1
        assert result.stdout == ""
        return result.stderr

    assert error() == "match MODEL.onnx FIRST.ppm SECOND.ppm\n"
    assert "nothing.onnx" in error("nothing.onnx", *pair)
    (tmp_path / "cut.ppm").write_bytes(pair[0].read_bytes()[:-1])
    assert error(runtime.COMPACT, pair[0], tmp_path / "cut.ppm") == f"{tmp_path / 'cut.ppm'}: ends early\n"
    assert f"{program}: no binary PPM file of 8 bits" in error(runtime.COMPACT, program, pair[1])
    blank = tmp_path / "blank.ppm"
    Image.new("RGB", (120, 100), (90, 90, 90)).save(blank)
    for photos in ((blank, pair[0]), (pair[0], blank)):
        result = subprocess.run([program, runtime.COMPACT, *photos], capture_output=True, text=True)
        assert (result.returncode, result.stdout) == (0, "")


def test_opencv_computes_what_onnx_runtime_does(pair: list[Path]) -> None:
    if int(cv2.__version__.split(".")[0]) < 5:
        pytest.skip(f"OpenCV {cv2.__version__} cannot read images of any size; 5.0 can")
    network = cv2.dnn.readNetFromONNX(str(runtime.COMPACT))
    for path, expected in zip(pair, runtime.load().extract(pair), strict=True):
        network.setInput(cv2.dnn.blobFromImage(cv2.imread(str(path)), 1 / 255, swapRB=True), "image")
        keypoints, _, descriptors, counts = network.forward(["keypoints", "scores", "descriptors", "counts"])
        assert counts.tolist() == [len(expected)]
        distances = np.linalg.norm(keypoints[0][:, None] - expected.keypoints, axis=2)
        near = distances.min(axis=1) < 0.05
        assert near.mean() > 0.99
        cosines = (descriptors[0] * expected.descriptors[distances.argmin(axis=1)]).sum(axis=1)
        assert cosines[near].min() > 0.999
