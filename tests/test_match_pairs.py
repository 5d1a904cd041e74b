"""`ripe match --pairs`: hloc's match file of many pairs, from a feature file."""

import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

import ripe
from ripe.cli import main
from ripe.features import Features, Matches
from ripe.filters import MatchFilter
from ripe.match_many import match_many
from ripe.storage import FeatureFile, FeatureReader, MatchFile, pair_group, read_matches

NAMES = ("a.jpg", "sub/b.jpg", "c.jpg")


def random_features(seed: int, count: int = 30) -> Features:
    generator = torch.Generator().manual_seed(seed)
    descriptors = torch.nn.functional.normalize(torch.randn(count, 8, generator=generator), dim=1)
    return Features(torch.rand(count, 2, generator=generator), torch.arange(count, 0, -1.0), descriptors, (64, 48))


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """features.h5 of three images, and a list of their pairs."""
    monkeypatch.chdir(tmp_path)
    with FeatureFile("features.h5", {"model": "compact"}) as store:
        store.add({name: random_features(seed) for seed, name in enumerate(NAMES)}, dict.fromkeys(NAMES, 1.0))
    Path("pairs.txt").write_text("a.jpg sub/b.jpg\n\nc.jpg a.jpg\na.jpg  c.jpg\n")
    return tmp_path


def match_pairs(*more: str) -> int:
    return main(["match", "--pairs", "pairs.txt", "--features", "features.h5", "-o", "matches.h5", *more])


