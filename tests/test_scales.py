"""Images seen at several scales, and what keeps the size of a keypoint."""

from pathlib import Path

import cv2
import h5py
import numpy as np
import pytest
import torch
from PIL import Image

import ripe
from ripe.cli import main
from ripe.features import Features
from ripe.images import as_rgb, resize
from ripe.integrations import colmap, opencv
from ripe.storage import FeatureFile, FeatureReader

SCALES = (1, 0.5, 0.25)


@pytest.fixture(scope="module")
def found(model: ripe.RIPE, photos: list[Path]) -> Features:
    """A bundled photo's, at several scales. Do not change them."""
    return model.extract(photos[0], max_keypoints=None, scales=SCALES)[0]


def made(count: int = 4) -> Features:
    keypoints = torch.arange(2.0 * count).reshape(count, 2)
    return Features(keypoints, torch.ones(count), torch.eye(count), (80, 60), torch.arange(1.0, count + 1))


def test_scales_are_pixels_of_the_photo_by_pixels_that_the_network_saw(found: Features) -> None:
    assert found.image_size == (741, 500)
    seen = 741 / np.array([741, 370, 185])  # rounded sides
    np.testing.assert_allclose(found.scales.unique().numpy(), seen, rtol=1e-6)
    assert (found.scores.diff() <= 0).all()
    torch.testing.assert_close(found.descriptors.norm(dim=1), torch.ones(len(found)))


def test_each_scale_gives_what_the_resized_image_gives(model: ripe.RIPE, photos: list[Path], found: Features) -> None:
    image = as_rgb(photos[0])
    for size in ((500, 741), (250, 370), (125, 185)):
        alone = model.extract(image if size[0] == 500 else resize(image, size), max_keypoints=None)[0]
        at = found[torch.isclose(found.scales, torch.tensor(741 / size[1]))]
        places = (alone.keypoints + 0.5) * torch.tensor([741 / size[1], 500 / size[0]]) - 0.5
        torch.testing.assert_close(at.keypoints, places)
        torch.testing.assert_close(at.scores, alone.scores)
        torch.testing.assert_close(at.descriptors, alone.descriptors)


def test_the_best_of_all_scales_share_one_limit(model: ripe.RIPE, photos: list[Path], found: Features) -> None:
    limited = model.extract(photos[0], max_keypoints=100, scales=SCALES)[0]
    assert torch.equal(limited.keypoints, found.keypoints[:100])
    assert torch.equal(limited.scales, found.scales[:100])


def test_one_scale_is_the_default_and_follows_the_resize(model: ripe.RIPE, photos: list[Path]) -> None:
    plain, asked = (model.extract(photos[0], max_keypoints=50, **how)[0] for how in ({}, {"scales": [1]}))
    assert torch.equal(plain.keypoints, asked.keypoints)
    assert torch.equal(plain.descriptors, asked.descriptors)
    assert torch.equal(plain.scales, torch.ones(50))
    shrunk = model.extract(photos[0], max_keypoints=50, resize=247)[0]
    assert torch.equal(shrunk.scales, torch.full((50,), 3.0))


def test_scales_too_small_for_the_network_are_left_out(model: ripe.RIPE) -> None:
    image = torch.rand(3, 40, 60, generator=torch.Generator().manual_seed(0))
    found = model.extract(image, threshold=-1e9, scales=SCALES)[0]
    assert found.scales.unique().tolist() == [1, 2]
    assert model.extract(image, threshold=-1e9, scales=[0.1])[0].scales.unique().tolist() == [1]


def test_masks_hold_at_every_scale(model: ripe.RIPE, photos: list[Path]) -> None:
    mask = np.zeros((500, 741), dtype=bool)
    mask[100:300, 200:500] = True
    found = model.extract(photos[0], threshold=-1e9, scales=SCALES, masks=[mask])[0]
    assert len(found.scales.unique()) == 3
    columns, rows = found.keypoints.round().long().T
    assert mask[rows, columns].all()


def test_batches_give_what_single_images_give_at_several_scales(model: ripe.RIPE, photos: list[Path]) -> None:
    images = [as_rgb(path)[:, :200, :300] for path in photos]
    for together, image in zip(model.extract(images, scales=SCALES), images, strict=True):
        alone = model.extract(image, scales=SCALES)[0]
        torch.testing.assert_close(together.keypoints, alone.keypoints)
        torch.testing.assert_close(together.scales, alone.scales)
        torch.testing.assert_close(together.descriptors, alone.descriptors)


@pytest.mark.parametrize("scales", [(), (0,), (-1,), (float("nan"),), (8,), ("large",), None])
def test_what_are_no_scales_is_refused(model: ripe.RIPE, scales: object) -> None:
    with pytest.raises(ValueError, match="scales are"):
        model.extract(torch.zeros(3, 32, 32), scales=scales)  # type: ignore[arg-type]


