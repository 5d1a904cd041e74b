"""`ripe extract`: many photos, bad ones among them, interrupted and continued."""

import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import cv2
import h5py
import numpy as np
import pytest
from PIL import Image

import ripe
from ripe.cli import main
from ripe.images import read_image
from ripe.storage import MatchFile, read_features

COUNT = 6


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, photos: list[Path]) -> Path:
    """Photos that are large enough for a batch each, in sub-folders."""
    root = tmp_path_factory.mktemp("photos")
    (root / "sub" / "deep").mkdir(parents=True)
    with Image.open(photos[0]) as photo:
        for index in range(COUNT):
            place = root / ("sub/deep" if index % 2 else "") / f"{index}.jpg"
            photo.rotate(index * 3).resize((1300, 900)).save(place)
    return root


@pytest.fixture(scope="module")
def uninterrupted(
    tmp_path_factory: pytest.TempPathFactory, folder: Path, random_weights: Path
) -> dict[str, dict[str, np.ndarray]]:
    path = tmp_path_factory.mktemp("features") / "f.h5"
    assert extract(folder, path, random_weights) == 0
    return read_features(path)


def extract(folder: Path, output: Path, weights: Path, *options: str) -> int:
    return main(["extract", str(folder), "-o", str(output), "--model", str(weights), *options])


def assert_same_content(first: dict[str, dict[str, np.ndarray]], second: dict[str, dict[str, np.ndarray]]) -> None:
    assert list(first) == list(second)
    for name, features in first.items():
        assert list(features) == list(second[name])
        for key, values in features.items():
            np.testing.assert_allclose(values, second[name][key], rtol=1e-5, atol=1e-5, err_msg=f"{name}/{key}")


def test_names_are_relative_and_contents_are_those_of_the_library(
    uninterrupted: dict[str, dict[str, np.ndarray]], folder: Path, model: ripe.RIPE
) -> None:
    assert sorted(uninterrupted) == ["0.jpg", "2.jpg", "4.jpg", "sub/deep/1.jpg", "sub/deep/3.jpg", "sub/deep/5.jpg"]
    [expected] = model.extract(folder / "sub" / "deep" / "3.jpg")
    stored = uninterrupted["sub/deep/3.jpg"]
    np.testing.assert_allclose(stored["keypoints"], expected.keypoints, atol=1e-3)
    np.testing.assert_allclose(stored["descriptors"], expected.descriptors.T, atol=1e-3)
    assert stored["image_size"].tolist() == [1300, 900]


@pytest.mark.slow
@pytest.mark.parametrize("kind", [signal.SIGKILL, signal.SIGINT])
def test_an_interrupted_run_continues(
    uninterrupted: dict[str, dict[str, np.ndarray]],
    folder: Path,
    random_weights: Path,
    tmp_path: Path,
    kind: signal.Signals,
) -> None:
    output = tmp_path / "f.h5"
    parts = tmp_path / "f.h5.parts"
    command = [sys.executable, "-m", "ripe.cli", "extract", str(folder), "-o", str(output)]
    command += ["--model", str(random_weights)]
    # A shell that starts the tests in the background has their children ignore Ctrl-C.
    heed = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, preexec_fn=heed)
    deadline = time.monotonic() + 60
    while len(list(parts.glob("*.h5"))) < 2 and time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.005)
    process.send_signal(kind)
    error = process.communicate(timeout=60)[1]
    assert process.returncode != 0, "the run was not interrupted in time"
    if kind == signal.SIGINT:
        assert process.returncode == 130
        assert error.splitlines()[-1] == "ripe: interrupted"
        done = list(read_features(output))
        assert [path.name for path in tmp_path.iterdir()] == ["f.h5"]
    else:
        done = [name for part in parts.glob("*.h5") for name in read_features(part)]
    assert 2 <= len(done) < COUNT
    assert extract(folder, output, random_weights) == 0
    assert_same_content(read_features(output), uninterrupted)
    assert [path.name for path in tmp_path.iterdir()] == ["f.h5"]


@pytest.fixture
def mixed(tmp_path: Path, photos: list[Path]) -> Path:
    """Good photos of several sizes and every kind of bad one."""
    root = tmp_path / "mixed"
    root.mkdir()
    with Image.open(photos[0]) as photo:
        photo.resize((300, 200)).save(root / "a.png")
        photo.resize((200, 300)).save(root / "b.webp")
        photo.convert("L").resize((300, 200)).save(root / "grey.JPG")
        photo.resize((400, 20)).save(root / "thin.png")
    (root / "cut.jpg").write_bytes(photos[0].read_bytes()[:10_000])
    (root / "text.jpg").write_text("no image")
    Image.new("RGB", (1, 1)).save(root / "one.png")
    (root / "notes.txt").write_text("not an image by its name")
    return root


