"""Every benchmark's reader, on the published layout; and the protocols, against Glue Factory's formulas."""

import json
import math

import numpy as np
import pytest
import skimage.data
import torch
from hypothesis import given
from hypothesis import strategies as st
from made_sets import (
    CORNER_ORIGIN,
    K0,
    K1,
    ROTATION,
    SIZE0,
    SIZE1,
    TRANSLATION,
    WARPS,
    write_annotated,
    write_hpatches,
    write_imw,
    write_megadepth,
    write_pairs,
)

from ripe.data.catalogue import SOURCES, locate
from ripe.evaluation.benchmarks import BENCHMARKS, annotated, hpatches, imw2020, megadepth1500
from ripe.evaluation.pair_sets import PairSet
from ripe.extractors import _resize_blurred, resized
from ripe.images import as_rgb
from ripe.resizing import Resizing

READERS = {
    "packaged": lambda root: megadepth1500.read(write_megadepth(root, packaged=True)),
    "calibrated": lambda root: megadepth1500.read(write_megadepth(root, packaged=False)),
    "imw2020": lambda root: imw2020.read(write_imw(root)),
    "pairs": lambda root: annotated.read(write_annotated(root))[1:],
}


def close(actual, expected, tolerance=1e-6):
    np.testing.assert_allclose(np.asarray(actual), expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("layout", READERS)
def test_cameras_and_poses_come_out_as_they_are(tmp_path, layout):
    [pairs] = READERS[layout](tmp_path)
    [pair] = pairs.pairs
    close(pair.intrinsics0, K0)
    close(pair.intrinsics1, K1)
    close(pair.rotation, ROTATION)
    close(pair.translation / pair.translation.norm(), TRANSLATION / np.linalg.norm(TRANSLATION))
    assert pairs.kind == "pose"
    if pair.size0 is not None:
        assert (pair.size0, pair.size1) == (SIZE0, SIZE1)


def test_hpatches_without_the_large_sequences(tmp_path):
    [pairs] = hpatches.read(write_hpatches(tmp_path))
    assert [pair.name for pair in pairs.pairs[:2]] == ["i_coffee/2", "i_coffee/3"]
    assert len(pairs.pairs) == 10
    assert len(pairs.images) == 12
    for pair, warp in zip(pairs.pairs[5:], WARPS.values(), strict=True):
        close(pair.homography / pair.homography[2, 2], np.asarray(warp, dtype=float))


def test_hpatches_is_scaled_as_by_glue_factory(tmp_path):
    """Its own formula: diag(s1)·H·diag(s0)⁻¹ on corners (0, 0) to (W, H) of the resized photo."""
    folder = write_hpatches(tmp_path)
    stored = np.loadtxt(folder / "v_astronaut" / "H_1_4")
    pair = hpatches.read(folder)[0].pairs[7]
    size = hpatches.PROTOCOL.resizing.apply(SIZE0)
    assert size == (int(480 * (512 / 360)), 480)
    scale = np.diag([size[0] / SIZE0[0], size[1] / SIZE0[1], 1])
    wanted = scale @ stored @ np.linalg.inv(scale)
    moved = pair.resized((SIZE0, SIZE0), (size, size))
    ours = CORNER_ORIGIN @ moved.homography.numpy() @ np.linalg.inv(CORNER_ORIGIN)
    close(ours / ours[2, 2], wanted / wanted[2, 2])
    corners = np.array([[0, 0], [size[0], 0], size, [0, size[1]]], dtype=float)
    close(moved.points0 + 0.5, corners)
    seen = np.column_stack([corners, np.ones(4)]) @ wanted.T
    close(moved.points1 + 0.5, seen[:, :2] / seen[:, 2:])


def test_megadepth_cameras_are_scaled_as_by_glue_factory(tmp_path):
    pair = megadepth1500.read(write_megadepth(tmp_path, packaged=True))[0].pairs[0]
    sizes = tuple(megadepth1500.PROTOCOL.resizing.apply(size) for size in (SIZE0, SIZE1))
    assert sizes == ((1600, 1125), (1600, 1200))
    moved = pair.resized((SIZE0, SIZE1), sizes)
    for ours, k, small, large in ((moved.intrinsics0, K0, SIZE0, sizes[0]), (moved.intrinsics1, K1, SIZE1, sizes[1])):
        scale = np.diag([large[0] / small[0], large[1] / small[1], 1])
        close(CORNER_ORIGIN @ ours.numpy(), scale @ CORNER_ORIGIN @ k)


@pytest.mark.parametrize(
    ("resizing", "size", "wanted"),
    [
        (Resizing("short", 480, enlarge=True), (640, 427), (719, 480)),
        (Resizing("short", 480, enlarge=True), (427, 640), (480, 719)),
        (Resizing("long", 1600, enlarge=True), (800, 533), (1600, 1066)),
        (Resizing("long", 1024, enlarge=False), (800, 533), (800, 533)),
        (Resizing("long", 1024, enlarge=False), (3000, 4000), (768, 1024)),
        (Resizing("long", 100, enlarge=True), (100, 50), (100, 50)),
        (Resizing("short", 50, enlarge=True), (60, 60), (50, 50)),
    ],
)
def test_resizing(resizing, size, wanted):
    assert resizing.apply(size) == wanted


def glue_factory_size(width, height, pixels, side):
    """(width, height) by the expressions of its `ImagePreprocessor.get_new_image_size`."""
    ratio = width / height
    rows, columns = (
        (pixels, int(pixels * ratio)) if (side == "short") ^ (ratio < 1.0) else (int(pixels / ratio), pixels)
    )
    return columns, rows


@given(st.integers(100, 5000), st.integers(100, 5000), st.sampled_from([("short", 480), ("long", 1600)]))
def test_sizes_round_as_in_glue_factory(width, height, wanted):
    side, pixels = wanted
    assert Resizing(side, pixels, enlarge=True).apply((width, height)) == glue_factory_size(width, height, pixels, side)


@pytest.mark.parametrize("wanted", [(90, 120), (100, 61), (299, 400), (450, 600), (300, 120)])
def test_photos_are_resized_as_in_glue_factory(wanted):
    """By kornia, with the settings of its `ImagePreprocessor`."""
    kornia = pytest.importorskip("kornia.geometry.transform")
    photo = as_rgb(skimage.data.coffee()[:300, :400])
    expected = kornia.resize(photo, wanted, antialias=True, align_corners=None, interpolation="bilinear")
    torch.testing.assert_close(_resize_blurred(photo, wanted), expected, rtol=0, atol=1e-6)


def test_published_benchmarks_are_resized_so_and_others_are_not():
    photo = as_rgb(skimage.data.coffee()[:300, :400])
    assert hpatches.PROTOCOL.resizing.blur
    assert megadepth1500.PROTOCOL.resizing.blur
    blurred, other = (resized(photo, Resizing("long", 100, enlarge=True, blur=blur)) for blur in (True, False))
    torch.testing.assert_close(blurred, _resize_blurred(photo, (75, 100)))
    assert blurred.shape == other.shape
    assert (blurred - other).abs().max() > 0.01


def test_protocols_are_those_of_the_published_tables():
    assert str(hpatches.PROTOCOL).startswith("short side 480 px, at most 1024 keypoints, mutual nearest neighbours")
    assert "PoseLib homography 0.5 px (resized photos)" in str(hpatches.PROTOCOL)
    assert hpatches.PROTOCOL.limits == (1, 3, 5)
    assert str(megadepth1500.PROTOCOL).startswith("long side 1600 px, at most 2048 keypoints, mutual nearest")
    assert "PoseLib relative pose 0.5 px (stored photos)" in str(megadepth1500.PROTOCOL)
    assert megadepth1500.PROTOCOL.limits == (5, 10, 20)
    assert "PoseLib relative pose 0.5 px (stored photos)" in str(imw2020.PROTOCOL)
    assert hpatches.PROTOCOL.published_threshold == megadepth1500.PROTOCOL.published_threshold == 1.0
    assert imw2020.PROTOCOL.published_threshold == 0.5


def test_imw_counts_a_pair_once(tmp_path):
    [pairs] = imw2020.read(write_imw(tmp_path))
    assert [pair.name for pair in pairs.pairs] == ["church/p0 p1"]
    assert pairs.images == ["church/images/p0.jpg", "church/images/p1.jpg"]


def test_a_limit_spreads_over_the_set(tmp_path):
    [pairs] = hpatches.read(write_hpatches(tmp_path))
    assert [pair.name for pair in pairs.spread(3).pairs] == ["i_coffee/2", "i_coffee/6", "v_astronaut/6"]
    assert pairs.spread(100) is pairs.spread(None) is pairs
    assert pairs.spread(3).fingerprint() != pairs.fingerprint()


@pytest.mark.parametrize("name", [name for name, benchmark in BENCHMARKS.items() if benchmark.source])
def test_a_missing_set_says_how_it_is_had(tmp_path, monkeypatch, name):
    monkeypatch.setenv("DATA_DIR", str(tmp_path))
    with pytest.raises(FileNotFoundError, match=f"get the data set by: ripe data download {name}"):
        locate(name)
    (tmp_path / SOURCES[name].folder).mkdir(parents=True)
    assert locate(name) == tmp_path / SOURCES[name].folder
    with pytest.raises(FileNotFoundError, match=r"holds n|no such file"):
        BENCHMARKS[name].read(locate(name))


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("pairs.txt", "a.jpg", "pairs.txt, line 1: give two different names"),
        ("pairs.txt", "a.jpg b.jpg", "pairs.txt, line 1: must be two names"),
        ("views.txt", "a.jpg 1 2 3", "views.txt, line 1: camera model none"),
        ("views.txt", "a.jpg " + "1 " * 12 + "FISHEYE 1 1 1 1 1", "views.txt, line 1: camera model FISHEYE"),
        ("views.txt", "a.jpg " + "1 " * 12 + "PINHOLE 1 1 x 1 1 1", "views.txt, line 1: could not convert"),
        ("views.txt", "a.jpg " + "1 " * 12 + "SIMPLE_RADIAL 9 9 9 4 4 0.1", "line 1: the photo is distorted"),
    ],
)
def test_bad_lines_of_megadepth_are_named(tmp_path, file, content, message):
    folder = write_megadepth(tmp_path, packaged=True)
    (folder / file).write_text(content)
    with pytest.raises(ValueError, match=message):
        megadepth1500.read(folder)


