"""`ripe reconstruct` on a rendered room whose cameras are known, and its parts on what COLMAP synthesises."""

import base64
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import h5py
import numpy as np
import pytest
import torch
from made_scene import cameras, write
from PIL import Image

from ripe.cli import main
from ripe.extract_many import Extraction
from ripe.features import Features
from ripe.filters import MUTUAL, MatchFilter
from ripe.geometry.intrinsics import camera_matrix
from ripe.geometry.robust import estimate_geometry
from ripe.images import read_image
from ripe.integrations import colmap
from ripe.integrations.colmap import KnownCamera
from ripe.pairing.choose import exhaustive
from ripe.reconstruction.mapping import map_photos
from ripe.reconstruction.pipeline import Source, reconstruct
from ripe.reconstruction.verification import MIN_INLIER_RATIO, RANSAC, verify
from ripe.reconstruction.viewer import write_viewer
from ripe.storage import read_features

pycolmap = pytest.importorskip("pycolmap")
QUICK = ["--max-keypoints", "600", "--single-camera", "--device", "cpu"]


@pytest.fixture(scope="module")
def room(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Photos of the room. Do not change them."""
    return write(tmp_path_factory.mktemp("scene") / "room")


@pytest.fixture(scope="module")
def done(room: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The room reconstructed with the shipped weights and with SIFT. Do not change it."""
    output = tmp_path_factory.mktemp("reconstruction")
    assert main(["reconstruct", str(room), "-o", str(output), "--baseline", "sift", *QUICK]) == 0
    return output


def true_errors(model: "pycolmap.Reconstruction") -> tuple[float, float]:
    """Largest errors over pairs of views: of their relative rotation in degrees, and of their distance's share."""
    truth = {f"view{index}.png": camera for index, camera in enumerate(cameras())}
    images = [model.image(identity) for identity in model.reg_image_ids()]
    found = [image.cam_from_world() for image in images]
    turned = [pose.rotation.matrix() for pose in found]
    centres = [-turn.T @ pose.translation for turn, pose in zip(turned, found, strict=True)]
    true = [truth[image.name] for image in images]
    true_centres = [-rotation.T @ translation for rotation, translation in true]
    angles, distances = [], []
    for i, j in exhaustive(range(len(images))):
        between = turned[i] @ turned[j].T @ (true[i][0] @ true[j][0].T).T
        angles.append(np.degrees(np.linalg.norm(cv2.Rodrigues(between)[0])))
        distances.append([np.linalg.norm(side[i] - side[j]) for side in (centres, true_centres)])
    shares = np.array(distances) / np.sum(distances, axis=0)
    return max(angles), float(np.abs(shares[:, 0] / shares[:, 1] - 1).max())


@pytest.mark.parametrize("name", ["compact", "sift"])
def test_the_cameras_come_out(done: Path, name: str) -> None:
    model = pycolmap.Reconstruction(done / name / "sparse")
    assert model.num_reg_images() == 6
    angle, share = true_errors(model)
    assert angle < 2
    assert share < 0.1


def test_summary_files_and_cloud_agree(done: Path) -> None:
    summaries = json.loads((done / "summary.json").read_text())
    assert [summary["extractor"] for summary in summaries] == ["compact", "sift"]
    for summary in summaries:
        folder = done / summary["extractor"]
        model = pycolmap.Reconstruction(folder / "sparse")
        assert summary["registered"] == summary["photos"] == 6
        assert summary["points"] == model.num_points3D() > 100
        tracks = [point.track.length() for point in model.points3D.values()]
        assert summary["observations"] == sum(tracks)
        assert summary["mean_track_length"] == pytest.approx(np.mean(tracks))
        errors = [point.error for point in model.points3D.values()]
        assert summary["mean_reprojection_error"] == pytest.approx(np.mean(errors))
        assert summary["mean_reprojection_error"] < 1.5
        assert summary["pairs"] == summary["verified_pairs"] == 15
        assert summary["failures"] == {}
        header = (folder / "points.ply").read_bytes()[:300]
        assert f"element vertex {summary['points']}".encode() in header
        assert sorted(path.name for path in folder.iterdir()) == [
            "database.db", "features.h5", "matches.h5", "model.html", "points.ply", "sparse"
        ]  # fmt: skip


def test_a_second_run_keeps_the_features(
    room: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    random_weights: Path,
) -> None:
    """With other pairs, which need neither photos nor features anew; and other settings are refused."""
    command = ["reconstruct", str(room), "-o", str(tmp_path), "--baseline", "sift", *QUICK]
    command += ["--model", str(random_weights)]
    main([*command, "--pairs", "retrieval", "--neighbours", "2"])
    capsys.readouterr()

    def never(*arguments: object) -> None:
        raise AssertionError("read again")

    monkeypatch.setattr("ripe.images.read_image", never)
    main([*command, "--pairs", "sequential", "--neighbours", "2"])
    rows = [line.split("|") for line in capsys.readouterr().out.splitlines() if line.startswith("| sift")]
    assert [row[2].strip() for row in rows] == ["6 of 6"]
    assert rows[0][7].strip() == "9 of 9"
    assert main([*command, "--resize", "200"]) == 1
    assert "was begun with other settings" in capsys.readouterr().err


def test_what_is_matched_already_gives_the_same(room: Path, done: Path, tmp_path: Path) -> None:
    """Also where the file does not note the names, as hloc's do not; a list of some of the pairs gives these."""
    features, matches = done / "compact" / "features.h5", tmp_path / "matches.h5"
    shutil.copy(done / "compact" / "matches.h5", matches)
    with h5py.File(matches, "r+") as file:
        for pair in [file[first][second] for first in file for second in file[first]]:
            del pair.attrs["name0"], pair.attrs["name1"]
    pairs = tmp_path / "pairs.txt"
    pairs.write_text("view0.png view1.png\nview2.png view1.png\nview1.png elsewhere.png\n")
    before = features.read_bytes(), matches.read_bytes()
    words = ["reconstruct", str(room), "-o", str(tmp_path), "--features", str(features), "--matches", str(matches)]
    [direct, _] = json.loads((done / "summary.json").read_text())
    assert main([*words, "--single-camera"]) == 0
    [summary] = json.loads((tmp_path / "summary.json").read_text())
    assert {**summary, "extractor": "compact"}.keys() == direct.keys()
    for figure in ("photos", "registered", "pairs", "verified_pairs", "failures"):
        assert summary[figure] == direct[figure]
    assert summary["points"] == pytest.approx(direct["points"], rel=0.02)
    assert main([*words, "--single-camera", "--pairs", str(pairs)]) == 1
    [summary] = json.loads((tmp_path / "summary.json").read_text())
    assert (summary["pairs"], summary["verified_pairs"]) == (3, 2)
    assert list(summary["failures"]) == ["view1.png and elsewhere.png"]
    assert (features.read_bytes(), matches.read_bytes()) == before


@pytest.mark.parametrize(
    "more", [[], ["--matches", "m.h5", "--overwrite"], ["--matches", "m.h5", "--pairs", "sequential"]]
)
def test_what_does_not_go_with_stored_matches_is_refused(
    more: list[str], room: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["reconstruct", str(room), "-o", str(tmp_path), "--features", "f.h5", *more])
    assert stopped.value.code == 2
    assert re.search("belong together|leave out --baseline|--matches holds its pairs", capsys.readouterr().err)


def test_a_list_turned_round_gives_the_same_pairs(
    room: Path, tmp_path: Path, random_weights: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [
        "reconstruct",
        str(room),
        "-o",
        str(tmp_path),
        "--baseline",
        "sift",
        *QUICK,
        "--model",
        str(random_weights),
    ]
    pairs = exhaustive(sorted(path.name for path in room.iterdir()))
    rows = []
    for order in (1, -1):
        (tmp_path / "pairs.txt").write_text("".join(f"{' '.join(pair[::order])}\n" for pair in pairs))
        main([*words, "--pairs", str(tmp_path / "pairs.txt")])
        rows += [line.split("|") for line in capsys.readouterr().out.splitlines() if line.startswith("| sift")]
    assert [row[7].strip() for row in rows] == ["15 of 15"] * 2


def test_masks_filter_and_starting_anew(
    room: Path, tmp_path: Path, random_weights: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["reconstruct", str(room), "-o", str(tmp_path / "out"), "--model", str(random_weights), *QUICK]
    command += ["--baseline", "sift", "--pairs", "sequential", "--neighbours", "1", "--max-keypoints", "200"]
    names = sorted(path.name for path in room.iterdir())
    with Image.open(room / names[0]) as photo:
        mask = np.zeros(photo.size[::-1], dtype=np.uint8)
    half = mask.shape[1] // 2
    mask[:, :half] = 255
    (tmp_path / "masks").mkdir()
    Image.fromarray(mask).save(tmp_path / "masks" / f"{names[0]}.png")
    main([*command, "--masks", str(tmp_path / "masks")])
    assert main([*command, "--resize", "200", "--ratio", "0.9"]) == 1
    assert "--resize 1600 there, 200 now" in capsys.readouterr().err
    for name in (random_weights.stem, "sift"):
        found = read_features(tmp_path / "out" / name / "features.h5")
        assert found[names[0]]["keypoints"][:, 0].max() <= half - 0.5 < found[names[1]]["keypoints"][:, 0].max()
        assert len(found[names[0]]["keypoints"]) > 100
    main([*command, "--resize", "200", "--ratio", "0.9", "--overwrite", "--masks", str(tmp_path / "masks")])
    for name in (random_weights.stem, "sift"):
        found = read_features(tmp_path / "out" / name / "features.h5")
        assert found[names[0]]["keypoints"][:, 0].max() <= half - 0.5
        with h5py.File(tmp_path / "out" / name / "matches.h5") as file:
            turns = "" if name == "sift" else ", in quarter turns (auto)"
            assert file.attrs["matcher"] == f"mutual nearest neighbours, ratio at most 0.9{turns}"
            assert file.attrs["max_side"] == 200
    (tmp_path / "other").mkdir()
    assert main([*command, "--overwrite", "--masks", str(tmp_path / "other")]) == 1  # and what is there stays
    assert "holds no photo's mask" in capsys.readouterr().err
    assert len(read_features(tmp_path / "out" / "sift" / "features.h5")) == len(names)
    assert len(read_features(tmp_path / "out" / random_weights.stem / "features.h5")) == len(names)


def test_pairs_verified_one_by_one_are_those_that_colmap_verifies(done: Path, tmp_path: Path) -> None:
    ours, colmaps = tmp_path / "ours.db", tmp_path / "colmaps.db"
    for database in (ours, colmaps):
        shutil.copy(done / "compact" / "database.db", database)
        with pycolmap.Database.open(database) as opened:
            opened.clear_two_view_geometries()
    verify(ours)
    options = {"min_inlier_ratio": MIN_INLIER_RATIO, "ransac": {**RANSAC, "max_error": 4.0}}
    pycolmap.geometric_verification(colmaps, two_view_geometry_options=options)
    with pycolmap.Database.open(ours) as mine, pycolmap.Database.open(colmaps) as theirs:
        for pair in exhaustive(range(1, 7)):
            found, wanted = mine.read_two_view_geometry(*pair), theirs.read_two_view_geometry(*pair)
            assert found.config == wanted.config
            np.testing.assert_array_equal(found.inlier_matches, wanted.inlier_matches)


def test_thresholds_follow_photos_that_were_shrunk(room: Path, tmp_path: Path) -> None:
    """Photos four times as large, shrunk to the size of the others, give as long tracks; their errors are larger."""
    (tmp_path / "large").mkdir()
    for path in room.iterdir():
        image = cv2.imread(str(path))
        cv2.imwrite(str(tmp_path / "large" / path.name), cv2.resize(image, None, fx=4, fy=4, interpolation=3))
    command = ["reconstruct", str(tmp_path / "large"), "-o", str(tmp_path / "out"), *QUICK, "--resize", "400"]
    assert main(command) == 0
    [summary] = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert summary["registered"] == 6
    assert summary["mean_track_length"] > 4.6
    assert 1.2 < summary["mean_reprojection_error"] < 4


KNOWN = {
    "420": ("SIMPLE_PINHOLE", [420, 200, 150]),
    "420,420,199.5,149.5": ("PINHOLE", [420, 420, 200, 150]),
    "opencv:420,420,200,150,0,0,0,0": ("OPENCV", [420, 420, 200, 150, 0, 0, 0, 0]),
}


@pytest.mark.parametrize(("given", "mapper"), [*((given, "incremental") for given in KNOWN), ("420", "global")])
def test_a_known_camera_is_kept_and_poses_come_out(
    given: str, mapper: str, room: Path, done: Path, tmp_path: Path
) -> None:
    for name in ("features.h5", "matches.h5"):
        (tmp_path / "compact").mkdir(exist_ok=True)
        shutil.copy(done / "compact" / name, tmp_path / "compact" / name)
    assert main(["reconstruct", str(room), "-o", str(tmp_path), *QUICK, "--intrinsics", given, "--mapper", mapper]) == 0
    model = pycolmap.Reconstruction(tmp_path / "compact" / "sparse")
    [camera] = model.cameras.values()
    assert (camera.model_name, camera.params.tolist()) == KNOWN[given]
    assert true_errors(model)[0] < 0.5


def test_the_global_mapper_finds_the_focal_length(room: Path, done: Path, tmp_path: Path) -> None:
    shutil.copytree(done / "compact", tmp_path / "compact")
    assert main(["reconstruct", str(room), "-o", str(tmp_path), *QUICK, "--mapper", "global"]) == 0
    model = pycolmap.Reconstruction(tmp_path / "compact" / "sparse")
    assert model.num_reg_images() == 6
    [camera] = model.cameras.values()
    assert camera.mean_focal_length() == pytest.approx(420, rel=0.03)
    angle, share = true_errors(model)
    assert angle < 1
    assert share < 0.1


def test_a_pycolmap_without_the_global_mapper_is_named(
    room: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delattr(pycolmap, "GlobalPipeline")
    assert main(["reconstruct", str(room), "-o", str(tmp_path / "out"), "--mapper", "global"]) == 1
    assert "--mapper is 'global', which needs pycolmap 4 or newer" in capsys.readouterr().err
    assert not list(tmp_path.rglob("*.h5"))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("OPENCV:1,2", "OPENCV:1,2: the model has 8 numbers, not 2: fx, fy, cx, cy, k1, k2, p1, p2"),
        ("LENS:1", "LENS:1: COLMAP has no camera model LENS"),
        ("3", "3 is no camera of a photo of 400×300 pixels"),
        ("SIMPLE_PINHOLE:nan,1,1", "is no camera of a photo of 400×300 pixels"),
    ],
)
def test_cameras_that_are_none_are_refused_before_the_work(
    given: str, message: str, room: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["reconstruct", str(room), "-o", str(tmp_path / "out"), *QUICK, "--intrinsics", given]) == 1
    assert message in capsys.readouterr().err
    assert not list(tmp_path.rglob("*.h5"))


@pytest.mark.parametrize("given", ["a", "1,2", "OPENCV:x"])
def test_intrinsics_that_are_no_numbers_are_wrong_usage(given: str, room: Path) -> None:
    with pytest.raises(SystemExit) as exit_info:
        main(["reconstruct", str(room), "-o", "out", "--intrinsics", given])
    assert exit_info.value.code == 2


def test_one_principal_point_for_photos_of_two_sizes_is_refused(tmp_path: Path) -> None:
    for name, size in (("a.png", (400, 300)), ("b.png", (300, 400))):
        Image.new("L", size).save(tmp_path / name)
    (tmp_path / "c.png").write_text("no photo")
    names = ["a.png", "b.png", "c.png"]
    with pytest.raises(ValueError, match=r"several sizes \(a.png of 400×300, b.png of 300×400\)"):
        colmap.check_camera(KnownCamera((400.0, 400, 200, 150)), tmp_path, names)
    colmap.check_camera(KnownCamera((400.0,)), tmp_path, names)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_known_camera_turns_with_the_photo(orientation: int, tmp_path: Path) -> None:
    """Its principal point is where a dot at this place of the upright photo is in the stored one."""
    upright, dot = (60, 40), (23, 11)
    size = upright[::-1] if orientation >= 5 else upright
    features = Features(torch.tensor([dot]).float(), torch.ones(1), torch.zeros(1, 0), upright)
    [[x, y]] = colmap.stored_keypoints(features, orientation)
    model, numbers = KnownCamera((50.0, 70.0, *dot)).stored(size, orientation)
    assert model == "PINHOLE"
    assert numbers[:2] == ((70, 50) if orientation >= 5 else (50, 70))
    assert numbers[2:] == (x + 0.5, y + 0.5)


def test_the_page_holds_points_and_cameras_and_needs_nothing_else(done: Path, tmp_path: Path) -> None:
    model = pycolmap.Reconstruction(done / "compact" / "sparse")
    write_viewer(tmp_path / "model.html", model, "room")  # points have no order of their own in a file
    page = (tmp_path / "model.html").read_text(encoding="utf-8")
    assert len(page) == len((done / "compact" / "model.html").read_text(encoding="utf-8").replace("compact", "room"))
    assert not re.search(r"(src|href)=|https?://|import |url\(", page)
    scene = json.loads(re.search(r"<script id=\"scene\"[^>]*>(.*?)</script>", page, re.DOTALL)[1])
    points = np.frombuffer(base64.b64decode(scene["points"]), "<f4").reshape(-1, 3)
    colours = np.frombuffer(base64.b64decode(scene["colours"]), np.uint8).reshape(-1, 3)
    true = np.array([point.xyz for point in model.points3D.values()])
    np.testing.assert_array_equal(colours, [point.color for point in model.points3D.values()])
    assert [camera["name"] for camera in scene["cameras"]] == [f"view{index}.png" for index in range(6)]
    # A similarity: all distances, also from points to cameras, keep their ratio, and nothing is mirrored.
    images = sorted((model.image(identity) for identity in model.reg_image_ids()), key=lambda image: image.name)
    centres = np.array([camera["corners"][0] for camera in scene["cameras"]])
    placed, before = (
        np.vstack(both)[::7] for both in ((centres, points), ([i.projection_center() for i in images], true))
    )
    lengths = [np.linalg.norm(side[1:] - side[:-1], axis=1) for side in (placed, before)]
    np.testing.assert_allclose(lengths[0] / lengths[1], np.median(lengths[0] / lengths[1]), rtol=0.01)
    volumes = [np.linalg.det(side[1:4] - side[0]) for side in (placed, before)]
    assert np.sign(volumes[0]) == np.sign(volumes[1])
    # The room's floor is below its walls, and the cameras look at it.
    for image, camera in zip(images, scene["cameras"], strict=True):
        corners = np.array(camera["corners"])
        looks = corners[1:].mean(axis=0) - corners[0]
        assert np.dot(looks, np.median(points, axis=0) - corners[0]) > 0, image.name
        assert corners[1, 1] > corners[4, 1]  # the photo's top left is above its bottom left


def test_names_that_hold_tags_do_not_end_the_page(done: Path, tmp_path: Path) -> None:
    model = pycolmap.Reconstruction(done / "compact" / "sparse")
    model.image(model.reg_image_ids()[0]).name = "</script><b>.png"
    write_viewer(tmp_path / "model.html", model, "<i>")
    page = (tmp_path / "model.html").read_text(encoding="utf-8")
    assert "<i>" not in page
    assert "</script><b>" not in page
    assert "\\u003c/script>\\u003cb>.png" in page


def test_one_thread_gives_equal_models(room: Path, tmp_path: Path) -> None:
    for run in ("1", "2"):
        words = ["reconstruct", str(room), "-o", str(tmp_path / run), *QUICK, "--single-threaded"]
        result = subprocess.run([sys.executable, "-m", "ripe.cli", *words], capture_output=True, text=True)
        assert result.returncode == 0, result.stderr
    for name in ("compact/sparse/points3D.bin", "compact/sparse/images.bin", "summary.json"):
        assert (tmp_path / "1" / name).read_bytes() == (tmp_path / "2" / name).read_bytes()


def test_two_processes_with_one_output_wait_for_each_other(room: Path, tmp_path: Path, random_weights: Path) -> None:
    words = ["reconstruct", str(room), "-o", str(tmp_path / "out"), "--model", str(random_weights), *QUICK]
    command = [sys.executable, "-m", "ripe.cli", *words, "--max-keypoints", "200"]
    both = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    errors = [process.communicate(timeout=120)[1] for process in both]
    assert [process.returncode for process in both] == [0, 0], errors
    assert not list((tmp_path / "out" / "random").glob("*.lock"))


def test_pairs_of_photos_that_are_not_there_are_named(
    room: Path, tmp_path: Path, random_weights: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "pairs.txt").write_text("left.png right.png\n")
    words = ["reconstruct", str(room), "-o", str(tmp_path / "out"), *QUICK, "--model", str(random_weights)]
    assert main([*words, "--max-keypoints", "50", "--pairs", str(tmp_path / "pairs.txt")]) == 1
    error = capsys.readouterr().err
    assert "ripe: left out: left.png: in 1 pairs, but there are no features of it" in error
    assert "no model; 0 of 1 pairs have a common geometry" in error


def test_photos_without_a_common_geometry_make_no_model(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], random_weights: Path
) -> None:
    generator = np.random.default_rng(0)
    (tmp_path / "noise").mkdir()
    for index in range(2):
        noise = cv2.resize(generator.integers(0, 255, (60, 80, 3), dtype=np.uint8), (640, 480))
        Image.fromarray(noise).save(tmp_path / "noise" / f"{index}.png")
    (tmp_path / "noise" / "broken.jpg").write_bytes(b"no photo")
    command = ["reconstruct", str(tmp_path / "noise"), "-o", str(tmp_path / "out"), "--model", str(random_weights)]
    assert main([*command, *QUICK]) == 1
    streams = capsys.readouterr()
    assert "| random | 0 of 3 | 0 | 0 | – | – px |" in streams.out
    assert "ripe: left out: broken.jpg: not an image" in streams.err
    assert "ripe: error: random: no model; 0 of 1 pairs have a common geometry. Photos must overlap" in streams.err
    assert not (tmp_path / "out" / "random" / "sparse").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("nowhere", "nowhere: no such folder"),
        ("empty", "empty: holds no photo"),
        ("one", "one: 1 of 1 photos could be read; two or more are needed"),
        ("bad", "bad: 0 of 2 photos could be read (a.png: not an image"),
        ("clash", "hloc's match files, where / becomes -, cannot tell these pairs apart"),
        ("clash --pairs sequential --neighbours 1", "cannot tell these pairs apart"),
        ("clash --pairs retrieval", "cannot tell these pairs apart"),
        ("clash --pairs clash.txt", "cannot tell these pairs apart"),
        ("one --pairs missing.txt", "missing.txt: no such file"),
        ("one --model huge", "unknown model 'huge'"),
    ],
)
def test_errors_are_one_line(
    arguments: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, random_weights: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "one").mkdir()
    (tmp_path / "bad").mkdir()
    (tmp_path / "clash" / "cam").mkdir(parents=True)
    for name in ("one/a.png", "clash/cam/a.png", "clash/cam-a.png", "clash/x.png"):
        Image.new("RGB", (64, 48)).save(tmp_path / name)
    for name in ("a.png", "b.png"):
        (tmp_path / "bad" / name).write_text("no photo")
    (tmp_path / "clash.txt").write_text("cam/a.png x.png\nx.png cam-a.png\n")
    words = arguments.split()
    if "--model" not in words:
        words += ["--model", str(random_weights)]
    assert main(["reconstruct", *words, "-o", "out", "--device", "cpu"]) == 1
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("ripe:")]
    assert len(lines) == 1
    assert message in lines[0]


