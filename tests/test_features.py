"""What the library hands out: in one line, as arrays, in a file."""

from pathlib import Path

import numpy as np
import pytest
import torch

import ripe
from ripe.features import Features, Matches, TwoViewGeometry
from ripe.geometry.pose import CalibratedGeometry


def features(count: int = 5) -> Features:
    generator = torch.Generator().manual_seed(count)
    keypoints, descriptors = torch.rand(count, 2, generator=generator), torch.rand(count, 4, generator=generator)
    return Features(keypoints, torch.rand(count, generator=generator), descriptors, (640, 480))


def test_each_is_shown_in_one_line() -> None:
    inliers = torch.tensor([True, False, True])
    geometry = TwoViewGeometry("homography", 2.0, torch.eye(3), inliers)
    assert repr(features()) == "Features(5 keypoints, 4 numbers each, 640×480 image, cpu)"
    assert repr(Matches(torch.zeros(3, 2), torch.zeros(3))) == "Matches(3 matches)"
    assert repr(geometry) == "TwoViewGeometry(homography, 2 inliers of 3 matches, within 2 px)"
    assert repr(CalibratedGeometry.failed("essential", 1.0, 3)) == (
        "CalibratedGeometry(essential, no model of 3 matches, within 1 px)"
    )


@pytest.mark.parametrize("count", [0, 5])
@pytest.mark.parametrize("name", ["a.npz", "no ending"])
def test_a_file_holds_everything_exactly(count: int, name: str, tmp_path: Path) -> None:
    saved = features(count)
    saved.descriptors.requires_grad_()
    saved.save(tmp_path / name)
    loaded = ripe.load_features(tmp_path / name)
    for field in ("keypoints", "scores", "descriptors", "scales"):
        assert torch.equal(getattr(loaded, field), getattr(saved, field))
        assert getattr(loaded, field).dtype == torch.float32
    assert loaded.image_size == (640, 480)
    assert [path.name for path in tmp_path.iterdir()] == [name]
    with np.load(tmp_path / name) as file:  # as anybody would who does not know the library
        assert {key: array.shape for key, array in file.items()} == {
            "keypoints": (count, 2),
            "scores": (count,),
            "descriptors": (count, 4),
            "image_size": (2,),
            "scales": (count,),
        }


def test_arrays_are_the_tensors_values() -> None:
    found = features()
    arrays = found.numpy()
    assert arrays["keypoints"].tolist() == found.keypoints.tolist()
    assert arrays["image_size"].tolist() == [640, 480]
    assert found.to(torch.bfloat16).numpy()["descriptors"].dtype == np.float32


def test_each_keypoint_has_its_partner() -> None:
    matches = Matches(torch.tensor([[0, 3], [2, 1]]), torch.tensor([0.5, 0.25]))
    partners, scores = matches.partners(4)
    assert partners.tolist() == [3, -1, 1, -1]
    assert scores.tolist() == [0.5, 0, 0.25, 0]
    partners, scores = matches.reversed().partners(5)
    assert partners.tolist() == [-1, 2, -1, 0, -1]
    assert scores.tolist() == [0, 0.25, 0, 0.5, 0]
    assert Matches(torch.zeros(0, 2, dtype=torch.int64), torch.zeros(0)).partners(0)[0].shape == (0,)


def test_a_failed_save_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.npz"
    features().save(path)
    before = path.read_bytes()

    def full(file: object, **arrays: np.ndarray) -> None:
        file.write(b"some")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez", full)
    with pytest.raises(OSError, match="No space left on device"):
        features(3).save(path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]
    with pytest.raises(FileNotFoundError, match="there is no folder"):
        features().save(tmp_path / "nowhere" / "a.npz")


def test_other_files_are_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    with pytest.raises(FileNotFoundError, match=r"a\.npz: no such file"):
        ripe.load_features(path)
    features().save(path)
    whole = path.read_bytes()
    arrays = features().numpy()
    np.savez(tmp_path / "object.npz", **{**arrays, "scores": np.array([{}, 1], dtype=object)})
    np.savez(tmp_path / "lacking.npz", keypoints=arrays["keypoints"])
    np.savez(tmp_path / "uneven.npz", **{**arrays, "scores": np.zeros(2)})
    np.savez(tmp_path / "size.npz", **{**arrays, "image_size": np.zeros(3)})
    np.save(tmp_path / "single.npy", arrays["keypoints"])
    for name, content in (("empty", b""), ("text", b"hello"), ("cut", whole[: len(whole) // 2])):
        (tmp_path / name).write_bytes(content)
    flipped = bytearray(whole)
    flipped[150] ^= 255
    (tmp_path / "flipped").write_bytes(flipped)
    for name in (
        "object.npz",
        "lacking.npz",
        "uneven.npz",
        "size.npz",
        "single.npy",
        "empty",
        "text",
        "cut",
        "flipped",
    ):
        with pytest.raises(ValueError, match=name):
            ripe.load_features(tmp_path / name)
