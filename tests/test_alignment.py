"""Photos brought into another's frame by homographies that are known."""

from pathlib import Path

import cv2
import numpy as np
import pytest
import skimage.data
import torch
from PIL import Image

import ripe
from ripe.cli import main
from ripe.geometry.homography import apply_homography
from ripe.geometry.warping import warp

# From the photo to what a second camera sees of it: turned by 12°, enlarged, in perspective.
KNOWN = np.array([[1.08, -0.22, 60.0], [0.2, 1.05, -40.0], [2e-4, 1e-4, 1.0]])
SIZE = (480, 350)


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A photo, and a second view of it."""
    folder = tmp_path_factory.mktemp("pair")
    photo = skimage.data.coffee()
    view = cv2.warpPerspective(photo, KNOWN, SIZE, flags=cv2.INTER_AREA)
    Image.fromarray(photo).save(folder / "a.png")
    Image.fromarray(view).save(folder / "b.png")
    return folder / "a.png", folder / "b.png"


@pytest.fixture(scope="module")
def shipped() -> ripe.RIPE:
    return ripe.load(device="cpu")


def reach(size: tuple[int, int]) -> np.ndarray:
    """Which pixels of the photo the second view shows, by where each goes; H×W bool."""
    columns, rows = np.meshgrid(np.arange(size[0]), np.arange(size[1]))
    grid = torch.from_numpy(np.stack([columns, rows], axis=-1).reshape(-1, 2)).double()
    x, y = apply_homography(torch.from_numpy(KNOWN), grid).numpy().T
    inside = (x >= -0.5) & (x < SIZE[0] - 0.5) & (y >= -0.5) & (y < SIZE[1] - 0.5)
    return inside.reshape(size[1], size[0])


def test_a_known_homography_is_undone(pair: tuple[Path, Path], shipped: ripe.RIPE) -> None:
    aligned = ripe.align(*pair, model=shipped, max_keypoints=1000)
    photo = skimage.data.coffee()
    assert aligned.warped.shape == photo.shape
    assert aligned.verdict.name == "matched"
    corners = torch.tensor([[150.0, 100], [500, 120], [480, 350], [140, 330]], dtype=torch.float64)
    assert aligned.geometry.model is not None
    moved = apply_homography(aligned.geometry.model, corners)
    assert (moved - apply_homography(torch.from_numpy(KNOWN), corners)).norm(dim=1).max() < 1
    expected = reach((photo.shape[1], photo.shape[0]))
    assert 0.4 < expected.mean() < 0.9
    assert (aligned.valid != expected).mean() < 0.01
    assert (aligned.warped[~aligned.valid] == 0).all()
    inner = cv2.erode(expected.astype(np.uint8), np.ones((9, 9))) > 0
    assert np.abs(aligned.warped[inner].astype(int) - photo[inner]).mean() < 6


def test_the_mask_is_exact_for_a_known_homography() -> None:
    view = np.full((SIZE[1], SIZE[0], 3), 255, dtype=np.uint8)
    warped, valid = warp(view, torch.from_numpy(KNOWN), (600, 400))
    assert (valid != reach((600, 400))).sum() < 10  # OpenCV rounds to 1/32 pixel
    assert (warped[valid] == 255).all()


def test_what_lies_behind_the_camera_is_not_shown() -> None:
    """A plane that is seen nearly edgewise: beyond its horizon at x = 100 there is nothing."""
    homography = torch.tensor([[1.0, 0, 0], [0, 1, 0], [-0.01, 0, 1]], dtype=torch.float64)
    _, valid = warp(np.full((2000, 2000, 3), 9, dtype=np.uint8), homography, (300, 50))
    assert valid[:, :90].all()
    assert not valid[:, 101:].any()


def test_shrinking_averages() -> None:
    stripes = np.zeros((800, 800, 3), dtype=np.uint8)
    stripes[:, ::2] = 255
    warped, valid = warp(stripes, torch.diag(torch.tensor([8.0, 8, 1])), (100, 100))
    assert valid.all()
    assert np.abs(warped[5:-5, 5:-5].astype(int) - 127).max() < 20


def test_large_photos_are_warped_at_their_own_size(
    pair: tuple[Path, Path], shipped: ripe.RIPE, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The network sees 300 pixels, the threshold follows, and homography and picture are those of the photos."""
    sizes: list[int | None] = []
    extract = shipped.extract
    monkeypatch.setattr(shipped, "extract", lambda *a, **k: (sizes.append(k["resize"]), extract(*a, **k))[1])
    aligned = ripe.align(*pair, model=shipped, long_side=300)
    assert sizes == [300, 300]
    assert aligned.geometry.max_error == pytest.approx(2 * SIZE[0] / 300)
    assert aligned.warped.shape == (400, 600, 3)
    assert (aligned.valid != reach((600, 400))).mean() < 0.03


