"""The runtime without PyTorch gives what PyTorch gives, from the ONNX file that comes with the package."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

import ripe
from ripe import runtime
from ripe.cli import main
from ripe.pretrained import MODELS, model_settings, weights_hash
from ripe.storage import read_features

pytest.importorskip("onnxruntime")


@pytest.fixture(scope="module")
def extractor() -> runtime.Extractor:
    return runtime.load(threads=1)


@pytest.fixture(scope="module")
def compact() -> ripe.RIPE:
    return ripe.load(device="cpu")


@pytest.fixture(scope="module")
def small(photos: list[Path]) -> np.ndarray:
    with Image.open(photos[0]) as image:
        return np.asarray(image.resize((313, 211)))


def assert_same(found: runtime.Features, expected: ripe.Features) -> None:
    """Nearly all keypoints within 0.05 px, and the descriptors of all of these nearly equal."""
    assert found.image_size == expected.image_size
    assert abs(len(found) - len(expected)) <= 0.01 * len(expected)
    distance = np.linalg.norm(found.keypoints[:, None] - expected.keypoints.numpy(), axis=-1)
    nearest = distance.argmin(axis=1)
    same = distance.min(axis=1) < 0.05
    assert same.mean() >= 0.99
    cosine = (found.descriptors * expected.descriptors.numpy()[nearest]).sum(axis=1)[same]
    assert cosine.min() > 0.999
    np.testing.assert_allclose(found.scores[same], expected.scores.numpy()[nearest][same], atol=0.01)


def test_the_file_is_of_the_weights_that_are_shipped(extractor: runtime.Extractor, compact: ripe.RIPE) -> None:
    """Otherwise: ripe export compact -o ripe/weights/compact.onnx."""
    assert extractor.metadata["weights_sha256"] == weights_hash(compact)
    assert extractor.settings() == model_settings(compact)
    assert extractor.settings(threshold=-3.0) == model_settings(compact, -3.0)
    assert extractor.metadata["license"] == MODELS["compact"].license
    assert "(0, 0)" in extractor.metadata["coordinates"]


def test_the_recorded_features_are_of_the_weights_that_are_shipped(
    extractor: runtime.Extractor, compact: ripe.RIPE, photos: list[Path]
) -> None:
    """Otherwise: python benchmarks/backends.py --record."""
    with np.load(Path(__file__).parents[1] / "benchmarks" / "backends.npz") as recorded:
        assert str(recorded["weights"]) == weights_hash(compact)
        assert str(recorded["matcher"]) == ripe.load_matcher(device="cpu").settings()["matcher_weights"]
        keypoints = recorded["motorcycle left keypoints"]
    [found] = extractor.extract(photos[0])
    distance = np.linalg.norm(keypoints[:, None] - found.keypoints, axis=-1).min(axis=1)
    assert (distance < 0.05).mean() >= 0.99


def test_photos_give_what_pytorch_gives(extractor: runtime.Extractor, compact: ripe.RIPE, photos: list[Path]) -> None:
    found, expected = extractor.extract(photos), compact.extract(photos)
    for side in range(2):
        assert_same(found[side], expected[side])
    matches, wanted = runtime.match(*found), ripe.match(*expected)
    joined = {tuple(np.round(np.concatenate(pair), 0)) for pair in zip(*matches.points(*found), strict=True)}
    wanted_joined = {tuple(np.round(np.concatenate(pair), 0)) for pair in zip(*wanted.points(*expected), strict=True)}
    assert len(joined & wanted_joined) > 0.97 * len(wanted_joined)


@pytest.mark.parametrize("size", [(16, 16), (16, 45), (97, 33), (128, 160)])
def test_any_size_works(extractor: runtime.Extractor, compact: ripe.RIPE, small: np.ndarray, size: tuple) -> None:
    image = np.ascontiguousarray(small[60 : 60 + size[0], 80 : 80 + size[1]])
    [expected] = compact.extract(image, threshold=-1e9)
    assert len(expected) > 0
    assert_same(extractor.extract(image, threshold=-1e9)[0], expected)


@pytest.mark.parametrize(
    "options",
    [{"max_keypoints": 30}, {"max_keypoints": None}, {"threshold": 0.5}, {"resize": 200}, {"resize": 400}],
    ids=str,
)
def test_options_do_what_they_do_in_pytorch(
    extractor: runtime.Extractor, compact: ripe.RIPE, small: np.ndarray, options: dict
) -> None:
    expected = compact.extract(small, **options)[0]
    assert len(expected) > 0
    assert_same(extractor.extract(small, **options)[0], expected)


def test_masks_do_what_they_do_in_pytorch(
    extractor: runtime.Extractor, compact: ripe.RIPE, small: np.ndarray, tmp_path: Path
) -> None:
    mask = np.zeros(small.shape[:2], dtype=np.uint8)
    mask[20:150, 50:201] = 255
    cv2.imwrite(str(tmp_path / "mask.png"), mask)
    for given in (mask, tmp_path / "mask.png"):
        found = extractor.extract(small, masks=[given], max_keypoints=100, resize=160)[0]
        assert_same(found, compact.extract(small, masks=[mask], max_keypoints=100, resize=160)[0])
    with pytest.raises(ValueError, match="a mask is 313×10 pixels, and an image is 313×211"):
        extractor.extract(small, masks=[mask[:10]])


@pytest.mark.parametrize("kind", ["grey", "rgba", "uint16", "float", "pillow"])
def test_kinds_of_images(extractor: runtime.Extractor, compact: ripe.RIPE, small: np.ndarray, kind: str) -> None:
    alpha = np.zeros((*small.shape[:2], 1), dtype=np.uint8)
    image = {
        "grey": small[:, :, 0],
        "rgba": np.concatenate([small, alpha], axis=2),
        "uint16": small.astype(np.uint16) * 257,
        "float": small / 255,
        "pillow": Image.fromarray(small),
    }[kind]
    assert_same(extractor.extract(image)[0], compact.extract(image)[0])


def test_nothing_found_is_a_result(extractor: runtime.Extractor, small: np.ndarray) -> None:
    flat = np.full((64, 64, 3), 128, dtype=np.uint8)
    for found in extractor.extract([flat, small], threshold=1e6):
        assert found.keypoints.shape == (0, 2)
        assert found.descriptors.shape == (0, 128)
        assert len(runtime.match(found, found)) == 0


def test_a_batch_in_the_graph_gives_what_single_images_give(small: np.ndarray) -> None:
    """What users of the bare file rely on: defaults for two inputs, counts, and falling scores that end in −inf."""
    import onnxruntime

    session = onnxruntime.InferenceSession(runtime.COMPACT, providers=["CPUExecutionProvider"])
    assert [value.name for value in session.get_inputs()] == ["image"]
    assert {value.name for value in session.get_overridable_initializers()} == {"threshold", "max_keypoints"}
    batch = np.stack([small, small[::-1], np.full_like(small, 90)]).transpose(0, 3, 1, 2).astype(np.float32) / 255
    keypoints, scores, descriptors, counts = session.run(None, {"image": batch})
    assert keypoints.shape == (*scores.shape, 2)
    assert scores.shape[1] == counts.max()
    assert counts[0] > counts[2] == 0
    for index in range(3):
        single = session.run(None, {"image": batch[index : index + 1]})
        count = counts[index]
        assert count == single[3][0]
        assert np.isneginf(scores[index, count:]).all()
        for part, alone in zip((keypoints, scores, descriptors), single, strict=False):
            np.testing.assert_allclose(part[index, :count], alone[0], atol=1e-3)


@pytest.mark.parametrize("options", [{}, {"ratio": 0.9}, {"min_similarity": 0.8}, {"ratio": 1.0}], ids=str)
def test_matches_are_those_of_pytorch(options: dict, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    parts = []
    for count in (300, 257):
        descriptors = rng.normal(size=(count, 8)).astype(np.float32)
        descriptors[5:8] = descriptors[5]  # equally near ones
        descriptors /= np.linalg.norm(descriptors, axis=1, keepdims=True)
        keypoints = rng.random((count, 2)).astype(np.float32)
        parts.append((keypoints, np.zeros(count, dtype=np.float32), descriptors))
    arrays = [runtime.Features(*part, (1, 1)) for part in parts]
    tensors = [ripe.Features(*map(torch.from_numpy, part), (1, 1)) for part in parts]
    expected = ripe.match(*tensors, **options)
    for block in (runtime.BLOCK, 1000):
        monkeypatch.setattr(runtime, "BLOCK", block)
        found = runtime.match(*arrays, **options)
        np.testing.assert_array_equal(found.indices, expected.indices.numpy())
        np.testing.assert_allclose(found.scores, expected.scores.numpy(), atol=1e-6)
    assert 10 < len(expected) < 257


def test_features_are_saved_as_those_of_pytorch(
    extractor: runtime.Extractor, small: np.ndarray, tmp_path: Path
) -> None:
    [found] = extractor.extract(small, max_keypoints=20)
    found.save(tmp_path / "a.npz")
    loaded = ripe.load_features(tmp_path / "a.npz")
    np.testing.assert_array_equal(loaded.descriptors.numpy(), found.descriptors)
    assert loaded.image_size == found.image_size


def test_what_is_wrong_is_said(extractor: runtime.Extractor, small: np.ndarray, tmp_path: Path) -> None:
    (tmp_path / "damaged.onnx").write_bytes(runtime.COMPACT.read_bytes()[:1000])
    with pytest.raises(ValueError, match=r"damaged.onnx: cannot be run by ONNX Runtime"):
        runtime.load(tmp_path / "damaged.onnx")
    with pytest.raises(FileNotFoundError, match=r"missing.onnx: no such file; `ripe export NAME -o FILE` writes one"):
        runtime.load(tmp_path / "missing.onnx")
    with pytest.raises(ValueError, match="max_keypoints is 0"):
        extractor.extract(small, max_keypoints=0)
    with pytest.raises(ValueError, match="resize is 3"):
        extractor.extract(small, resize=3)
    with pytest.raises(ValueError, match="shape"):
        extractor.extract(np.zeros((20, 20, 2), dtype=np.uint8))
    with pytest.raises(ValueError, match="uint8, uint16 or floating point"):
        extractor.extract(np.zeros((20, 20, 3), dtype=np.int32))
    with pytest.raises(ValueError, match="NaN"):
        extractor.extract(np.full((20, 20, 3), np.nan))
    with pytest.raises(ValueError, match="2 masks for 1 images"):
        extractor.extract(small, masks=[None, None])
    failures: list[tuple[int, str]] = []
    stream = extractor.extract_stream(
        [tmp_path / "missing.png", small], failed=lambda index, error: failures.append((index, str(error)))
    )
    assert [index for index, _ in stream] == [1]
    assert failures == [(0, f"{tmp_path / 'missing.png'}: no such file")]


# Without PyTorch

BLOCKED = ("torch", "kornia", "poselib", "matplotlib", "cv2")


def run_without_torch(code: str, *words: object) -> subprocess.CompletedProcess[str]:
    start = f"import sys; sys.modules.update(dict.fromkeys({BLOCKED!r})); "
    command = [sys.executable, "-c", start + code, *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})


def test_extraction_and_matching_need_no_pytorch(
    extractor: runtime.Extractor, photos: list[Path], tmp_path: Path
) -> None:
    code = (
        "from ripe import runtime; model = runtime.load(threads=1); "
        "found = model.extract(sys.argv[1:3], resize=320); matches = runtime.match(*found); "
        "print(len(found[0]), len(found[1]), len(matches))"
    )
    result = run_without_torch(code, *photos)
    assert result.returncode == 0, result.stderr
    found = extractor.extract(photos, resize=320)
    assert list(map(int, result.stdout.split())) == [*map(len, found), len(runtime.match(*found))]


COMMAND = "from ripe.cli import main; sys.exit(main(sys.argv[1:]))"


def test_the_command_extracts_without_pytorch_what_it_extracts_with_it(photos: list[Path], tmp_path: Path) -> None:
    options = ["--resize", "320", "--max-keypoints", "200"]
    result = run_without_torch(COMMAND, "extract", *photos, "-o", tmp_path / "a.h5", "--backend", "onnx", *options)
    assert result.returncode == 0, result.stderr
    assert main(["extract", *map(str, photos), "-o", str(tmp_path / "b.h5"), "--device", "cpu", *options]) == 0
    found, expected = (read_features(tmp_path / name) for name in ("a.h5", "b.h5"))
    for name, arrays in expected.items():
        same = np.linalg.norm(found[name]["keypoints"] - arrays["keypoints"], axis=1) < 0.05
        assert same.mean() > 0.95  # two of nearly equal scores may change places
    # The same settings: what one back end has begun, the other continues.
    again = ["extract", *map(str, photos), "-o", str(tmp_path / "a.h5"), "--device", "cpu", *options]
    assert main(again) == 0


def test_what_needs_pytorch_says_so(photos: list[Path], tmp_path: Path) -> None:
    result = run_without_torch(COMMAND, "match", *photos)
    assert result.returncode == 1
    assert re.fullmatch(
        r"ripe: error: this needs (torch|cv2), which is not installed \(pip install ripe-keypoints brings all; "
        r"ripe extract --backend onnx does without PyTorch\)\n",
        result.stderr,
    )
    result = run_without_torch("import ripe; ripe.load")
    assert "ImportError: ripe.load needs torch, which is not installed; `ripe.runtime` does without" in result.stderr


def test_importing_the_runtime_loads_little() -> None:
    code = "import ripe.runtime; print(*({'torch', 'onnxruntime', 'cv2', 'h5py'} & set(sys.modules)))"
    result = subprocess.run([sys.executable, "-c", f"import sys; {code}"], capture_output=True, text=True, check=True)
    assert result.stdout.split() == []


def test_the_command_matches_by_either_back_end(photos: list[Path], tmp_path: Path) -> None:
    inliers = []
    for backend in ("onnx", "torch"):
        path = tmp_path / f"{backend}.json"
        options = ["--backend", backend, "--resize", "320", "--json", str(path)]
        assert main(["match", *map(str, photos), *options]) == 0
        written = json.loads(path.read_text())
        assert written["settings"]["backend"] == backend
        assert written["settings"]["threshold"] == -6.0
        inliers.append(sum(written["inliers"]))
    assert abs(inliers[0] - inliers[1]) < 0.1 * inliers[1]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--device", "cpu"], "leave out --device and --precision"),
        (["--precision", "bfloat16"], "leave out --device and --precision"),
        (["--model", "vgg_hyper"], "ripe export vgg_hyper -o FILE.onnx writes one"),
        (["--model", "nothing.onnx"], "nothing.onnx: no such file"),
    ],
    ids=str,
)
def test_options_that_do_not_go_with_the_back_end(
    options: list[str], message: str, photos: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["extract", str(photos[0]), "-o", str(tmp_path / "a.h5"), "--backend", "onnx", *options]
    assert main(words) == 1
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
