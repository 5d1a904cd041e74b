"""`ripe match --pairs`: hloc's match file of many pairs, from a feature file."""

from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

import ripe
from ripe.cli import main
from ripe.features import Features, Matches
from ripe.pair_lists import read_pair_list
from ripe.storage import FeatureFile, MatchFile, pair_group, read_matches

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

    def counted(*features: Features) -> Matches:
        calls.append(features)
        return ripe.match(*features)

    monkeypatch.setattr("ripe.match_many.match", counted)
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


def test_features_of_other_settings_are_not_mixed_in(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert match_pairs() == 0
    Path("features.h5").unlink()
    with FeatureFile("features.h5", {"model": "vgg_hyper"}) as store:
        store.add({name: random_features(5) for name in NAMES}, dict.fromkeys(NAMES, 1.0))
    assert match_pairs() == 1
    assert "was begun with other settings (model compact there, vgg_hyper now)" in capsys.readouterr().err


def test_many_keypoints_need_wider_numbers(tmp_path: Path) -> None:
    matches = Matches(torch.tensor([[0, 40_000]]), torch.ones(1))
    with MatchFile(tmp_path / "m.h5", {"matcher": "m"}) as store:
        store.add({("a", "b"): (matches, 1, 40_001)})
    [(_, found)] = read_matches(tmp_path / "m.h5", [("a", "b")])
    assert found.tolist() == [[0, 40_000]]


def test_a_pair_has_hlocs_group() -> None:
    assert pair_group("db/1.jpg", "query/night/2.jpg") == "db-1.jpg/query-night-2.jpg"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"a.jpg\n", "pairs.txt, line 1: give two different names"),
        (b"a b\na a\n", "pairs.txt, line 2: give two different names"),
        (b"\n", "pairs.txt: holds no pair"),
        (b"\xff\xfe", "pairs.txt: not a text file"),
    ],
)
def test_lists_that_are_none(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "pairs.txt").write_bytes(content)
    with pytest.raises(ValueError, match=message):
        read_pair_list(tmp_path / "pairs.txt")


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
