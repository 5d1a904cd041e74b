"""Panoramas of crops of one photo, whose places are known."""

from pathlib import Path

import cv2
import numpy as np
import pytest
import skimage.data
from PIL import Image

import ripe
from ripe.cli import main
from ripe.stitching import stitch

SIZE = (340, 300)  # width, height of a crop
PLACES = ((0, 40), (170, 60), (330, 30))  # x, y


@pytest.fixture(scope="module")
def scene() -> np.ndarray:
    return cv2.resize(skimage.data.astronaut()[:256], (700, 350), interpolation=cv2.INTER_CUBIC)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, scene: np.ndarray) -> Path:
    """Three crops that overlap, each darker than the one before, and a photo of something else."""
    root = tmp_path_factory.mktemp("panorama")
    for index, (x, y) in enumerate(PLACES):
        crop = scene[y : y + SIZE[1], x : x + SIZE[0]] * (1 - 0.1 * index)
        Image.fromarray(crop.astype(np.uint8)).save(root / f"{index}.png")
    Image.fromarray(skimage.data.chelsea()).save(root / "cat.png")
    return root


def union(scene: np.ndarray) -> np.ndarray:
    covered = np.zeros(scene.shape[:2], dtype=bool)
    for x, y in PLACES:
        covered[y : y + SIZE[1], x : x + SIZE[0]] = True
    return covered


def test_the_panorama_covers_the_union_and_leaves_strangers_out(folder: Path, scene: np.ndarray) -> None:
    files = [folder / name for name in ("2.png", "cat.png", "0.png", "missing.png", "1.png")]
    steps: list[None] = []
    panorama = stitch(files, model=ripe.load(device="cpu"), max_keypoints=1000, progress=lambda: steps.append(None))
    assert panorama.used == [0, 2, 4]
    assert list(panorama.unreadable) == [3]
    assert "missing.png: no such file" in panorama.unreadable[3]
    assert len(steps) == 5 + 6
    covered = union(scene)
    assert panorama.valid.sum() == pytest.approx(covered.sum(), rel=0.03)
    rows, columns = np.nonzero(covered)
    expected = (np.ptp(rows) + 1, np.ptp(columns) + 1)
    np.testing.assert_allclose(panorama.picture.shape[:2], expected, rtol=0.03)
    # It shows the scene, but for brightness: resized to the same frame, the two correlate.
    box = scene[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
    seen = covered[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
    shown = cv2.resize(panorama.picture, expected[::-1])
    assert np.corrcoef(cv2.blur(shown, (5, 5))[seen].ravel(), cv2.blur(box, (5, 5))[seen].ravel())[0, 1] > 0.97


def test_photos_upside_down_belong_to_the_panorama(folder: Path, scene: np.ndarray, tmp_path: Path) -> None:
    turned = tmp_path / "1.png"
    Image.open(folder / "1.png").transpose(Image.Transpose.ROTATE_180).save(turned)
    files = [folder / "0.png", turned, folder / "2.png"]
    panorama = stitch(files, model=ripe.load(device="cpu"), max_keypoints=1000)
    assert panorama.used == [0, 1, 2]
    assert panorama.valid.sum() == pytest.approx(union(scene).sum(), rel=0.03)


def test_the_command_names_what_is_left_out(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "pano.jpg"
    assert main(["stitch", str(folder), "-o", str(output), "--max-keypoints", "700"]) == 0
    shown = capsys.readouterr()
    assert "photos     3 of 4" in shown.out
    assert "ripe: left out: cat.png: does not match the others" in shown.err
    with Image.open(output) as picture:
        assert f"size       {picture.width}×{picture.height}" in shown.out


def test_photos_with_nothing_in_common_are_refused(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["stitch", str(folder / "cat.png"), str(folder / "0.png"), "-o", str(tmp_path / "pano.jpg")]
    assert main(command) == 3
    assert "no two of the photos belong together" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_one_photo_is_no_panorama(folder: Path) -> None:
    with pytest.raises(ValueError, match="two photos or more"):
        stitch([folder / "0.png"])
