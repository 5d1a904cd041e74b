"""The feature file: hloc's layout, whole after any interruption."""

import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from ripe.features import Features
from ripe.storage import FeatureFile, read_features, read_matches

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
        assert sorted(group) == ["descriptors", "image_size", "keypoints", "scales", "scores"]
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
    (store.parts / "part.tmp").write_bytes(b"half written")
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


WRITER = """
import sys
import torch
from ripe.features import Features
from ripe.storage import FeatureFile
features = Features(torch.rand(5, 2), torch.rand(5), torch.rand(5, 8), (64, 48))
with FeatureFile(sys.argv[1], {"model": "compact"}) as store:
    print("writing", flush=True)
    for number in range(20):
        store.add({f"{sys.argv[2]}{number}": features}, {f"{sys.argv[2]}{number}": 1.0})
    if sys.argv[2] == "a":
        sys.stdin.readline()
"""


def start_writer(path: Path, name: str) -> subprocess.Popen[str]:
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen([sys.executable, "-c", WRITER, str(path), name], text=True, **pipes)


def test_a_second_writer_waits_for_the_first_and_names_it(tmp_path: Path) -> None:
    path = tmp_path / "f.h5"
    first = start_writer(path, "a")
    assert first.stdout.readline() == "writing\n"
    second = start_writer(path, "b")
    assert f"{path}: process {first.pid} on " in second.stderr.readline()
    for writer in (first, second):
        assert writer.communicate("\n", timeout=60)[1] == ""
        assert writer.returncode == 0
    assert len(read_features(path)) == 40
    assert [place.name for place in tmp_path.iterdir()] == ["f.h5"]


def test_a_killed_writer_holds_nobody_up(tmp_path: Path) -> None:
    path = tmp_path / "f.h5"
    first = start_writer(path, "a")
    while len(list(tmp_path.glob("f.h5.parts/*.h5"))) < 20:
        assert first.poll() is None
    first.kill()
    first.communicate()
    second = start_writer(path, "b")
    assert second.communicate("\n", timeout=60)[1] == ""
    assert len(read_features(path)) == 40
    assert [place.name for place in tmp_path.iterdir()] == ["f.h5"]


def test_a_process_does_not_wait_for_itself(tmp_path: Path) -> None:
    with FeatureFile(tmp_path / "f.h5", SETTINGS), pytest.raises(ValueError, match="written by this process already"):
        FeatureFile(tmp_path / "f.h5", SETTINGS)
    with pytest.raises(ValueError, match="other settings"):
        FeatureFile(tmp_path / "f.h5", {**SETTINGS, "resize": 640})
    fill(tmp_path / "f.h5", a=features())


def test_the_latest_of_several_versions_counts(tmp_path: Path) -> None:
    """Of the file, of a part that a killed run has left, and of this run."""
    fill(tmp_path / "f.h5", a=features(1), b=features(1), c=features(1))
    store = FeatureFile(tmp_path / "f.h5", SETTINGS)
    store.add({"b": features(2), "c": features(2)}, {"b": 1.0, "c": 1.0})
    del store  # never merged, as after a kill
    fill(tmp_path / "f.h5", c=features(3))
    assert {name: len(data["scores"]) for name, data in read_features(tmp_path / "f.h5").items()} == dict(a=1, b=2, c=3)


def test_parts_that_are_missing_or_cut_short_cost_no_others(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    store = FeatureFile(tmp_path / "f.h5", SETTINGS)
    for name in "abcd":
        store.add({name: features(1)}, {name: 1.0})
    del store  # never merged, as after a kill
    parts = sorted((tmp_path / "f.h5.parts").iterdir())
    parts[0].unlink()
    parts[1].write_bytes(parts[1].read_bytes()[:500])
    with FeatureFile(tmp_path / "f.h5", SETTINGS) as store:
        assert set(store.done) == {"c", "d"}
        for name in "bc":
            store.add({name: features(2)}, {name: 1.0})
    assert f"{parts[1].name}: not an HDF5 file, or a damaged one; what was in it is made anew" in caplog.text
    assert {name: len(data["scores"]) for name, data in read_features(tmp_path / "f.h5").items()} == dict(b=2, c=2, d=1)
    assert [path.name for path in tmp_path.iterdir()] == ["f.h5"]


def test_a_file_that_is_cut_short_is_named_with_what_to_do(tmp_path: Path) -> None:
    fill(tmp_path / "f.h5", a=features())
    content = (tmp_path / "f.h5").read_bytes()
    (tmp_path / "f.h5").write_bytes(content[: len(content) // 2])
    with pytest.raises(
        ValueError, match=r"f\.h5: not an HDF5 file, or a damaged one; delete it, or choose another file"
    ):
        FeatureFile(tmp_path / "f.h5", SETTINGS)


def test_what_is_no_longer_true_is_left_out(tmp_path: Path) -> None:
    fill(tmp_path / "f.h5", **{"sub/a": features(), "sub/b": features(), "c": features()})
    with FeatureFile(tmp_path / "f.h5", SETTINGS) as store:
        store.forget("sub/a")
        store.forget("c")
        store.add({"c": features(3)}, {"c": 1.0})
    assert {name: len(data["scores"]) for name, data in read_features(tmp_path / "f.h5").items()} == {
        "c": 3,
        "sub/b": 5,
    }


def test_discarding_waits_for_the_writer(tmp_path: Path) -> None:
    path = tmp_path / "f.h5"
    writer = start_writer(path, "a")
    assert writer.stdout.readline() == "writing\n"
    code = "import sys; from pathlib import Path; from ripe.storage import discard; discard(Path(sys.argv[1]))"
    waiting = subprocess.Popen([sys.executable, "-c", code, path], stderr=subprocess.PIPE, text=True)
    assert f"{path}: process {writer.pid} on " in waiting.stderr.readline()
    assert writer.communicate("\n", timeout=60)[1] == ""
    waiting.communicate(timeout=60)
    assert (writer.returncode, waiting.returncode) == (0, 0)
    assert list(tmp_path.iterdir()) == []


def test_a_file_of_nothing_is_a_file(tmp_path: Path) -> None:
    fill(tmp_path / "f.h5")
    assert read_features(tmp_path / "f.h5") == {}
    assert list(read_matches(tmp_path / "f.h5", [("a", "b")])) == []


def test_what_the_system_says_is_not_taken_for_damage(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"f\.h5: no such file"):
        read_features(tmp_path / "f.h5")
    fill(tmp_path / "f.h5", a=features())
    code = (
        "import resource, sys; from ripe.storage import read_features\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (3, 3)); read_features(sys.argv[1])"
    )
    result = subprocess.run([sys.executable, "-c", code, tmp_path / "f.h5"], capture_output=True, text=True)
    assert result.stderr.splitlines()[-1] == f"OSError: [Errno 24] Too many open files: '{tmp_path / 'f.h5'}'"
