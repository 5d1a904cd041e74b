"""Arrays and numbers that native code must not see: each is refused by name, and none ends the process."""

import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import ripe
from ripe.drawing import draw_matches
from ripe.features import Features
from ripe.geometry.robust import estimate_geometry, estimate_relative_pose
from ripe.integrations import opencv
from ripe.matching import mutual_nearest_neighbours

POINTS = torch.rand(30, 2, generator=torch.Generator().manual_seed(0)) * 400
CAMERA = torch.tensor([[500.0, 0, 250], [0, 500, 250], [0, 0, 1]])
SPOILT = POINTS.clone()
SPOILT[3, 1] = math.nan


def camera_with(row: int, column: int, value: float) -> torch.Tensor:
    matrix = CAMERA.clone()
    matrix[row, column] = value
    return matrix


def test_no_array_ends_the_process() -> None:
    search = Path(__file__).with_name("hostile_arrays.py")
    ended = subprocess.run([sys.executable, search], capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr[-3000:]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"points1": POINTS[:20]}, "points0 has 30 rows and points1 has 20"),
        ({"points0": POINTS.T}, "points0 has shape 2×30"),
        ({"points1": POINTS[:, :1]}, "points1 has shape 30×1"),
        ({"points0": torch.tensor(3.0)}, "points0 has shape of one number"),
        ({"points1": SPOILT}, "points1 has NaN or infinite numbers in 1 of 30 rows"),
        ({"points0": "left.jpg"}, "points0 must be an array of numbers"),
        ({"points0": POINTS.to(torch.complex64)}, "points0 must be real"),
        ({"max_error": 0.0}, "max_error is 0.0"),
        ({"max_error": math.inf}, "max_error is inf"),
        ({"max_error": math.nan}, "max_error is nan"),
        ({"max_error": "1"}, "max_error is '1'"),
        ({"max_iterations": 0}, "max_iterations is 0; it must be a whole number of 1 or more"),
        ({"max_iterations": 1.5}, "max_iterations is 1.5"),
        ({"min_iterations": -1}, "min_iterations is -1"),
        ({"seed": -1}, "seed is -1"),
        ({"seed": 2**64}, "seed is"),
        ({"kind": "affine"}, "kind is 'affine'; it must be one of fundamental, homography, essential"),
    ],
)
@pytest.mark.parametrize("count", [30, 3])
def test_what_cannot_be_fitted_is_named(changes: dict, message: str, count: int) -> None:
    """Also where there are too few matches for a fit: what is wrong must not depend on the photos."""
    given = {"kind": "fundamental", "points0": POINTS, "points1": POINTS + 1, "max_error": 1.0}
    if "points" not in "".join(changes):
        given |= {"points0": POINTS[:count], "points1": POINTS[:count]}
    with pytest.raises(ValueError, match=message):
        estimate_geometry(**given | changes)