def test_a_detail_is_found_at_several_scales_and_not_at_one(photos: list[Path]) -> None:
    """The middle of the right photo, six times as large, in the left one."""
    model = ripe.load(device="cpu")
    detail = resize(as_rgb(photos[1])[:, 205:285, 310:430], (480, 720))
    how = {"model": model, "geometry": "homography", "rotations": "none"}
    one, several, automatic = (
        ripe.match_photos(photos[0], detail, **how, scales=scales)  # type: ignore[arg-type]
        for scales in ((1,), SCALES, None)
    )
    assert one.by_chance
    assert several.verdict
    assert several.geometry is not None
    assert several.geometry.model is not None
    matrix = several.geometry.model / several.geometry.model[2, 2]
    assert 5 < float(matrix[0, 0]) < 7
    assert automatic.verdict
    assert automatic.verdict.log10_nfa == pytest.approx(several.verdict.log10_nfa + np.log10(2))


def test_features_keep_scales_wherever_they_go(tmp_path: Path) -> None:
    features = made()
    assert features[torch.tensor([2, 0])].scales.tolist() == [3, 1]
    assert features[1:].scales.tolist() == [2, 3, 4]
    assert features.to(torch.float64).scales.dtype == torch.float64
    np.testing.assert_array_equal(features.numpy()["scales"], [1, 2, 3, 4])
    features.save(tmp_path / "a.npz")
    assert torch.equal(ripe.load_features(tmp_path / "a.npz").scales, features.scales)
    with FeatureFile(tmp_path / "f.h5", {}) as store:
        store.add({"a.jpg": features}, {"a.jpg": 1.0})
    with FeatureReader(tmp_path / "f.h5") as reader:
        assert torch.equal(reader.read("a.jpg").scales, features.scales)


def test_files_without_scales_are_of_one(tmp_path: Path) -> None:
    features = made()
    np.savez(tmp_path / "a.npz", **{key: value for key, value in features.numpy().items() if key != "scales"})
    assert torch.equal(ripe.load_features(tmp_path / "a.npz").scales, torch.ones(4))
    with FeatureFile(tmp_path / "f.h5", {}) as store:
        store.add({"a.jpg": features}, {"a.jpg": 1.0})
    with h5py.File(tmp_path / "f.h5", "a") as file:
        del file["a.jpg/scales"]
    with FeatureReader(tmp_path / "f.h5") as reader:
        assert torch.equal(reader.read("a.jpg").scales, torch.ones(4))


def test_sizes_in_opencv() -> None:
    assert [keypoint.size for keypoint in opencv.to_keypoints(made())] == [1, 2, 3, 4]
    assert isinstance(opencv.to_keypoints(made())[0], cv2.KeyPoint)


def test_frames_in_kornia(model: ripe.RIPE, photos: list[Path]) -> None:
    kornia = pytest.importorskip("kornia.feature")
    from ripe.integrations.kornia import LAF_SCALE, RIPEFeature

    image = as_rgb(photos[0])
    lafs, _, _ = RIPEFeature(model, max_keypoints=100, scales=SCALES)(image[None])
    scales = model.extract(image, max_keypoints=100, scales=SCALES)[0].scales
    assert len(scales.unique()) > 1
    torch.testing.assert_close(kornia.get_laf_scale(lafs)[0].flatten(), LAF_SCALE * scales)


@pytest.mark.parametrize(
    ("orientation", "turned_by"), [(1, 0), (3, np.pi), (6, -np.pi / 2), (8, np.pi / 2)], ids=["1", "3", "6", "8"]
)
def test_shapes_in_colmaps_database(orientation: int, turned_by: float, tmp_path: Path) -> None:
    """COLMAP's reader knows scale and orientation by its six columns; EXIF turns them as it turns the photo."""
    pycolmap = pytest.importorskip("pycolmap")
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.new("RGB", (80, 60)).save(tmp_path / "a.jpg", exif=exif)
    features = made()
    features.image_size = (80, 60) if orientation < 5 else (60, 80)
    assert colmap.write_database(tmp_path / "database.db", tmp_path, {"a.jpg": features}, []) == []
    with pycolmap.Database.open(tmp_path / "database.db") as opened:
        stored = opened.read_keypoints(opened.read_all_images()[0].image_id)
    assert stored.shape == (4, 6)
    matrices = stored[:, 2:].reshape(4, 2, 2)
    cos, sin = np.cos(turned_by), np.sin(turned_by)
    expected = features.scales.numpy()[:, None, None] * np.array([[cos, -sin], [sin, cos]])
    np.testing.assert_allclose(matrices, expected, atol=1e-6)


def test_the_command_writes_scales_and_refuses_to_mix(
    photos: list[Path], random_weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["extract", str(photos[0]), "-o", str(tmp_path / "f.h5"), "--model", str(random_weights)]
    words += ["--device", "cpu", "--max-keypoints", "200"]
    assert main([*words, "--scales", "1,0.5,0.25"]) == 0
    with h5py.File(tmp_path / "f.h5") as file:
        assert file.attrs["scales"] == "1,0.5,0.25"
        assert len(np.unique(file["motorcycle_left.jpg/scales"][()])) > 1
    assert main(words) == 1
    assert "--scales 1,0.5,0.25 there, none now" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main([*words, "--scales", "1,large"])
    assert "give factors above 0" in capsys.readouterr().err