def test_orientation_is_applied_and_sizes_may_differ(
    pair: tuple[Path, Path], shipped: ripe.RIPE, tmp_path: Path
) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    with Image.open(pair[1]) as image:
        image.resize((SIZE[0] // 2, SIZE[1] // 2)).transpose(Image.Transpose.ROTATE_90).save(
            tmp_path / "b.jpg", exif=exif, quality=95
        )
    aligned = ripe.align(pair[0], tmp_path / "b.jpg", model=shipped, max_keypoints=1000)
    assert (aligned.valid != reach((600, 400))).mean() < 0.02


@pytest.mark.parametrize(
    ("name", "view", "size"),
    [
        ("w.png", None, (600, 400)),
        ("b.jpg", "blend", (600, 400)),
        ("c.png", "checker", (600, 400)),
        ("f.gif", None, (600, 400)),
    ],
)
def test_the_command_writes_views_and_the_mask(
    pair: tuple[Path, Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    name: str,
    view: str | None,
    size: tuple[int, int],
) -> None:
    mask = tmp_path / "mask.png"
    options = ["-o", str(tmp_path / name), "--mask", str(mask), "--max-keypoints", "500"]
    assert main(["align", *map(str, pair), *options, *(["--view", view] if view else [])]) == 0
    assert "verdict    matched" in capsys.readouterr().out
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted((name, "mask.png"))
    with Image.open(mask) as seen:
        valid = np.asarray(seen)
    assert set(np.unique(valid)) == {0, 255}
    assert ((valid > 0) != reach(size)).mean() < 0.02
    photo = skimage.data.coffee().astype(int)
    with Image.open(tmp_path / name) as picture:
        assert picture.size == size
        if name == "f.gif":
            assert picture.n_frames == 2
        elif view is not None:  # the photo itself where the other one does not reach, and nearly so elsewhere
            assert np.abs(np.asarray(picture)[valid == 0].astype(int) - photo[valid == 0]).mean() < 4
            assert np.abs(np.asarray(picture).astype(int) - photo).mean() < 8


def test_photos_with_nothing_in_common_are_refused(
    pair: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str], shipped: ripe.RIPE
) -> None:
    Image.fromarray(skimage.data.chelsea()).save(tmp_path / "cat.png")
    options = ["-o", str(tmp_path / "w.png"), "--mask", str(tmp_path / "mask.png")]
    assert main(["align", str(pair[0]), str(tmp_path / "cat.png"), *options]) == 3
    error = capsys.readouterr().err
    assert error.startswith("ripe: the photos do not align: ")
    assert error.endswith("no better than chance\n")
    assert error.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["cat.png"]
    with pytest.raises(ripe.UnrelatedPhotosError):
        ripe.align(np.zeros((64, 64, 3), np.uint8), pair[1], model=shipped)


def test_flicker_and_gif_belong_together(pair: tuple[Path, Path], tmp_path: Path) -> None:
    for options in (["-o", "a.png", "--view", "flicker"], ["-o", "a.gif", "--view", "blend"]):
        with pytest.raises(SystemExit) as exit_info:
            main(["align", *map(str, pair), *options])
        assert exit_info.value.code == 2


def test_sides_that_opencv_cannot_warp_are_refused(shipped: ripe.RIPE) -> None:
    with pytest.raises(ValueError, match="side of 33000 pixels"):
        ripe.align(np.zeros((16, 33000, 3), np.uint8), np.zeros((64, 64, 3), np.uint8), model=shipped)