@pytest.mark.parametrize(
    ("camera", "message"),
    [
        (torch.eye(4), "intrinsics1 has shape 4×4"),
        (camera_with(0, 2, math.nan), "intrinsics1 has NaN"),
        (camera_with(1, 1, 0), "focal lengths 500 and 0"),
        (camera_with(0, 0, -500), "focal lengths -500 and 500"),
        (camera_with(0, 1, 3), "without skew"),
        (CAMERA.T, "rows"),
    ],
)
def test_what_is_no_camera_is_named(camera: torch.Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        estimate_relative_pose(POINTS, POINTS + 1, CAMERA, camera, max_epipolar_error=1.0)


def test_arrays_of_numpy_and_every_type_are_taken() -> None:
    wanted = estimate_geometry("homography", POINTS.double(), POINTS.double() + 5, max_error=1.0)
    assert wanted.num_inliers == 30
    for change in (torch.Tensor.numpy, torch.Tensor.double, lambda points: np.asfortranarray(points.numpy())):
        found = estimate_geometry("homography", change(POINTS), change(POINTS + 5), max_error=np.float32(1))
        assert found.num_inliers == 30
    whole = POINTS.long()
    assert estimate_geometry("homography", whole, whole + 5, max_error=1, seed=np.int64(3)).num_inliers == 30


def features(count: int = 3, **changes: object) -> Features:
    parts = {
        "keypoints": torch.arange(2.0 * count).reshape(count, 2),
        "scores": torch.ones(count),
        "descriptors": torch.eye(max(count, 8))[:count],
        "image_size": (60, 40),
    }
    return Features(**parts | changes)


@pytest.mark.parametrize(
    ("second", "message"),
    [
        ([features()], "features1 is a list; it must be the `Features` of one image"),
        (features(descriptors=torch.full((3, 8), math.nan)), "features1 has descriptors that are NaN"),
        (features(keypoints=torch.full((3, 2), math.inf)), "features1 has keypoints that are NaN or infinite"),
        (features(descriptors=torch.eye(8)), "of shapes 3×2, 3, 8×8"),
        (features(descriptors=torch.ones(3)), "of shapes 3×2, 3, 3;"),
        (features(scores=torch.ones(2)), "of shapes 3×2, 2, 3×8"),
        (features(descriptors=torch.eye(16)[:3]), "8 and 16 numbers.*same model"),
        (features(0, descriptors=torch.zeros(0, 16)), "8 and 16 numbers.*same model"),
        (features(descriptors=torch.eye(8)[:3].double()), "dtype torch.float32 and torch.float64"),
    ],
)
def test_what_cannot_be_matched_is_named(second: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ripe.match(features(), second)


def test_descriptors_on_two_devices_are_named() -> None:
    with pytest.raises(ValueError, match="device cpu and meta"):
        mutual_nearest_neighbours(torch.eye(8), torch.eye(8, device="meta"))


@pytest.mark.parametrize("least", [math.nan, 1.5, -2])
def test_a_least_similarity_is_a_cosine(least: float) -> None:
    with pytest.raises(ValueError, match="min_similarity is"):
        ripe.match(features(), features(), min_similarity=least)


def test_what_opencv_cannot_hold_is_named() -> None:
    with pytest.raises(ValueError, match="keypoints has NaN"):
        opencv.to_keypoints(features(keypoints=torch.full((3, 2), math.nan)))
    with pytest.raises(ValueError, match="2 scores of 3 keypoints"):
        opencv.keypoints_of(torch.zeros(3, 2), torch.zeros(2))
    with pytest.raises(ValueError, match="indices joins number 0 to -1 in row 1"):
        opencv.matches_of(torch.zeros(2), torch.tensor([[0, 0], [0, -1]]))
    with pytest.raises(ValueError, match="whole numbers"):
        opencv.matches_of(torch.zeros(2), torch.zeros(2, 2))


def test_what_cannot_be_drawn_is_named() -> None:
    photos = torch.zeros(3, 40, 60), torch.zeros(3, 40, 60)
    with pytest.raises(ValueError, match="points0 has 30 rows and points1 has 20"):
        draw_matches(photos, (POINTS, POINTS[:20]))
    with pytest.raises(ValueError, match="points1 has NaN"):
        draw_matches(photos, (POINTS, SPOILT))
    with pytest.raises(ValueError, match="wrong has 2 elements for 30 matches"):
        draw_matches(photos, (POINTS, POINTS), wrong=torch.ones(2))


@pytest.mark.parametrize("indices", [[[0, 3]], [[-1, 0]], [[0.0, 1.0]], [[0, 1, 2]]])
def test_colmap_gets_no_index_beyond_the_keypoints(indices: list, tmp_path: Path) -> None:
    """As matches have that were made before features were extracted anew: COLMAP's verification ends the process."""
    pytest.importorskip("pycolmap")
    from ripe.integrations import colmap

    for name in ("a.png", "b.png"):
        Image.new("L", (60, 40)).save(tmp_path / name)
    database = tmp_path / "database.db"
    both = {"a.png": features(), "b.png": features()}
    colmap.write_database(database, tmp_path, both, [(("a.png", "b.png"), np.array([[0, 2]]))])
    before = database.read_bytes()
    with pytest.raises(ValueError, match=r"a\.png and b\.png: what was matched"):
        colmap.write_database(database, tmp_path, both, [(("a.png", "b.png"), np.array(indices))])
    assert database.read_bytes() == before
    assert {path.name for path in tmp_path.iterdir()} == {"a.png", "b.png", "database.db"}