def test_one_focal_length_and_no_distortion(tmp_path):
    folder = write_megadepth(tmp_path, packaged=True)
    text = (folder / "views.txt").read_text()
    words = text.splitlines()[0].split()
    simple = [*words[:13], "SIMPLE_RADIAL", "512", "360", "450", "259.5", "181.5", "0"]
    (folder / "views.txt").write_text(" ".join(simple) + "\n" + text.splitlines()[1] + "\n")
    close(megadepth1500.read(folder)[0].pairs[0].intrinsics0, [[450, 0, 259], [0, 450, 181], [0, 0, 1]])


def test_bad_files_are_named(tmp_path):
    folder = write_hpatches(tmp_path)
    (folder / "i_coffee" / "H_1_3").write_text("1 0 0\n0 1\n")
    with pytest.raises(ValueError, match="i_coffee/H_1_3: not a matrix"):
        hpatches.read(folder)
    (folder / "i_coffee" / "H_1_3").write_text("1 0\n0 1\n")
    with pytest.raises(ValueError, match="i_coffee/H_1_3: must hold 3×3"):
        hpatches.read(folder)
    folder = write_imw(tmp_path)
    (folder / "church" / "calibration" / "calibration_p1.h5").write_text("")
    with pytest.raises(ValueError, match=r"calibration_p1\.h5: not a calibration"):
        imw2020.read(folder)
    (folder / "dataset.json").write_text('{"church": {"images": []}}')
    with pytest.raises(ValueError, match=r"dataset\.json: not DISK's layout"):
        imw2020.read(folder)


