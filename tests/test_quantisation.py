"""Files of compact in eight bits find nearly what the float32 file finds, and keep in float32 what must be."""

import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import ripe.export
from ripe import runtime
from ripe.cli import main
from ripe.quantisation import quantise

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")


@pytest.fixture(scope="module")
def int8(photos: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The shipped file in eight bits, calibrated by the bundled photos."""
    path = tmp_path_factory.mktemp("int8") / "compact_int8.onnx"
    quantise(runtime.COMPACT, path, photos)
    return path


def test_it_finds_nearly_what_float32_finds(int8: Path, photos: list[Path]) -> None:
    found, expected = (runtime.load(path, threads=1).extract(photos) for path in (int8, runtime.COMPACT))
    for ours, theirs in zip(found, expected, strict=True):
        distance = np.linalg.norm(theirs.keypoints[:500, None] - ours.keypoints, axis=-1)
        near = distance.min(axis=1) < 0.5
        assert near.mean() > 0.9
        cosine = (theirs.descriptors[:500] * ours.descriptors[distance.argmin(axis=1)]).sum(axis=1)[near]
        assert np.median(cosine) > 0.995
        assert np.median(cosine) < 0.99999  # so it is not the same network
    matches, wanted = runtime.match(*found), runtime.match(*expected)
    assert len(matches) > 0.95 * len(wanted)


def test_it_says_what_it_is(int8: Path) -> None:
    extractor, whole = runtime.load(int8, threads=1), runtime.load(threads=1)
    precision = extractor.metadata["precision"]
    assert re.fullmatch(r"int8 [0-9a-f]{8}", precision)
    assert extractor.metadata == {**whole.metadata, "precision": precision}
    assert extractor.settings() == {**whole.settings(), "precision": precision}
    assert int8.stat().st_size < 0.6 * runtime.COMPACT.stat().st_size


def test_heads_and_the_finest_maps_stay_in_float32(int8: Path) -> None:
    types = {each.name: each.data_type for each in onnx.load(int8).graph.initializer}
    eight_bits = {name for name, kind in types.items() if kind == onnx.TensorProto.INT8 and "weight" in name}
    assert {name.split(".")[3] for name in eight_bits if "zero_point" not in name} == {"2", "3", "4"}
    for name in ("stages.0.0", "stages.1.1", "stages.1.4", "stages.2.0", "full_score", "half_score", "cell_score"):
        assert types[f"model.net.{name}.weight"] == onnx.TensorProto.FLOAT


def test_the_command_calibrates_by_a_folder(
    int8: Path,
    photos: list[Path],
    random_weights: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Past photos that cannot be read. The export to float32, which takes long, has tests of its own."""
    monkeypatch.setattr(ripe.export, "export", lambda model, path, license: shutil.copy(runtime.COMPACT, path))
    folder = tmp_path / "photos"
    folder.mkdir()
    Image.open(photos[0]).resize((200, 150)).save(folder / "good.png")
    Image.fromarray(np.full((40, 40), 60_000, dtype=np.uint16)).save(folder / "deep.png")
    (folder / "bad.jpg").write_text("no photo")
    output = tmp_path / "int8.onnx"
    assert main(["export", str(random_weights), "-o", str(output), "--int8", str(folder)]) == 0
    assert capsys.readouterr().out.startswith(f"compact in {output}, ")
    [warning] = caplog.messages
    assert warning.startswith(f"{folder / 'bad.jpg'}: not an image")
    extractor = runtime.load(output, threads=1)
    assert len(extractor.extract(photos[0], resize=320)[0]) > 100
    # Features of files that were calibrated by different photos are not taken for the same.
    assert extractor.metadata["precision"] != runtime.load(int8, threads=1).metadata["precision"]


def test_what_cannot_be_done_is_said(
    int8: Path, matcher_weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "b.onnx"
    with pytest.raises(ValueError, match=r"compact_int8.onnx: not a float32 file of compact"):
        quantise(int8, output, [])
    (tmp_path / "bad.jpg").write_text("no photo")
    with pytest.raises(ValueError, match=r"bad.jpg: damaged, or no ONNX file"):
        quantise(tmp_path / "bad.jpg", output, [])
    with pytest.raises(ValueError, match="no photo to calibrate by can be read"):
        quantise(runtime.COMPACT, output, [tmp_path / "bad.jpg"])
    (tmp_path / "bad.jpg").unlink()
    for model, message in ((str(matcher_weights), "leave out --int8"), ("compact", "holds no photos to calibrate by")):
        assert main(["export", model, "-o", str(output), "--int8", str(tmp_path)]) == 1
        assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