ORDERS = {"pycolmap first": "import pycolmap, cv2", "OpenCV first": "import cv2, pycolmap", "neither": ""}


@pytest.mark.parametrize("order", ORDERS)
def test_the_command_survives_any_import_order(order: str, room: Path, tmp_path: Path, random_weights: Path) -> None:
    words = ["reconstruct", str(room), "-o", str(tmp_path / "out"), "--model", str(random_weights), *QUICK]
    words += ["--pairs", "sequential", "--neighbours", "1", "--max-keypoints", "100"]
    code = f"{ORDERS[order]}\nimport sys; from ripe.cli import main; main({words!r})"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert (tmp_path / "out" / "summary.json").is_file()


def test_without_pycolmap_the_message_says_what_to_install(room: Path, tmp_path: Path) -> None:
    words = ["reconstruct", str(room), "-o", str(tmp_path / "out")]
    code = f"import sys; sys.modules['pycolmap'] = None; from ripe.cli import main; sys.exit(main({words!r}))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 1
    assert result.stderr.startswith("ripe: error: COLMAP is needed: pip install 'ripe-keypoints[colmap]'")
    assert result.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_known_keypoints_and_matches_give_the_known_model(tmp_path: Path) -> None:
    """COLMAP makes a scene; its projections, through our database, must come out as that scene."""
    options = pycolmap.SyntheticDatasetOptions()
    options.num_rigs, options.num_cameras_per_rig, options.num_frames_per_rig = 1, 1, 6
    options.num_points3D, options.num_points2D_without_point3D = 150, 0
    pycolmap.set_random_seed(0)
    truth = pycolmap.synthesize_dataset(options)
    camera = next(iter(truth.cameras.values()))
    features, seen = {}, {}
    for image in truth.images.values():
        name = f"{image.image_id}.png"
        Image.new("L", (camera.width, camera.height)).save(tmp_path / name)
        points = [point for point in image.points2D if point.has_point3D()]
        keypoints = torch.tensor(np.array([point.xy for point in points]) - colmap.PIXEL_CENTRE).float()
        nothing = torch.zeros(len(points), 0)
        features[name] = Features(keypoints, torch.ones(len(points)), nothing, (camera.width, camera.height))
        seen[name] = {point.point3D_id: index for index, point in enumerate(points)}
    matches = []
    for pair in exhaustive(sorted(features)):
        shared = sorted(seen[pair[0]].keys() & seen[pair[1]].keys())
        matches.append((pair, np.array([[seen[name][point] for name in pair] for point in shared])))
    database = tmp_path / "database.db"
    assert colmap.write_database(database, tmp_path, features, matches, single_camera=True) == []
    with pycolmap.Database.open(database) as opened:
        stored = opened.read_keypoints(next(image.image_id for image in opened.read_all_images()))
        assert opened.num_cameras() == 1
    np.testing.assert_allclose(stored[:, :2], features[sorted(features)[0]].keypoints.numpy() + 0.5, atol=1e-3)
    counted: list[tuple[int, int]] = []
    assert verify(database, progress=lambda *done: counted.append(done)) == 15
    assert counted == [(number, 15) for number in range(1, 16)]
    (tmp_path / "scratch").mkdir()
    registered: list[tuple[int, int]] = []
    [model] = map_photos(database, tmp_path, tmp_path / "scratch", progress=lambda *done: registered.append(done))
    assert model.num_reg_images() == 6
    assert registered[0] == (2, 6)
    assert registered[-1] == (6, 6)
    assert model.compute_mean_reprojection_error() < 0.05
    # Distances between points keep their ratios.
    true_points = {frozenset((f"{e.image_id}.png", e.point2D_idx) for e in p.track.elements): p.xyz
                   for p in renumbered(truth)}  # fmt: skip
    names = {image.image_id: image.name for image in model.images.values()}
    places = [
        (point.xyz, true_points[key])
        for point in model.points3D.values()
        if (key := frozenset((names[e.image_id], e.point2D_idx) for e in point.track.elements)) in true_points
    ]
    assert len(places) > 100
    ours, true = (np.array(side) for side in zip(*places, strict=True))
    ratios = np.linalg.norm(np.diff(ours, axis=0), axis=1) / np.linalg.norm(np.diff(true, axis=0), axis=1)
    np.testing.assert_allclose(ratios, np.median(ratios), rtol=0.01)