def test_bad_images_are_named_and_the_rest_is_done(
    mixed: Path, random_weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "f.h5"
    assert extract(mixed, output, random_weights, "--resize", "100") == 1
    shown = capsys.readouterr()
    assert f"3 of 7 images in {output}" in shown.out
    reported = [line for line in shown.err.splitlines() if line.startswith("ripe: not extracted: ")]
    assert sorted(line.split(": ")[2] for line in reported) == ["cut.jpg", "one.png", "text.jpg", "thin.png"]
    stored = read_features(output)
    assert sorted(stored) == ["a.png", "b.webp", "grey.JPG"]
    assert stored["b.webp"]["image_size"].tolist() == [200, 300]
    with h5py.File(output) as file:
        assert file["a.png/keypoints"].attrs["uncertainty"] == 3.0
        assert file.attrs["max_side"] == 100


def test_a_mended_image_is_added_by_the_next_run(mixed: Path, random_weights: Path, tmp_path: Path) -> None:
    output = tmp_path / "f.h5"
    assert extract(mixed, output, random_weights) == 1
    for name in ("cut.jpg", "text.jpg"):
        (mixed / name).write_bytes((mixed / "grey.JPG").read_bytes())
    (mixed / "one.png").unlink()
    assert extract(mixed, output, random_weights) == 0
    assert len(read_features(output)) == 6


def test_what_is_done_is_not_read_again(
    mixed: Path, random_weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = [str(mixed / "a.png"), str(mixed / "b.webp")]
    options = ["-o", str(tmp_path / "f.h5"), "--model", str(random_weights)]
    assert main(["extract", files[0], *options]) == 0
    read: list[Path] = []

    def counted(path: Path, **settings: float) -> np.ndarray:
        read.append(path)
        return read_image(path, **settings)

    monkeypatch.setattr("ripe.images.read_image", counted)
    assert main(["extract", *files, *options]) == 0
    assert read == [mixed / "b.webp"]
    assert sorted(read_features(tmp_path / "f.h5")) == ["a.png", "b.webp"]


def test_photos_that_have_changed_are_done_anew(
    mixed: Path, random_weights: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """One is another photo now, one is none any more, one has a new time only; the rest is as it was."""
    output = tmp_path / "f.h5"
    extract(mixed, output, random_weights)
    assert not caplog.text
    before = read_features(output)
    (mixed / "a.png").write_bytes((mixed / "b.webp").read_bytes())
    (mixed / "b.webp").write_bytes(b"no photo")
    os.utime(mixed / "thin.png", ns=(0, 0))
    assert extract(mixed, output, random_weights) == 1
    assert f"{output}: 3 photos are extracted anew, as their files have changed" in caplog.text
    after = read_features(output)
    assert sorted(after) == ["a.png", "grey.JPG", "thin.png"]
    for name, old in {"a.png": "b.webp", "grey.JPG": "grey.JPG", "thin.png": "thin.png"}.items():
        np.testing.assert_allclose(after[name]["keypoints"], before[old]["keypoints"], atol=1e-3)


def test_two_processes_fill_one_file(mixed: Path, random_weights: Path, tmp_path: Path) -> None:
    halves = []
    for half in range(2):
        halves.append([str(tmp_path / f"{half}_{index}.png") for index in range(20)])
        for path in halves[-1]:
            Path(path).write_bytes((mixed / "a.png").read_bytes())
    command = [sys.executable, "-m", "ripe.cli", "extract", "-o", str(tmp_path / "f.h5")]
    command += ["--model", str(random_weights)]
    both = [subprocess.Popen([*command, *half], stderr=subprocess.PIPE, text=True) for half in halves]
    errors = [process.communicate(timeout=120)[1] for process in both]
    assert [process.returncode for process in both] == [0, 0], errors
    assert len(read_features(tmp_path / "f.h5")) == 40


@pytest.mark.skipif(os.name != "posix", reason="the limit is POSIX'")
def test_a_full_disk_ends_it_in_one_line(mixed: Path, random_weights: Path, tmp_path: Path) -> None:
    """A limit on the size of files acts as a full disk does; what was done before stays."""
    output = tmp_path / "f.h5"
    extract(mixed, output, random_weights, "--max-keypoints", "5")
    (mixed / "new.png").write_bytes((mixed / "a.png").read_bytes())
    code = "import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))\nfrom ripe.cli import main\n"
    words = ["extract", str(mixed), "-o", str(output), "--model", str(random_weights), "--max-keypoints", "5"]
    command = [sys.executable, "-c", f"{code}sys.exit(main({words!r}))"]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 1
    assert result.stderr.splitlines()[-1].startswith(f"ripe: error: [Errno 27] File too large: '{output}.parts")
    assert len(read_features(output)) == 4


def test_other_settings_are_refused(
    mixed: Path, random_weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "f.h5"
    extract(mixed, output, random_weights)
    content = output.read_bytes()
    assert extract(mixed, output, random_weights, "--max-keypoints", "100") == 1
    error = capsys.readouterr().err
    assert "--max-keypoints 2048 there, 100 now" in error
    assert "--overwrite" in error
    assert output.read_bytes() == content
    assert extract(mixed, output, random_weights, "--max-keypoints", "100", "--overwrite") == 1
    assert {len(found["scores"]) for found in read_features(output).values()} == {100}


def test_overwriting_leaves_files_of_others_alone(mixed: Path, random_weights: Path, tmp_path: Path) -> None:
    matches, foreign = tmp_path / "m.h5", tmp_path / "photo.png"
    with MatchFile(matches, {"matcher": "m", "model": "compact"}):
        pass
    foreign.write_bytes((mixed / "a.png").read_bytes())
    for output in (matches, foreign):
        content = output.read_bytes()
        assert extract(mixed, output, random_weights, "--overwrite") == 1
        assert output.read_bytes() == content


def test_small_photos_are_not_enlarged_and_large_ones_are_shrunk(
    photos: list[Path], random_weights: Path, tmp_path: Path
) -> None:
    """A photo of 741 px is seen as it is by default; keypoints are in its pixels whatever the network sees."""
    model = ripe.load(random_weights, device="cpu")
    for number, (options, resize) in enumerate([((), None), (("--resize", "300"), 300), (("--resize", "none"), None)]):
        output = tmp_path / f"{number}.h5"
        words = ["extract", str(photos[0]), "-o", str(output), "--model", str(random_weights), "--device", "cpu"]
        assert main([*words, *options]) == 0
        [found] = read_features(output).values()
        [expected] = model.extract(photos[0], resize=resize)
        assert np.array_equal(found["keypoints"], expected.keypoints.numpy())
    large = cv2.resize(cv2.imread(str(photos[0])), (2400, 1600))
    cv2.imwrite(str(tmp_path / "large.jpg"), large)
    words = ["extract", str(tmp_path / "large.jpg"), "-o", str(tmp_path / "l.h5"), "--model", str(random_weights)]
    assert main([*words, "--device", "cpu"]) == 0
    with h5py.File(tmp_path / "l.h5") as file:
        assert file["large.jpg/keypoints"].attrs["uncertainty"] == 1.5
        assert file["large.jpg/image_size"][()].tolist() == [2400, 1600]
        assert file["large.jpg/keypoints"][()].max() > 1700


def masked_folder(mixed: Path, tmp_path: Path) -> tuple[Path, Path]:
    """One photo, in a sub-folder, whose right half is masked."""
    folder, masks = tmp_path / "photos", tmp_path / "masks"
    for parent in (folder, masks):
        (parent / "sub").mkdir(parents=True)
    for place in ("sub/a.png", "b.png"):
        (folder / place).write_bytes((mixed / "a.png").read_bytes())
    with Image.open(folder / "b.png") as photo:
        mask = np.zeros(photo.size[::-1], dtype=np.uint8)
    mask[:, : mask.shape[1] // 2] = 255
    Image.fromarray(mask).save(masks / "sub" / "a.png")
    return folder, masks


def test_masks_follow_their_photos_and_changed_ones_are_noticed(
    mixed: Path, random_weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, masks = masked_folder(mixed, tmp_path)
    output = tmp_path / "f.h5"
    assert extract(folder, output, random_weights, "--max-keypoints", "50") == 0
    whole = read_features(output)
    options = ("--max-keypoints", "50", "--masks", str(masks))

    def furthest() -> tuple[float, int]:
        found = read_features(output)
        assert np.array_equal(found["b.png"]["keypoints"], whole["b.png"]["keypoints"])
        return found["sub/a.png"]["keypoints"][:, 0].max(), len(found["sub/a.png"]["keypoints"])

    width = int(whole["b.png"]["image_size"][0])
    assert furthest()[0] > width * 0.6
    assert extract(folder, output, random_weights, *options) == 0
    half, count = furthest()
    assert half <= width // 2 - 0.5  # within its pixels
    assert count == 50  # the best ones of what the mask leaves
    # COLMAP's name comes first.
    mask = np.zeros((int(whole["b.png"]["image_size"][1]), width), dtype=np.uint8)
    mask[:, : width // 4] = 1
    Image.fromarray(mask).save(masks / "sub" / "a.png.png")
    assert extract(folder, output, random_weights, *options) == 0
    assert furthest()[0] <= width // 4 - 0.5
    # The same command without masks does the masked photo anew.
    assert extract(folder, output, random_weights, "--max-keypoints", "50") == 0
    assert furthest()[0] > width * 0.6


def test_a_mask_of_another_size_is_named_with_its_photo(
    mixed: Path, random_weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, masks = masked_folder(mixed, tmp_path)
    Image.new("L", (40, 30)).save(masks / "sub" / "a.png")
    output = tmp_path / "f.h5"
    assert extract(folder, output, random_weights, "--masks", str(masks)) == 1
    error = capsys.readouterr().err
    assert f"{masks / 'sub' / 'a.png'} is 40×30 pixels, and {folder / 'sub' / 'a.png'} is" in error
    assert list(read_features(output)) == ["b.png"]
    assert extract(folder, output, random_weights, "--masks", str(tmp_path / "nowhere")) == 1
    assert "no such folder of masks" in capsys.readouterr().err


def test_single_files_are_named_by_their_name(mixed: Path, random_weights: Path, tmp_path: Path) -> None:
    files = [str(mixed / "a.png"), str(mixed / "grey.JPG")]
    assert main(["extract", *files, "-o", str(tmp_path / "f.h5"), "--model", str(random_weights)]) == 0
    assert sorted(read_features(tmp_path / "f.h5")) == ["a.png", "grey.JPG"]


@pytest.mark.skipif(os.name != "posix", reason="file names are bytes on POSIX only")
def test_a_name_that_is_no_text_is_reported(mixed: Path, random_weights: Path, tmp_path: Path) -> None:
    with open(os.fsencode(mixed) + b"/\xff.png", "wb") as file:  # noqa: PTH123 (a name of bytes)
        file.write((mixed / "a.png").read_bytes())
    assert extract(mixed, tmp_path / "f.h5", random_weights) == 1
    assert len(read_features(tmp_path / "f.h5")) == 4


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_metadata_links_and_float_files_cost_no_photo(
    mixed: Path, random_weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "odd"
    folder.mkdir()
    (folder / "linked").symlink_to(mixed)
    with Image.open(mixed / "a.png") as photo:
        # Orientation 6, and an XResolution that is text.
        broken = b"Exif\0\0II*\0\x08\0\0\0\x02\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0"
        broken += b"\x1a\x01\x02\0\x08\0\0\0\x26\0\0\0\0\0\0\0seventy\0"
        photo.convert("RGB").save(folder / "turned.jpg", exif=broken)
        grey = np.asarray(photo.convert("L"), dtype=np.float32)
    Image.fromarray(grey / 255).save(folder / "float.tif")
    Image.fromarray(grey - 1000).save(folder / "heights.tif")
    output = tmp_path / "odd.h5"
    assert extract(folder, output, random_weights) == 1
    reported = [line for line in capsys.readouterr().err.splitlines() if line.startswith("ripe: not extracted: ")]
    names = ["heights.tif", "linked/cut.jpg", "linked/one.png", "linked/text.jpg"]
    assert sorted(line.split(": ")[2] for line in reported) == names
    stored = read_features(output)
    assert sorted(stored) == [
        "float.tif",
        *(f"linked/{n}" for n in ("a.png", "b.webp", "grey.JPG", "thin.png")),
        "turned.jpg",
    ]
    assert stored["turned.jpg"]["image_size"].tolist() == [200, 300]
    assert len(stored["float.tif"]["keypoints"]) > 20
    assert extract(mixed, tmp_path / "f.h5", random_weights, "--max-megapixels", "1") == 1
    assert len(read_features(tmp_path / "f.h5")) == 4