def test_matches_are_those_of_the_library(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert match_pairs() == 0
    assert "2 of 2 pairs in matches.h5" in capsys.readouterr().out
    with h5py.File("matches.h5") as file:
        assert set(file) == {"a.jpg", "c.jpg"}
        assert list(file["a.jpg"]) == ["sub-b.jpg"]
        for (seed0, seed1), group in {(0, 1): file["a.jpg/sub-b.jpg"], (2, 0): file["c.jpg/a.jpg"]}.items():
            expected = ripe.match(random_features(seed0), random_features(seed1))
            full = np.full(30, -1)
            full[expected.indices[:, 0]] = expected.indices[:, 1]
            np.testing.assert_array_equal(group["matches0"][()], full)
            assert group["matches0"].dtype == np.int16
            scores = group["matching_scores0"][()]
            np.testing.assert_allclose(scores[full >= 0], (expected.scores + 1) / 2, atol=1e-3)
            assert (scores[full < 0] == 0).all()
    [(pair, found)] = read_matches("matches.h5", [("a.jpg", "sub/b.jpg")])
    assert pair == ("a.jpg", "sub/b.jpg")
    np.testing.assert_array_equal(found, ripe.match(random_features(0), random_features(1)).indices)


def test_a_list_that_has_grown_is_continued(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert match_pairs() == 0
    Path("pairs.txt").write_text("sub/b.jpg a.jpg\nsub/b.jpg c.jpg\n")
    calls = []

    def counted(features0: Features, features1: Features, how: MatchFilter) -> Matches:
        calls.append(how)
        return ripe.match(features0, features1)

    monkeypatch.setattr("ripe.match_many.filtered_match", counted)
    assert match_pairs() == 0
    assert len(calls) == 1
    with h5py.File("matches.h5") as file:
        assert sorted(file) == ["a.jpg", "c.jpg", "sub-b.jpg"]


def test_images_without_features_are_named(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("pairs.txt").write_text("a.jpg missing.jpg\nmissing.jpg c.jpg\na.jpg c.jpg\n")
    assert match_pairs() == 1
    streams = capsys.readouterr()
    assert "1 of 3 pairs in matches.h5" in streams.out
    assert "ripe: not matched: 2 pairs of missing.jpg: features.h5 has no features of it" in streams.err


def test_pairs_with_unusable_features_are_named_and_the_rest_is_done(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Features of NaN, of another length, and without a size, as other tools may have left them."""
    with h5py.File("features.h5", "a") as file:
        for name in ("nan", "long", "bare"):
            file.copy("a.jpg", name)
        file["nan/keypoints"][3] = np.nan
        del file["long/descriptors"], file["bare/image_size"]
        file["long/descriptors"] = np.ones((9, 30), dtype=np.float32)
    Path("pairs.txt").write_text("nan a.jpg\na.jpg long\nbare c.jpg\na.jpg c.jpg\n")
    assert match_pairs() == 1
    streams = capsys.readouterr()
    assert "1 of 4 pairs in matches.h5" in streams.out
    reported = [line for line in streams.err.splitlines() if line.startswith("ripe: not matched: ")]
    assert [line.split(": ")[2] for line in reported] == ["nan and a.jpg", "a.jpg and long", "bare and c.jpg"]
    assert [line.split(": ", 3)[3] for line in reported] == [
        "features.h5: nan has keypoints that are NaN or infinite",
        "descriptors of 8 and 9 numbers cannot be matched; extract both images with the same model",
        "features.h5: bare has no image_size",
    ]
    assert len(list(read_matches("matches.h5", [("a.jpg", "c.jpg")]))) == 1


def test_features_of_other_settings_are_not_mixed_in(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert match_pairs() == 0
    Path("features.h5").unlink()
    with FeatureFile("features.h5", {"model": "vgg_hyper"}) as store:
        store.add({name: random_features(5) for name in NAMES}, dict.fromkeys(NAMES, 1.0))
    assert match_pairs() == 1
    assert "was begun with other settings (--model compact there, vgg_hyper now)" in capsys.readouterr().err


def test_many_keypoints_need_wider_numbers(tmp_path: Path) -> None:
    matches = Matches(torch.tensor([[0, 40_000]]), torch.ones(1))
    with MatchFile(tmp_path / "m.h5", {"matcher": "m"}) as store:
        store.add({("a", "b"): (matches, 1, 40_001)})
    [(_, found)] = read_matches(tmp_path / "m.h5", [("a", "b")])
    assert found.tolist() == [[0, 40_000]]


def test_a_pair_has_hlocs_group() -> None:
    assert pair_group("db/1.jpg", "query/night/2.jpg") == "db-1.jpg/query-night-2.jpg"


def swapped(path: str) -> None:
    """Turn the pairs of a list round."""
    lines = Path(path).read_text().splitlines()
    Path(path).write_text("\n".join(" ".join(reversed(line.split())) for line in lines))


def test_a_pair_is_read_in_either_order(folder: Path) -> None:
    assert match_pairs() == 0
    [(_, forward)] = read_matches("matches.h5", [("a.jpg", "sub/b.jpg")])
    [(pair, back)] = read_matches("matches.h5", [("sub/b.jpg", "a.jpg")])
    assert pair == ("sub/b.jpg", "a.jpg")
    assert len(forward) > 3
    np.testing.assert_array_equal(back, forward[:, ::-1])


def test_a_pair_in_both_orders_is_matched_once(tmp_path: Path) -> None:
    with FeatureFile(tmp_path / "f.h5", {"model": "compact"}) as store:
        store.add({name: random_features(seed) for seed, name in enumerate("ab")}, {"a": 1.0, "b": 1.0})
    with FeatureReader(tmp_path / "f.h5") as features, MatchFile(tmp_path / "m.h5", {"matcher": "m"}) as store:
        match_many(features, [("b", "a"), ("a", "b")], store)
        assert set(store.done) == {"b/a"}
    both = dict(read_matches(tmp_path / "m.h5", [("a", "b"), ("b", "a")]))
    np.testing.assert_array_equal(both["a", "b"], both["b", "a"][:, ::-1])


@pytest.mark.parametrize("turned", [False, True])
def test_pairs_are_matched_anew_when_their_features_have_changed(
    folder: Path, turned: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """Of three images two have other features, and fewer; the list is in the same order or turned round."""
    assert match_pairs() == 0
    Path("features.h5").unlink()
    now = {NAMES[0]: random_features(0), NAMES[1]: random_features(8, 12), NAMES[2]: random_features(9, 7)}
    with FeatureFile("features.h5", {"model": "compact"}) as store:
        store.add(now, dict.fromkeys(NAMES, 1.0))
    if turned:
        swapped("pairs.txt")
    assert match_pairs() == 0
    assert "matches.h5: 2 pairs are matched anew, as their features have changed" in caplog.text
    pairs = [("a.jpg", "sub/b.jpg"), ("sub/b.jpg", "a.jpg"), ("c.jpg", "a.jpg"), ("a.jpg", "c.jpg")]
    found = dict(read_matches("matches.h5", pairs))
    for pair in pairs:
        expected = ripe.match(*(now[name] for name in pair)).indices
        assert sorted(map(tuple, found[pair].tolist())) == sorted(map(tuple, expected.tolist()))
    caplog.clear()
    assert match_pairs() == 0
    assert not caplog.text


def test_names_that_hlocs_layout_cannot_tell_apart_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """In one list, and in two that go to one file; in any order."""
    monkeypatch.chdir(tmp_path)
    names = ("cam/a.jpg", "cam-a.jpg", "x.jpg")
    with FeatureFile("features.h5", {"model": "compact"}) as store:
        store.add({name: random_features(seed) for seed, name in enumerate(names)}, dict.fromkeys(names, 1.0))
    message = "cam/a.jpg and x.jpg, x.jpg and cam-a.jpg: hloc's match files, where / becomes -, cannot tell these"
    Path("pairs.txt").write_text("cam/a.jpg x.jpg\nx.jpg cam-a.jpg\n")
    assert match_pairs() == 1
    assert message in capsys.readouterr().err
    assert not Path("matches.h5").exists()
    Path("pairs.txt").write_text("cam/a.jpg x.jpg\ncam/a.jpg cam-a.jpg\n")
    assert match_pairs() == 0
    [(_, forward)] = read_matches("matches.h5", [("cam/a.jpg", "cam-a.jpg")])
    [(_, back)] = read_matches("matches.h5", [("cam-a.jpg", "cam/a.jpg")])
    np.testing.assert_array_equal(back, forward[:, ::-1])
    Path("pairs.txt").write_text("x.jpg cam-a.jpg\n")
    assert match_pairs() == 1
    assert message in capsys.readouterr().err
    assert list(read_matches("matches.h5", [("cam-a.jpg", "x.jpg"), ("x.jpg", "cam-a.jpg")])) == []


@pytest.mark.parametrize(
    ("words", "status", "message"),
    [
        (["--pairs", "pairs.txt"], 2, "--pairs, --features and -o belong together"),
        (["a.jpg", "b.jpg", "--pairs", "pairs.txt", "--features", "f", "-o", "m"], 2, "goes with neither photos"),
        (["--pairs", "nothing.txt", "--features", "features.h5", "-o", "m.h5"], 1, "nothing.txt: no such file"),
        (["--pairs", "pairs.txt", "--features", "nothing.h5", "-o", "m.h5"], 1, "nothing.h5: no such file"),
        (["--pairs", "pairs.txt", "--features", "pairs.txt", "-o", "m.h5"], 1, "pairs.txt: not an HDF5 file"),
        (["--pairs", "pairs.txt", "--features", "features.h5", "-o", "no/m.h5"], 1, "there is no folder no"),
    ],
)
def test_errors(folder: Path, capsys: pytest.CaptureFixture[str], words: list[str], status: int, message: str) -> None:
    try:
        ended = main(["match", *words])
    except SystemExit as exit_info:
        ended = exit_info.code
    assert ended == status
    assert message in capsys.readouterr().err
    assert not list(folder.glob("m.h5*"))


@pytest.fixture
def scene(folder: Path) -> Path:
    """features.h5 of two views of one plane, 40 of 60 matches right, and of an image that shows something else."""
    generator = torch.Generator().manual_seed(5)
    base = torch.rand(60, 2, generator=generator) * 400
    moved = base * 1.1 + 7
    moved[40:] = torch.rand(20, 2, generator=generator) * 400
    descriptors = torch.eye(60)
    views = {
        "a.jpg": Features(base, torch.ones(60), descriptors, (480, 480)),
        "sub/b.jpg": Features(moved, torch.ones(60), descriptors, (480, 480)),
        "c.jpg": Features(base.flip(0), torch.ones(60), descriptors, (480, 480)),
    }
    Path("features.h5").unlink()
    with FeatureFile("features.h5", {"model": "compact"}) as store:
        store.add(views, dict.fromkeys(NAMES, 1.0))
    return folder


@pytest.mark.parametrize(
    "options",
    [["homography"], ["fundamental"], ["essential", "--intrinsics", "500"], ["homography", "--device", "cpu"]],
)
def test_the_geometry_that_is_asked_for_verifies(scene: Path, options: list[str]) -> None:
    assert match_pairs("--geometry", *options) == 0
    [(_, found)] = read_matches("matches.h5", [("a.jpg", "sub/b.jpg")])
    right = set(range(40))
    assert len(right & set(found[:, 0].tolist())) >= 38
    assert len(set(found[:, 0].tolist()) - right) <= 6
    with h5py.File("matches.h5") as file:
        assert f"inliers of {options[0]}" in file.attrs["matcher"]


def test_the_filter_is_part_of_the_files_settings(scene: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert match_pairs("--ratio", "0.9", "--min-similarity", "0.3") == 0
    with h5py.File("matches.h5") as file:
        assert file.attrs["matcher"] == "mutual nearest neighbours, ratio at most 0.9, similarity at least 0.3"
    content = Path("matches.h5").read_bytes()
    assert match_pairs() == 1
    assert "--matcher, --ratio, --min-similarity" in capsys.readouterr().err
    assert Path("matches.h5").read_bytes() == content
    assert match_pairs("--overwrite") == 0
    with h5py.File("matches.h5") as file:
        assert file.attrs["matcher"] == "mutual nearest neighbours"


def test_the_threshold_of_a_list_follows_the_resize(scene: Path) -> None:
    """Right matches that are 5 px off are right where photos of 480 px were shrunk to 120."""
    with h5py.File("features.h5", "a") as file:
        file["sub/b.jpg/keypoints"][...] += 5 * (np.arange(60)[:, None] % 2)
    counts = []
    for side in (480, 120):
        with h5py.File("features.h5", "a") as file:
            file.attrs["max_side"] = side
        assert match_pairs("--geometry", "homography", "--overwrite") == 0
        [(_, found)] = read_matches("matches.h5", [("a.jpg", "sub/b.jpg")])
        counts.append(len(found))
    assert counts[0] < 36 < 38 <= counts[1]


def test_all_matches_are_kept_unless_a_geometry_is_asked_for(scene: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert match_pairs() == 0
    [(_, found)] = read_matches("matches.h5", [("a.jpg", "sub/b.jpg")])
    assert len(found) == 60
    assert match_pairs("--geometry", "homography") == 1
    assert "begun with other settings" in capsys.readouterr().err


def test_a_missing_package_ends_the_list_and_does_not_fail_pair_by_pair(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("kornia", "kornia.feature"):
        monkeypatch.setitem(sys.modules, name, None)
    failed: list[object] = []
    with (
        FeatureReader("features.h5") as features,
        MatchFile("matches.h5", {"matcher": "AdaLAM"}) as store,
        pytest.raises(ValueError, match="method adalam needs kornia: pip install"),
    ):
        match_many(features, [NAMES[:2]], store, how=MatchFilter("adalam"), failed=lambda *told: failed.append(told))
    assert failed == []


def test_cameras_of_a_list_must_be_given(scene: Path) -> None:
    with pytest.raises(SystemExit):
        match_pairs("--geometry", "essential")


def test_pairs_of_a_list_get_verdicts_and_chance_keeps_no_match(
    scene: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of the scene's three images two show the same plane."""
    assert match_pairs("--geometry", "homography") == 0
    assert "1 matched, 0 doubtful, 1 no better than chance" in capsys.readouterr().out
    with h5py.File("matches.h5") as file:
        related, strange = file["a.jpg/sub-b.jpg"], file["c.jpg/a.jpg"]
        assert (related.attrs["verdict"], strange.attrs["verdict"]) == ("matched", "chance")
        assert related.attrs["log10_nfa"] < -2
        assert (strange["matches0"][()] == -1).all()
    assert match_pairs("--geometry", "homography") == 0  # told again from the file
    assert "1 matched, 0 doubtful, 1 no better than chance" in capsys.readouterr().out