def renumbered(model: "pycolmap.Reconstruction") -> list:
    """The points of a model whose images hold observed keypoints only, so that our numbering is COLMAP's."""
    assert all(point.has_point3D() for image in model.images.values() for point in image.points2D)
    return list(model.points3D.values())


def test_matches_by_chance_verify_nothing(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    features = {}
    for name in ("a.png", "b.png"):
        Image.new("L", (640, 480)).save(tmp_path / name)
        positions = torch.rand(900, 2, generator=generator) * torch.tensor([639.0, 479.0])
        features[name] = Features(positions, torch.ones(900), torch.zeros(900, 0), (640, 480))
    pairs = [(("a.png", "b.png"), np.repeat(np.arange(900)[:, None], 2, axis=1))]
    colmap.write_database(tmp_path / "database.db", tmp_path, features, pairs)
    assert verify(tmp_path / "database.db") == 0


def test_matches_that_a_filter_chose_are_judged_by_all(tmp_path: Path) -> None:
    """A filter that leaves the matches which agree by chance makes them look sure."""
    generator = torch.Generator().manual_seed(0)
    positions = torch.rand(2, 900, 2, generator=generator) * torch.tensor([639.0, 479.0])
    camera = camera_matrix((1.2 * 640,), (640, 480))  # as COLMAP takes it to be
    agreeing = estimate_geometry("essential", *positions, max_error=4.0, intrinsics=(camera, camera)).inliers
    assert 30 < agreeing.sum() < 60
    first, other = torch.nn.functional.normalize(torch.randn(2, 900, 256, generator=generator), dim=2)
    second = torch.where(agreeing[:, None], first, torch.nn.functional.normalize(0.4 * first + 0.9 * other, dim=1))
    made = [
        Extraction(Features(at, torch.arange(900, 0, -1).float(), descriptors, (640, 480)), 640)
        for at, descriptors in zip(positions, (first, second), strict=True)
    ]
    for name in ("a.png", "b.png"):
        Image.new("L", (640, 480)).save(tmp_path / name)
    source = Source("made", lambda photos, masks, failed: enumerate(made[: len(photos)]), {})
    names = ("a.png", "b.png")
    for how in (MUTUAL, MatchFilter(ratio=0.8)):
        found = reconstruct(tmp_path, names, source, tmp_path / str(how), [names], match_filter=how)
        assert (found.pairs, found.verified_pairs) == (1, 0)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_keypoints_go_back_to_the_stored_pixels(orientation: int, tmp_path: Path) -> None:
    """A dot is found in the upright photo; COLMAP sees the stored one."""
    stored = np.zeros((40, 60), dtype=np.uint8)
    stored[11, 23] = 255
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(stored).save(tmp_path / "dot.png", exif=exif)
    upright = read_image(tmp_path / "dot.png")[:, :, 0]
    [[row, column]] = np.argwhere(upright)
    size = upright.shape[1], upright.shape[0]
    features = Features(torch.tensor([[float(column), float(row)]]), torch.ones(1), torch.zeros(1, 0), size)
    np.testing.assert_array_equal(colmap.stored_keypoints(features, orientation), [[23, 11]])


def test_turned_tiffs_share_the_single_camera_of_their_stored_size(tmp_path: Path) -> None:
    """Some releases of Pillow tell the upright size of TIFF files; COLMAP's is the stored one."""
    exif = Image.Exif()
    exif[0x0112] = 6
    sizes = {"flat.tif": (60, 40), "tall.tif": (40, 60), "turned.tif": (60, 40), "turned.jpg": (60, 40)}
    features = {}
    for name, size in sizes.items():
        Image.new("RGB", size).save(tmp_path / name, **({"exif": exif} if name.startswith("turned") else {}))
        upright = size[::-1] if name.startswith("turned") else size
        features[name] = Features(torch.tensor([[3.0, 5.0]]), torch.ones(1), torch.zeros(1, 0), upright)
    assert colmap.write_database(tmp_path / "database.db", tmp_path, features, [], single_camera=True) == []
    with pycolmap.Database.open(tmp_path / "database.db") as opened:
        assert {(camera.width, camera.height) for camera in opened.read_all_cameras()} == {(60, 40), (40, 60)}
        images = {image.name: image for image in opened.read_all_images()}
        assert len({images[name].camera_id for name in ("flat.tif", "turned.tif", "turned.jpg")}) == 1
        for name in ("turned.tif", "turned.jpg"):
            np.testing.assert_allclose(opened.read_keypoints(images[name].image_id)[0, :2], [5.5, 36.5])
