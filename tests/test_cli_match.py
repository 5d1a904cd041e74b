"""`ripe match`, `ripe info` and what all commands share: help, errors, exit status."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import skimage.data
import torch
from PIL import Image

import ripe
from ripe.cli import COMMANDS, main
from ripe.drawing import GAP, GREY, MAX_WIDTH, draw_matches


def run_match(photos: list[Path], weights: Path, *options: str | Path) -> int:
    return main(["match", *map(str, photos), "--model", str(weights), *map(str, options)])


def test_figures_picture_and_json(
    photos: list[Path], random_weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    picture, document = tmp_path / "matches.png", tmp_path / "matches.json"
    assert run_match(photos, random_weights, "-o", picture, "--json", document, "--max-keypoints", 300) == 0
    written = json.loads(document.read_text())
    printed = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    assert printed["keypoints"] == "300 and 300"
    assert int(printed["matches"]) == len(written["matches"]) == len(written["matching_scores"])
    inliers = sum(written["inliers"])
    assert printed["inliers"] == f"{inliers} ({inliers / len(written['matches']):.0%})"
    assert inliers > 8
    assert printed["verdict"] == written["verdict"]["name"] == "matched"
    assert written["verdict"]["inlier_share"] == pytest.approx(inliers / len(written["matches"]))
    assert printed["picture"] == str(picture)
    assert "extract" in printed["time"]
    assert set(written["milliseconds"]) == {"read", "load", "extract", "match", "geometry"}
    assert written["settings"]["geometry"] == "fundamental"
    assert np.linalg.matrix_rank(np.array(written["model"]), tol=1e-6) == 2
    assert written["image_size0"] == [741, 500]
    with Image.open(picture) as image:
        assert image.size == (2 * 741 + GAP, 500)
    assert sorted(tmp_path.iterdir()) == [document, picture]


def test_inliers_lie_on_the_same_rows(photos: list[Path], random_weights: Path, tmp_path: Path) -> None:
    """The bundled pair is rectified, so that true matches have equal heights."""
    assert run_match(photos, random_weights, "--json", tmp_path / "a.json") == 0
    written = json.loads((tmp_path / "a.json").read_text())
    pairs = np.array(written["matches"])[np.array(written["inliers"])]
    points0, points1 = (np.array(written[f"keypoints{side}"])[pairs[:, side]] for side in (0, 1))
    assert np.median(np.abs(points0[:, 1] - points1[:, 1])) < 1.5


@pytest.mark.parametrize(("geometry", "fitted"), [("homography", True), ("none", False)])
def test_geometry_can_be_chosen(
    photos: list[Path],
    random_weights: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    geometry: str,
    fitted: bool,
) -> None:
    options = ("--geometry", geometry, "--json", tmp_path / "a.json", "-o", tmp_path / "a.jpg")
    assert run_match(photos, random_weights, *options) == 0
    assert ("inliers" in capsys.readouterr().out) == fitted
    written = json.loads((tmp_path / "a.json").read_text())
    assert (written["model"] is not None) == (written["inliers"] is not None) == fitted
    assert (tmp_path / "a.jpg").is_file()


def test_the_pose_of_a_rectified_pair(photos: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The bundled photos' cameras (Middlebury's calibration) do not turn; the second is to the right of the first."""
    document = tmp_path / "pose.json"
    options = [
        "--geometry",
        "essential",
        "--intrinsics",
        "994.978,994.978,311.193,254.877",
        "994.978,994.978,342.279,254.877",
    ]
    assert main(["match", *map(str, photos), *options, "--json", str(document)]) == 0
    written = json.loads(document.read_text())
    assert written["settings"]["intrinsics1"] == [[994.978, 0, 342.279], [0, 994.978, 254.877], [0, 0, 1]]
    np.testing.assert_allclose(written["rotation"], np.eye(3), atol=0.01)
    np.testing.assert_allclose(written["translation"], [-1, 0, 0], atol=0.05)
    printed = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    assert float(printed["rotation"].removesuffix("°")) < 0.5
    assert printed["direction"].startswith("-0.99") or printed["direction"].startswith("-1.0")
    angles = written["degrees"]
    assert abs(angles["right"] - 90) < 3
    assert abs(angles["up"]) < 3
    assert printed["rotation"] == f"{angles['rotation']:.2f}°"
    assert printed["B's"].startswith(f"camera {angles['right']:.2f}° to the right")