def edit(folder, change):
    content = json.loads((folder / "pairs.json").read_text())
    change(content)
    (folder / "pairs.json").write_text(json.dumps(content))


BAD_PAIRS = {
    "`model` is 'essential'": lambda content: content.update(model="essential"),
    "list `pairs`": lambda content: content.pop("pairs"),
    "lists no pairs": lambda content: content.update(pairs=[]),
    "pair 0: `image1` is missing": lambda content: content["pairs"][0].pop("image1"),
    "pair 1: `points0` must be K×2 numbers": lambda content: content["pairs"][1].update(points0=[[1, "x"]]),
    "pair 1: `points1` holds NaN": lambda content: content["pairs"][1].update(points1=[[math.nan, 1]] * 5),
    "pair 2: 4 and 5 points": lambda content: content["pairs"][2]["points0"].pop(),
    "two pairs are named 'shift'": lambda content: content["pairs"][2].update(name="shift"),
    "pair 0: its points do not determine": lambda content: content["pairs"][0].update(points0=[[1, 1]] * 5),
    "pair 0: `H` must be 3×3 numbers": lambda content: content["pairs"][0].update(H=[1, 2]),
    "pair 0: `H` cannot be inverted": lambda content: content["pairs"][0].update(H=[[1, 0, 0], [0, 1, 0], [0, 0, 0]]),
    "pair 0: 5 and 5 points; there must be as many of both, 8": lambda content: content.update(model="fundamental"),
    "pair 0: must be an object": lambda content: content.update(pairs=["shift"]),
}


