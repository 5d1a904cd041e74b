"""The feature file: hloc's layout, whole after any interruption."""

from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from ripe.features import Features
from ripe.storage import FeatureFile, read_features

SETTINGS = {"model": "compact", "threshold": 0.25, "resize": None}


def features(count: int = 5, seed: int = 0) -> Features:
    generator = torch.Generator().manual_seed(seed)
    return Features(
        torch.rand((count, 2), generator=generator) * 100,
        torch.rand(count, generator=generator),
        torch.rand((count, 8), generator=generator),
        (640, 480),
    )


def fill(path: Path, **images: Features) -> None:
    with FeatureFile(path, SETTINGS) as store:
        store.add(images, dict.fromkeys(images, 1.0))


def test_layout_is_hlocs(tmp_path: Path) -> None:
    given = features()
    with FeatureFile(tmp_path / "f.h5", SETTINGS) as store:
        store.add({"db/1.jpg": given, "2.jpg": features(seed=1)}, {"db/1.jpg": 2.5, "2.jpg": 1.0})
    with h5py.File(tmp_path / "f.h5") as file:
        group = file["db"]["1.jpg"]
        assert sorted(group) == ["descriptors", "image_size", "keypoints", "scores"]
        np.testing.assert_array_equal(group["keypoints"], given.keypoints)
        np.testing.assert_array_equal(group["descriptors"], given.descriptors.T)
        np.testing.assert_array_equal(group["scores"], given.scores)
        assert group["image_size"][()].tolist() == [640, 480]
        assert group["keypoints"].attrs["uncertainty"] == 2.5
        assert group["keypoints"].dtype == group["descriptors"].dtype == np.float32
        assert dict(file.attrs) == {"model": "compact", "threshold": 0.25, "resize": "none"}


def test_images_without_keypoints_are_stored(tmp_path: Path) -> None:
    fill(tmp_path / "f.h5", empty=features(0))
    stored = read_features(tmp_path / "f.h5")["empty"]
    assert stored["keypoints"].shape == (0, 2)
    assert stored["descriptors"].shape == (8, 0)


def test_a_file_is_continued(tmp_path: Path) -> None:
    fill(tmp_path / "f.h5", a=features(seed=1))
    with FeatureFile(tmp_path / "f.h5", SETTINGS) as store:
        assert set(store.done) == {"a"}
    fill(tmp_path / "f.h5", b=features(seed=2))
    assert sorted(read_features(tmp_path / "f.h5")) == ["a", "b"]
    assert [path.name for path in tmp_path.iterdir()] == ["f.h5"]


def test_parts_of_a_killed_run_are_continued(tmp_path: Path) -> None:
    store = FeatureFile(tmp_path / "f.h5", SETTINGS)
    store.add({"a": features(seed=1)}, {"a": 1.0})  # never merged, as after a kill
    (store.parts / ".0123.h5.4567.tmp").write_bytes(b"half written")
    (store.parts / "merged.tmp").write_bytes(b"half written")
    del store
    with FeatureFile(tmp_path / "f.h5", SETTINGS) as store:
        assert set(store.done) == {"a"}
    fill(tmp_path / "f.h5", b=features(seed=2))
    assert sorted(read_features(tmp_path / "f.h5")) == ["a", "b"]
    assert [path.name for path in tmp_path.iterdir()] == ["f.h5"]


def test_an_error_keeps_what_is_done(tmp_path: Path) -> None:
    def extract_and_fail() -> None:
        with FeatureFile(tmp_path / "f.h5", SETTINGS) as store:
            store.add({"a": features()}, {"a": 1.0})
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        extract_and_fail()
    assert sorted(read_features(tmp_path / "f.h5")) == ["a"]


def test_a_kill_between_merge_and_clean_up_does_no_harm(tmp_path: Path) -> None:
    store = FeatureFile(tmp_path / "f.h5", SETTINGS)
    store.add({"a": features()}, {"a": 1.0})
    [part] = store.parts.iterdir()
    content = part.read_bytes()
    store.merge()
    store.parts.mkdir()
    part.write_bytes(content)
    del store
    with FeatureFile(tmp_path / "f.h5", SETTINGS):
        pass
    assert sorted(read_features(tmp_path / "f.h5")) == ["a"]


def test_other_settings_are_refused(tmp_path: Path) -> None:
    fill(tmp_path / "f.h5", a=features())
    with pytest.raises(ValueError, match=r"resize none there, 640 now"):
        FeatureFile(tmp_path / "f.h5", {**SETTINGS, "resize": 640})


def test_foreign_files_are_refused_and_kept(tmp_path: Path) -> None:
    path = tmp_path / "f.h5"
    with h5py.File(path, "w") as file:
        file["image/keypoints"] = np.zeros((3, 2))
    with pytest.raises(ValueError, match="not begun by"):
        FeatureFile(path, SETTINGS)
    path.write_text("text")
    with pytest.raises(ValueError, match="not an HDF5 file"):
        FeatureFile(path, SETTINGS)
    assert path.read_text() == "text"