def with_focal_length(photo: Path, path: Path, millimetres: float) -> Path:
    exif = Image.Exif()
    exif.get_ifd(0x8769)[0xA405] = millimetres
    with Image.open(photo) as image:
        image.save(path, exif=exif)
    return path


def test_exif_tells_the_focal_length(photos: list[Path], random_weights: Path, tmp_path: Path) -> None:
    named = [with_focal_length(photo, tmp_path / photo.name, 35) for photo in photos]
    document = tmp_path / "pose.json"
    assert run_match(named, random_weights, "--geometry", "essential", "--json", document) == 0
    camera = np.array(json.loads(document.read_text())["settings"]["intrinsics0"])
    assert camera[0, 0] == camera[1, 1] == pytest.approx(35 / 43.27 * np.hypot(741, 500))
    assert camera[:2, 2].tolist() == [370, 249.5]


@pytest.mark.parametrize("size", [(400, 300), (300, 400)])
def test_the_focal_length_is_the_one_that_colmap_reads(
    size: tuple[int, int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pycolmap = pytest.importorskip("pycolmap")
    from ripe.geometry.intrinsics import exif_focal_length

    Image.new("RGB", size).save(tmp_path / "plain.jpg")
    path = with_focal_length(tmp_path / "plain.jpg", tmp_path / "a.jpg", 28)
    assert exif_focal_length(path) == pytest.approx(pycolmap.infer_camera_from_image(path).focal_length)
    assert exif_focal_length(tmp_path / "plain.jpg") is None
    assert exif_focal_length(with_focal_length(path, tmp_path / "zero.jpg", 0)) is None
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)  # Pillow would refuse 200 and more
    assert exif_focal_length(path) is not None


@pytest.mark.parametrize(
    "options",
    [
        ["--intrinsics", "1000"],
        ["--geometry", "essential", "--intrinsics", "1000,2"],
        ["--geometry", "essential", "--intrinsics", "a"],
        ["--geometry", "essential", "--intrinsics", "1", "2", "3"],
    ],
)
def test_intrinsics_that_make_no_camera_are_wrong_usage(photos: list[Path], options: list[str]) -> None:
    with pytest.raises(SystemExit) as exit_info:
        main(["match", *map(str, photos), *options])
    assert exit_info.value.code == 2


def test_the_picture_shows_the_inliers_only(
    photos: list[Path], random_weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[list[torch.Tensor]] = []

    def draw(images: list[torch.Tensor], points: list[torch.Tensor], **settings: Any) -> np.ndarray:
        drawn.append(points)
        return draw_matches(images, points, **settings)

    monkeypatch.setattr("ripe.drawing.draw_matches", draw)
    assert run_match(photos, random_weights, "-o", tmp_path / "a.png", "--json", tmp_path / "a.json") == 0
    written = json.loads((tmp_path / "a.json").read_text())
    inliers = np.array(written["matches"])[np.array(written["inliers"])]
    np.testing.assert_allclose(drawn[0][0], np.array(written["keypoints0"])[inliers[:, 0]], atol=1e-4)
    np.testing.assert_allclose(drawn[0][1], np.array(written["keypoints1"])[inliers[:, 1]], atol=1e-4)


def test_photos_of_different_things_are_no_better_than_chance(
    photos: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other, picture, document = tmp_path / "other.png", tmp_path / "a.png", tmp_path / "a.json"
    Image.fromarray(skimage.data.coffee()).save(other)
    command = ["match", str(photos[0]), str(other), "-o", str(picture), "--json", str(document), "--device", "cpu"]
    assert main(command) == 3
    assert "verdict    no better than chance" in capsys.readouterr().out
    written = json.loads(document.read_text())
    assert written["verdict"]["name"] == "chance"
    assert sum(written["inliers"]) > 0
    with Image.open(picture) as image:
        colours = {colour for _, colour in image.convert("RGB").getcolors(2**24)}
    assert GREY in colours


def test_no_keypoints_is_a_result(
    photos: list[Path], random_weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ("--threshold", "1e6", "-o", tmp_path / "a.png", "--json", tmp_path / "a.json")
    assert run_match(photos, random_weights, *options) == 3
    shown = capsys.readouterr().out
    assert "inliers    0 (no model found)" in shown
    assert "verdict    no better than chance" in shown
    assert json.loads((tmp_path / "a.json").read_text())["model"] is None


def test_resize_and_precision_are_used(photos: list[Path], random_weights: Path, tmp_path: Path) -> None:
    options = ("--resize", "320", "--precision", "bfloat16", "--json", tmp_path / "a.json")
    assert run_match(photos, random_weights, *options) == 0
    written = json.loads((tmp_path / "a.json").read_text())
    assert written["settings"]["resize"] == 320
    assert max(x for x, _ in written["keypoints0"]) > 320


@pytest.fixture
def broken_inputs(tmp_path: Path, photos: list[Path]) -> Path:
    (tmp_path / "text.jpg").write_text("no image")
    Image.new("RGB", (15, 40)).save(tmp_path / "tiny.png")
    Image.new("RGB", (1100, 1000)).save(tmp_path / "large.png")
    (tmp_path / "photo.jpg").write_bytes(photos[0].read_bytes())
    (tmp_path / "cut.jpg").write_bytes(photos[0].read_bytes()[:20_000])
    (tmp_path / "weights.pth").write_text("no weights")
    (tmp_path / "folder").mkdir()
    return tmp_path


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("match missing.jpg photo.jpg", "missing.jpg: no such file"),
        ("match photo.jpg folder", "folder: no such file"),
        ("match photo.jpg text.jpg", "text.jpg: not an image"),
        ("match photo.jpg cut.jpg", "cut.jpg: damaged"),
        ("match photo.jpg tiny.png", "tiny.png: 15×40 pixels"),
        ("match photo.jpg photo.jpg --model huge", "unknown model 'huge'"),
        ("match photo.jpg photo.jpg --model weights.pth", "weights.pth: not a weights file"),
        ("match photo.jpg photo.jpg -o nowhere/a.png", "no folder nowhere"),
        ("match photo.jpg photo.jpg -o folder.png/a.png", "no folder folder.png"),
        ("match photo.jpg photo.jpg -o a.xyz", "cannot write pictures"),
        ("match photo.jpg photo.jpg --json folder", "is a folder"),
        ("match photo.jpg photo.jpg --inlier-threshold 0", "more than 0"),
        ("match photo.jpg photo.jpg --ratio 2", "error: --ratio is 2.0; it must be above 0"),
        ("match photo.jpg photo.jpg --min-similarity 2", "error: --min-similarity is 2.0; it must be in"),
        ("match photo.jpg photo.jpg --geometry essential", "photo.jpg: EXIF has no 35 mm focal length"),
        ("match photo.jpg photo.jpg --geometry essential --intrinsics -5", "a focal length is -5 pixels"),
        ("match photo.jpg photo.jpg --device quantum", "device quantum cannot be used here; there are: cpu"),
        ("match photo.jpg photo.jpg --device mps", "device mps cannot be used here; there are: cpu"),
        ("match photo.jpg photo.jpg --device meta", "device meta cannot be used here"),
        ("match photo.jpg photo.jpg --device cuda:99", "device cuda:99 cannot be used here"),
        (
            "match photo.jpg large.png --max-megapixels 1",
            "large.png: 1100×1000 pixels, 1 million, where the limit is 1",
        ),
        ("match photo.jpg photo.jpg --resize 10", "resize is 10"),
        ("extract missing -o a.h5", "missing: no such file or folder"),
        ("extract folder -o a.h5", "holds no photo"),
        ("extract folder photo.jpg -o a.h5", "one folder, or files"),
        ("extract photo.jpg folder/../photo.jpg -o a.h5", "the same name"),
        ("extract photo.jpg -o nowhere/a.h5", "no folder nowhere"),
        ("extract photo.jpg -o text.jpg", "not an HDF5 file"),
    ],
)
def test_errors_are_one_clear_line(
    broken_inputs: Path,
    random_weights: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: str,
    message: str,
) -> None:
    monkeypatch.chdir(broken_inputs)
    words = arguments.split()
    if "--model" not in words:
        words += ["--model", str(random_weights)]
    assert main(words) == 1
    error = capsys.readouterr().err
    assert len(error) < 400
    assert error.startswith("ripe: error: ")
    assert message in error
    assert error.count("\n") == 1


def test_filter_and_masks_are_used(photos: list[Path], random_weights: Path, tmp_path: Path) -> None:
    (tmp_path / "masks").mkdir()
    mask = np.zeros((500, 741), dtype=np.uint8)
    mask[:, :300] = 1
    Image.fromarray(mask).save(tmp_path / "masks" / f"{photos[0].name}.png")
    options = ("--resize", "320", "--json", tmp_path / "a.json", "--masks", tmp_path / "masks", "--max-keypoints", 300)
    assert run_match(photos, random_weights, *options, "--ratio", "0.9", "--min-similarity", "0.5") in (0, 3)
    written = json.loads((tmp_path / "a.json").read_text())
    assert written["settings"]["matcher"] == "mutual nearest neighbours, ratio at most 0.9, similarity at least 0.5"
    assert max(x for x, _ in written["keypoints0"]) <= 299.5 < max(x for x, _ in written["keypoints1"])
    assert min(written["matching_scores"]) >= 0.5
    model = ripe.load(random_weights, device="cpu")
    limits = {"resize": 320, "max_keypoints": 300}
    expected = ripe.match(
        *(model.extract(photos[0], masks=[mask], **limits) + model.extract(photos[1], **limits)),
        ratio=0.9,
        min_similarity=0.5,
    )
    assert written["matches"] == expected.indices.tolist()


@pytest.mark.parametrize(("options", "threshold"), [((), 741 / 370), (("--inlier-threshold", 1.5), 1.5)])
def test_the_inlier_threshold_follows_the_resize(
    photos: list[Path], random_weights: Path, tmp_path: Path, options: tuple, threshold: float
) -> None:
    words = ("--resize", "370", "--max-keypoints", 100, "--json", tmp_path / "a.json", *options)
    assert run_match(photos, random_weights, *words) in (0, 3)
    settings = json.loads((tmp_path / "a.json").read_text())["settings"]
    assert settings["inlier_threshold"] == pytest.approx(threshold)


def test_a_failed_write_leaves_the_old_file(
    photos: list[Path], random_weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.json").write_text("old")

    def fail(*arguments: object, **keywords: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(Path, "write_text", fail)
    assert run_match(photos, random_weights, "--json", tmp_path / "a.json") == 1
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("a.json", "old")]


MASKED_LIST = ["match", "--pairs", "a", "--features", "b", "-o", "c", "--masks", "d"]


@pytest.mark.parametrize(
    "arguments", [[], ["fly"], ["match", "a"], ["match", "a", "b", "--max-keypoints", "0"], MASKED_LIST]
)
def test_wrong_usage_exits_with_2(arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as exit_info:
        main(arguments)
    assert exit_info.value.code == 2


@pytest.mark.parametrize(
    ("arguments", "usage", "meant"),
    [
        ("mach a b", "usage: ripe [-h]", "match"),
        ("match a b --max-keypoimts 3", "usage: ripe match", "--max-keypoints"),
        ("match a b --inlier-treshold=3", "usage: ripe match", "--inlier-threshold"),
        ("match a b --geometry homografy", "usage: ripe match", "homography"),
        ("eval pears x", "usage: ripe eval [-h]", "pairs"),
        ("eval pairs x --base-line sift", "usage: ripe eval pairs", "--baseline"),
        ("data chek", "usage: ripe data [-h]", "check"),
        ("extract a -o b --unheard-of", "usage: ripe extract", None),
    ],
)
def test_wrong_usage_shows_the_commands_own_and_what_was_meant(
    arguments: str, usage: str, meant: str | None, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as exit_info:
        main(arguments.split())
    assert exit_info.value.code == 2
    shown = capsys.readouterr().err
    assert shown.startswith(usage)
    assert shown.endswith(f"; did you mean {meant}?\n") == ("did you mean" in shown) == (meant is not None)


@pytest.mark.parametrize(
    ("raised", "status", "message"),
    [
        (ValueError("no such thing"), 1, "ripe: error: no such thing\n"),
        (OSError("disk full"), 1, "ripe: error: disk full\n"),
        (MemoryError("4 GB"), 1, "ripe: error: out of memory: 4 GB\n"),
        (TypeError("int and None"), 70, "ripe: fault: TypeError: int and None (this should not happen"),
        (KeyError("x"), 70, "ripe: fault: KeyError: 'x' (this should not happen"),
        (RuntimeError("one\ntwo"), 70, "ripe: fault: RuntimeError: one two (this should not happen"),
    ],
)
@pytest.mark.parametrize("debug", [[], ["--debug"]])
def test_faults_are_told_from_wrong_input_and_can_be_looked_into(
    raised: Exception,
    status: int,
    message: str,
    debug: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def run(arguments: object) -> int:
        raise raised

    monkeypatch.setattr("ripe.cli.info.run", run)
    for arguments in (["info", *debug], [*debug, "info"]):
        assert main(arguments) == status
        shown = capsys.readouterr().err
        before, _, last = shown.rpartition("ripe: ")
        assert ("ripe: " + last).startswith(message)
        assert last.count("\n") == 1
        if debug:
            assert before.startswith("Traceback")
            assert "test_cli_match.py" in before
        else:
            assert before == ""
            assert ("--debug" in last) == (status == 70)


@pytest.mark.parametrize("command", ["match", "extract", "info", "train"])
def test_help_has_examples(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_info:
        main([command, "--help"])
    assert exit_info.value.code == 0
    assert f"examples:\n  ripe {command}" in capsys.readouterr().out


def test_the_module_is_the_command_and_help_does_not_wait_for_pytorch() -> None:
    code = "import sys; from ripe.cli import main\ntry: main(['--help'])\nfinally: assert 'torch' not in sys.modules"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    by_module = subprocess.run([sys.executable, "-m", "ripe.cli", "--help"], capture_output=True, text=True, check=True)
    assert by_module.stdout == shown
    assert all(f"\n    {command}" in shown for command in COMMANDS)


def test_info_names_versions_models_licences_and_device(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info"]) == 0
    shown = capsys.readouterr().out
    for word in (
        "ripe",
        torch.__version__,
        "device",
        "precision",
        "compact",
        "Apache-2.0",
        "vgg_hyper",
        "non-commercial",
        "matcher    compact, robust: LightGlue for their features",
    ):
        assert word in shown


def test_views_can_be_chosen(photos: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The same pair drawn four ways, with the shipped weights; the warped one has the second photo's frame."""
    written = {}
    for view in ("keypoints", "matches", "inliers", "warp"):
        path = tmp_path / f"{view}.png"
        options = ["--geometry", "homography", "--max-keypoints", "200", "--draw", "20", "--view", view]
        assert main(["match", *map(str, photos), *options, "-o", str(path)]) == 0
        assert ("drawn      20 of " in capsys.readouterr().out) == (view in ("matches", "inliers"))
        with Image.open(path) as picture:
            written[view] = np.asarray(picture)
    shapes = {view: picture.shape[1::-1] for view, picture in written.items()}
    assert shapes.pop("warp") == (741, 500)
    assert set(shapes.values()) == {(2 * 741 + GAP, 500)}
    assert len({picture.tobytes() for picture in written.values()}) == 4


def test_nothing_is_warped_without_a_homography(
    photos: list[Path], random_weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as exit_info:
        run_match(photos, random_weights, "--view", "warp", "-o", tmp_path / "a.png")
    assert exit_info.value.code == 2
    assert "--view warp goes with --geometry homography" in capsys.readouterr().err
    options = ("--geometry", "homography", "--view", "warp", "--threshold", "1e6", "-o", tmp_path / "a.png")
    assert run_match(photos, random_weights, *options) == 3
    assert "picture    none: no homography was found" in capsys.readouterr().out
    assert not list(tmp_path.iterdir())


def test_pictures_of_large_photos_stay_readable() -> None:
    images = [torch.zeros(3, 1000, 3000), torch.zeros(3, 2000, 1000)]
    points = [torch.tensor([[2999.0, 0.0]]), torch.tensor([[0.0, 0.0]])]
    picture = draw_matches(images, points)
    assert picture.shape[1] <= MAX_WIDTH
    assert picture.shape[0] < 1000
    lit = np.argwhere(picture[:, :, 1].astype(int) - picture[:, :, 0] > 60)
    boundary = round(3000 * (MAX_WIDTH - GAP) / 4000)
    assert np.abs(lit[:, 1] - boundary).max() < 20
