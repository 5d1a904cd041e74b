"""Files in half precision find what the float32 file finds, and keep in float32 what must be."""

from pathlib import Path

import numpy as np
import pytest

import ripe.export
from ripe import runtime
from ripe.cli import main
from ripe.halving import halve

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")


@pytest.fixture(scope="module")
def half(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The shipped file in half precision."""
    path = tmp_path_factory.mktemp("half") / "compact_half.onnx"
    halve(runtime.COMPACT, path)
    return path


def test_it_finds_what_float32_finds(half: Path, photos: list[Path]) -> None:
    found, expected = (runtime.load(path, threads=1).extract(photos) for path in (half, runtime.COMPACT))
    for ours, theirs in zip(found, expected, strict=True):
        distance = np.linalg.norm(theirs.keypoints[:, None] - ours.keypoints, axis=-1)
        near = distance.min(axis=1) < 0.05
        assert near.mean() > 0.99
        cosine = (theirs.descriptors * ours.descriptors[distance.argmin(axis=1)]).sum(axis=1)[near]
        assert cosine.min() > 0.999
        assert not np.array_equal(theirs.scores, ours.scores)  # so it is not the same network


def test_positions_beyond_what_a_half_knows(half: Path) -> None:
    image = np.random.default_rng(0).integers(0, 255, (64, 3000, 3), dtype=np.uint8)
    found, expected = (runtime.load(path, threads=1).extract(image)[0] for path in (half, runtime.COMPACT))
    right = expected.keypoints[expected.keypoints[:, 0] > 2050]
    assert len(right) > 100
    assert (np.linalg.norm(right[:, None] - found.keypoints, axis=-1).min(axis=1) < 0.05).mean() > 0.95


def test_it_says_what_it_is_and_is_smaller(half: Path) -> None:
    extractor, whole = runtime.load(half, threads=1), runtime.load(threads=1)
    assert extractor.metadata == {**whole.metadata, "precision": "float16"}
    assert extractor.settings() == {**whole.settings(), "precision": "float16"}
    assert half.stat().st_size < 0.65 * runtime.COMPACT.stat().st_size
    types = {each.name: each.data_type for each in onnx.load(half).graph.initializer}
    assert types["model.net.stages.2.1.weight"] == onnx.TensorProto.FLOAT16
    for name in ("full_score", "half_score", "cell_score"):
        assert types[f"model.net.{name}.weight"] == onnx.TensorProto.FLOAT


def test_the_command_writes_the_same_file(
    half: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def export(_model: object, path: Path, *, license: str) -> None:
        assert license == "Apache-2.0"
        path.write_bytes(runtime.COMPACT.read_bytes())

    monkeypatch.setattr(ripe.export, "export", export)  # it takes long, and is tested elsewhere
    assert main(["export", "-o", str(tmp_path / "half.onnx"), "--float16"]) == 0
    assert capsys.readouterr().out == f"compact in {tmp_path / 'half.onnx'}, 2.1 MB\n"
    assert (tmp_path / "half.onnx").read_bytes() == half.read_bytes()


def test_what_cannot_be_done_is_said(half: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ValueError, match="not a float32 file of an extractor"):
        halve(half, tmp_path / "again.onnx")
    (tmp_path / "no.onnx").write_bytes(b"none")
    with pytest.raises(ValueError, match="damaged, or no ONNX file"):
        halve(tmp_path / "no.onnx", tmp_path / "half.onnx")
    assert main(["export", "lightglue", "-o", str(tmp_path / "half.onnx"), "--float16"]) == 1
    assert "leave out --int8 and --float16" in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["no.onnx"]