@pytest.mark.parametrize("message", BAD_PAIRS)
def test_bad_annotations_are_named(tmp_path, message):
    folder = write_annotated(tmp_path) / "homography"
    edit(folder, BAD_PAIRS[message])
    with pytest.raises(ValueError, match=message):
        annotated.read_annotated(folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [({"K0": [[0] * 3] * 3}, "`K0` has focal"), ({"T_0to1": [[0] * 4] * 4}, "no translation"), ({"K1": 3}, "`K1`")],
)
def test_bad_cameras_are_named(tmp_path, change, message):
    folder = write_annotated(tmp_path) / "pose"
    edit(folder, lambda content: content["pairs"][0].update(change))
    with pytest.raises(ValueError, match=f"pair 0: .*{message}"):
        annotated.read_annotated(folder)


def test_missing_things_are_named(tmp_path):
    root = write_annotated(tmp_path / "set")
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match="nowhere: no such folder"):
        annotated.read(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match=r"empty: holds no pairs\.json"):
        annotated.read(tmp_path / "empty")
    with pytest.raises(FileNotFoundError, match=r"pairs\.json: no such file"):
        annotated.read_annotated(tmp_path / "empty")
    (root / "homography" / "turn_0.png").unlink()
    with pytest.raises(FileNotFoundError, match=r"turn_0\.png: no such file"):
        annotated.read(root)
    (root / "pose" / "pairs.json").write_text("{")
    with pytest.raises(ValueError, match=r"pairs\.json: not valid JSON"):
        annotated.read_annotated(root / "pose")
    write_pairs(root / "pose", [], "pose")
    with pytest.raises(ValueError, match="lists no pairs"):
        annotated.read_annotated(root / "pose")


def test_a_set_is_known_by_its_photos(tmp_path):
    first, second = (hpatches.read(write_hpatches(tmp_path / name))[0] for name in ("a", "b"))
    assert isinstance(first, PairSet)
    assert first.fingerprint() == second.fingerprint()
    with second.path("i_coffee/3.ppm").open("ab") as file:
        file.write(b"x")
    assert first.fingerprint() != second.fingerprint()
    assert torch.equal(first.pairs[0].homography, second.pairs[0].homography)
