"""Photos that are turned by quarter turns: positions, descriptors, verdicts, and every command that matches."""

import json
import math
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
import skimage.data
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from made_scene import write
from PIL import Image
from test_reconstruction import QUICK

import ripe
from ripe.attempts import TurnedFeatures, best_of, plain_and_turned, shown_turns, try_turns
from ripe.cli import main
from ripe.features import Features
from ripe.geometry.verdict import Verdict
from ripe.images import as_rgb, turn_keypoints
from ripe.storage import read_features, read_matches

TURNS = (0, 1, 2, 3)


@pytest.fixture(scope="module")
def shipped() -> ripe.RIPE:
    """The shipped weights. Do not change them."""
    return ripe.load(device="cpu")


@pytest.fixture(scope="module")
def upside_down(photos: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The right one of the bundled photos, by 180°, and as dark as at night, so that it is not matched as it is."""
    path = tmp_path_factory.mktemp("turned") / "down.png"
    turned = np.rot90(np.asarray(Image.open(photos[1])), 2)
    dark = 255 * (turned / 255) ** 4 + np.random.default_rng(0).normal(0, 3, turned.shape)
    Image.fromarray(np.clip(dark, 0, 255).astype(np.uint8)).save(path)
    return path


@pytest.mark.parametrize("turns", [*TURNS, -1, 5])
def test_keypoints_move_with_the_pixels(turns: int) -> None:
    """Marked pixels are where NumPy's turned image has them, and come back by the opposite turn."""
    image = np.zeros((5, 8), dtype=int)
    marks = np.array([[0, 0], [7, 0], [0, 4], [6, 1], [3, 2]])
    image[marks[:, 1], marks[:, 0]] = np.arange(1, 6)
    turned = np.rot90(image, turns)
    expected = np.array([np.argwhere(turned == number)[0][::-1] for number in range(1, 6)])
    moved = turn_keypoints(torch.tensor(marks).float(), (5, 8), turns)
    np.testing.assert_array_equal(moved, expected)
    np.testing.assert_array_equal(turn_keypoints(moved, turned.shape, -turns), marks)
    np.testing.assert_array_equal(torch.rot90(torch.tensor(image)[None], turns, (1, 2))[0], turned)


@pytest.mark.parametrize("turns", TURNS)
def test_descriptors_are_those_of_the_turned_image(model: ripe.RIPE, photos: list[Path], turns: int) -> None:
    """Whatever is found in the image that NumPy has turned, is described alike in the image as it is."""
    image = as_rgb(photos[0])[:, :320, :480]  # sides that the network's strides divide
    turned = torch.from_numpy(np.rot90(image.numpy(), turns, (1, 2)).copy())
    there = model.extract(turned, max_keypoints=200)[0]
    back = turn_keypoints(there.keypoints, (turned.shape[1], turned.shape[2]), -turns)
    here = Features(back, there.scores, torch.zeros_like(there.descriptors), (480, 320))
    described = model.describe_turned(image, here, turns)
    torch.testing.assert_close(described.descriptors, there.descriptors, atol=1e-4, rtol=0)
    assert torch.equal(described.keypoints, back)
    assert described.image_size == (480, 320)


@pytest.mark.parametrize("how", [{}, {"resize": 300}, {"scales": (1, 0.5)}, {"resize": 400, "scales": (1, 0.5)}])
def test_no_turn_describes_as_extraction_does(model: ripe.RIPE, photos: list[Path], how: dict) -> None:
    found = model.extract(photos[0], max_keypoints=300, **how)[0]
    again = model.describe_turned(photos[0], found, 0)
    torch.testing.assert_close(again.descriptors, found.descriptors, atol=1e-4, rtol=0)


def test_features_of_another_image_are_refused(model: ripe.RIPE, photos: list[Path]) -> None:
    found = model.extract(photos[0], max_keypoints=10)[0]
    with pytest.raises(ValueError, match="another image, of 741×500 pixels"):
        model.describe_turned(torch.zeros(3, 64, 64), found, 1)
    nothing = model.extract(torch.zeros(3, 64, 64), threshold=1e9)[0]
    assert len(model.describe_turned(torch.zeros(3, 64, 64), nothing, 1)) == 0


def test_a_photo_upside_down_is_matched_in_its_own_frame(
    shipped: ripe.RIPE, photos: list[Path], upside_down: Path
) -> None:
    plain = ripe.match_photos(upside_down, photos[0], model=shipped, rotations="none", scales=[1])
    assert plain.by_chance
    found = ripe.match_photos(upside_down, photos[0], model=shipped, scales=[1])
    assert found.verdict
    assert found.quarter_turns == 2
    assert found.geometry is not None
    assert found.geometry.num_inliers > 400
    points0, points1 = (side[found.geometry.inliers] for side in found.points)
    upright = 499 - points0[:, 1]  # the pair is rectified, so that true matches have equal heights
    assert float((upright - points1[:, 1]).abs().median()) < 1
    every = ripe.match_photos(upside_down, photos[0], model=shipped, rotations="all", scales=[1])
    assert every.quarter_turns == 2
    assert every.verdict is not None
    assert every.verdict.log10_nfa == found.verdict.log10_nfa
    automatic = ripe.match_photos(upside_down, photos[0], model=shipped)
    assert automatic.verdict
    assert automatic.quarter_turns == 2


@pytest.mark.parametrize("turns", [1, 2, 3])
def test_a_turn_that_the_matches_show_is_taken(shipped: ripe.RIPE, photos: list[Path], turns: int) -> None:
    """A turned photo may be matched as it is, but more of it is found upright."""
    photo = np.rot90(np.asarray(Image.open(photos[1])), turns).copy()
    plain = ripe.match_photos(photo, photos[0], model=shipped, rotations="none")
    assert plain.verdict
    found = ripe.match_photos(photo, photos[0], model=shipped)
    assert found.quarter_turns == -turns % 4
    assert found.geometry is not None
    assert plain.geometry is not None
    assert found.geometry.num_inliers > 1.5 * plain.geometry.num_inliers
    assert found.verdict is not None
    assert ripe.match_photos(photos[1], photos[0], model=shipped).quarter_turns == 0


@settings(deadline=None)
@given(
    st.integers(0, 3), st.floats(-40, 40), st.floats(0.2, 5), st.integers(3, 40), st.integers(0, 5), st.integers(0, 99)
)
def test_inliers_show_the_turn(turns: int, degrees: float, scale: float, count: int, wrong: int, seed: int) -> None:
    """Points of a photo and where a turned, scaled, moved and shaken copy has them; outliers count for nothing."""
    random = np.random.default_rng(seed)
    first = random.uniform(0, 500, (count + wrong, 2))
    first[:3] = [[0, 0], [500, 0], [0, 500]]
    angle = np.deg2rad(degrees - 90 * turns)  # counter-clockwise as one sees it, where y points down
    rotation = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    second = scale * (first + random.normal(0, 2, first.shape)) @ rotation.T + random.uniform(-900, 900, 2)
    second[count:] = random.uniform(0, 9000, (wrong, 2))
    inliers = torch.arange(count + wrong) < count
    sides = [
        Features(torch.tensor(points).float(), torch.zeros(len(points)), torch.zeros(len(points), 4), (500, 500))
        for points in (first, second)
    ]
    matches = ripe.Matches(torch.arange(count + wrong).repeat(2, 1).T, torch.ones(count + wrong))
    geometry = ripe.TwoViewGeometry("homography", 2.0, torch.eye(3), inliers)
    found = ripe.MatchedPhotos(*sides, matches, geometry, Verdict("matched", -99, 1.0, 0.1))
    assert shown_turns(found) == turns
    assert shown_turns(replace(found, geometry=None)) == 0


@pytest.mark.parametrize(
    ("nfas", "shown", "expected"),
    [
        ((-99, 0, 0, 0), (0, 0, 0, 0), [0]),  # upright
        ((-9, 0, -99, 0), (2, 0, 2, 0), [0, 2]),  # the turn that is shown shows itself again
        ((-99, -50, 0, 0), (1, 1, 0, 0), [0, 1]),  # by some 45°: either way is as good
        ((-9, -99, -10, 0), (2, 1, 1, 0), [0, 2, 1]),  # seen in that turn, the photo shows another one
        ((-9, -99, -8, 0), (2, 1, 3, 0), [0, 2, 1, 3]),  # it does not help, nor show itself: wrong matches
        ((-9, -8, -7, -6), (2, 0, 0, 0), [0, 2, 1, 3]),  # none does
        ((1, -9, -99, 0), (1, 1, 2, 0), [0, 1, 2, 3]),  # doubtful, and shown to be turned
        ((1, -9, -99, 0), (0, 1, 2, 0), [0]),  # doubtful, and upright
        ((9, 9, 9, 9), (2, 2, 2, 2), [0]),  # what is chance shows nothing
    ],
)
def test_turns_are_tried_until_they_show_themselves(
    nfas: tuple[float, ...], shown: tuple[int, ...], expected: list[int]
) -> None:
    points = torch.rand(20, 2, generator=torch.Generator().manual_seed(0))
    matches = ripe.Matches(torch.arange(20).repeat(2, 1).T, torch.ones(20))
    geometry = ripe.TwoViewGeometry("homography", 2.0, torch.eye(3), torch.ones(20, dtype=torch.bool))

    def attempt(turns: int) -> ripe.MatchedPhotos:
        sides = [
            Features(side, torch.zeros(20), torch.zeros(20, 4), (1, 1))
            for side in (points, turn_keypoints(points, (2, 2), shown[turns]))
        ]
        name = "chance" if nfas[turns] > 5 else "doubtful" if nfas[turns] > 0 else "matched"
        verdict = Verdict(name, nfas[turns], 1.0, 0.1)  # type: ignore[arg-type]
        return ripe.MatchedPhotos(*sides, matches, geometry, verdict, turns)

    tried = plain_and_turned(attempt(0), attempt, "auto", search=False)
    assert [each.quarter_turns for each in tried] == expected
    assert best_of(tried).quarter_turns == min(expected, key=lambda turns: nfas[turns])
    assert len(plain_and_turned(attempt(0), attempt, "none")) == 1


def test_tries_are_counted_in_the_verdict(shipped: ripe.RIPE, photos: list[Path]) -> None:
    """Unrelated photos stay so, and the number of false alarms is that of four tries, or of five."""
    other = skimage.data.coffee()
    single = [
        ripe.judge(geometry, *points).log10_nfa
        for geometry, points in (_fitted(shipped, photos[0], other, turns) for turns in TURNS)
    ]
    for rotations in ("auto", "all"):
        found = ripe.match_photos(photos[0], other, model=shipped, rotations=rotations, scales=[1])  # type: ignore[arg-type]
        assert found.by_chance
        assert found.verdict is not None
        assert found.verdict.log10_nfa == pytest.approx(min(single) + math.log10(4), abs=0.3)
    assert ripe.match_photos(photos[0], other, model=shipped).by_chance


def _fitted(
    model: ripe.RIPE, path: Path, other: np.ndarray, turns: int
) -> tuple[ripe.TwoViewGeometry, tuple[torch.Tensor, torch.Tensor]]:
    features0, features1 = model.extract([path, other])
    features0 = model.describe_turned(path, features0, turns)
    points = ripe.match(features0, features1).points(features0, features1)
    return ripe.estimate_geometry("fundamental", *points, max_error=1.0), points


def test_the_verdict_of_the_best_of_many() -> None:
    verdict = Verdict("matched", -2.5, 0.5, 0.1)
    assert verdict.best_of(1) == verdict
    assert verdict.best_of(4).name == "doubtful"
    assert verdict.best_of(4).log10_nfa == pytest.approx(-2.5 + math.log10(4))
    assert Verdict("chance", math.inf, 0.0, 0.0).best_of(4).name == "chance"


def test_only_what_is_chance_is_turned() -> None:
    asked: list[int] = []

    def turned(turns: int) -> Features:
        asked.append(turns)
        return none

    def attempt(nfa: float) -> ripe.MatchedPhotos:
        verdict = Verdict("chance" if nfa >= 5 else "matched", nfa, 0.5, 0.1)
        nothing = ripe.Matches(torch.zeros(0, 2, dtype=torch.long), torch.zeros(0))
        return ripe.MatchedPhotos(none, none, nothing, None, verdict)

    none = Features(torch.zeros(0, 2), torch.zeros(0), torch.zeros(0, 4), (9, 9))
    assert len(try_turns(lambda *features: attempt(-9), none, none, turned, "auto")) == 1
    assert len(try_turns(lambda *features: attempt(9), none, none, turned, "none")) == 1
    assert asked == []
    assert [found.quarter_turns for found in try_turns(lambda *f: attempt(9), none, none, turned, "auto")] == [
        0,
        1,
        2,
        3,
    ]
    assert asked == [1, 2, 3]
    assert len(try_turns(lambda *features: attempt(9), none, none, turned, "auto", likeliest=True)) == 2
    assert best_of([attempt(9), attempt(9)]).by_chance


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"rotations": "some"}, "rotations is 'some'"),
        ({"rotations": "all", "geometry": "none"}, "rotations are compared"),
        ({"max_error": 0}, "max_error is 0"),
    ],
)
def test_unusable_arguments(model: ripe.RIPE, photos: list[Path], arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ripe.match_photos(*photos, model=model, **arguments)


def test_the_command_turns_where_it_is_not_forbidden(
    photos: list[Path], upside_down: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["match", str(upside_down), str(photos[0]), "--device", "cpu", "--json", str(tmp_path / "a.json")]
    assert main([*words, "--rotations", "none", "--scales", "1"]) == 3
    assert "turned" not in capsys.readouterr().out
    assert main(words) == 0
    assert "turned     A by 180° counter-clockwise, to match" in capsys.readouterr().out
    written = json.loads((tmp_path / "a.json").read_text())
    assert written["quarter_turns"] == 2
    assert written["verdict"]["name"] == "matched"
    assert len(written["scales0"]) == len(written["keypoints0"])


def test_alignment_turns(shipped: ripe.RIPE, photos: list[Path]) -> None:
    """A photo of itself upside down comes back upright."""
    photo = np.asarray(Image.open(photos[0]))
    aligned = ripe.align(photo, np.rot90(photo, 2).copy(), model=shipped)
    assert aligned.verdict
    seen = aligned.valid
    assert seen.mean() > 0.98
    assert np.abs(aligned.warped[seen].astype(int) - photo[seen]).mean() < 3
    with pytest.raises(ripe.UnrelatedPhotosError):
        ripe.align(photo, skimage.data.coffee(), model=shipped)


def test_lists_are_turned_if_their_photos_are_at_hand(
    photos: list[Path], upside_down: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The indices are those of the keypoints in the file, whose descriptors are upright."""
    folder = tmp_path / "photos"
    folder.mkdir()
    (folder / "a.png").write_bytes(upside_down.read_bytes())
    (folder / "b.jpg").write_bytes(photos[0].read_bytes())
    (tmp_path / "pairs.txt").write_text("a.png b.jpg\n")
    features, found = str(tmp_path / "features.h5"), str(tmp_path / "matches.h5")
    assert main(["extract", str(folder), "-o", features, "--device", "cpu"]) == 0
    words = ["match", "--pairs", str(tmp_path / "pairs.txt"), "--features", features, "-o", found, "--device", "cpu"]
    assert main([*words, "--geometry", "fundamental"]) == 0
    assert "0 matched, 0 doubtful, 1 no better" in capsys.readouterr().out
    assert main([*words, "--geometry", "fundamental", "--photos", str(folder), "--overwrite"]) == 0
    assert "1 matched" in capsys.readouterr().out
    [(_, indices)] = read_matches(found, [("a.png", "b.jpg")])
    stored = read_features(features)
    heights0, heights1 = (stored[name]["keypoints"][rows, 1] for name, rows in zip(stored, indices.T, strict=True))
    assert len(indices) > 400
    assert np.median(np.abs(499 - heights0 - heights1)) < 1
    with h5py.File(found) as file:
        assert file["a.png/b.jpg"].attrs["quarter_turns"] == 2
    for wrong in (["--geometry", "fundamental", "--rotations", "all"], ["--photos", str(folder)]):
        with pytest.raises(SystemExit):
            main([*words, *wrong])
        assert "--photos" in capsys.readouterr().err


def test_a_photo_that_is_gone_is_told_of(model: ripe.RIPE, tmp_path: Path) -> None:
    features = model.extract(torch.rand(3, 64, 64))[0]
    turned = TurnedFeatures(
        lambda path, found, turns: model.describe_turned(path, found, turns), tmp_path, lambda name: features
    )
    with pytest.raises(ValueError, match=r"gone.jpg cannot be described in turns: .*no such file"):
        turned("gone.jpg", 1)


def test_a_folder_of_turned_photos_is_reconstructed(tmp_path: Path) -> None:
    """Two of six photos lie on their side, one is upside down, and no EXIF says so."""
    pycolmap = pytest.importorskip("pycolmap")
    folder = write(tmp_path / "room")
    for name, turns in (("view1.png", 1), ("view2.png", 3), ("view4.png", 2)):
        Image.fromarray(np.rot90(np.asarray(Image.open(folder / name)), turns)).save(folder / name)
    words = ["reconstruct", str(folder), "-o", str(tmp_path), "--single-threaded", *QUICK]
    assert main(words) == 0
    model = pycolmap.Reconstruction(tmp_path / "compact" / "sparse")
    assert model.num_reg_images() == 6


def test_reconstruction_turns_what_is_chance_otherwise(photos: list[Path], upside_down: Path, tmp_path: Path) -> None:
    pytest.importorskip("pycolmap")
    folder = tmp_path / "photos"
    folder.mkdir()
    (folder / "a.png").write_bytes(upside_down.read_bytes())
    (folder / "b.jpg").write_bytes(photos[0].read_bytes())
    verified = {}
    for rotations in ("none", "auto"):
        output = tmp_path / rotations
        main(["reconstruct", str(folder), "-o", str(output), "--device", "cpu", "--rotations", rotations])
        [summary] = json.loads((output / "summary.json").read_text())
        verified[rotations] = summary["verified_pairs"]
    assert verified == {"none": 0, "auto": 1}
    with h5py.File(tmp_path / "auto" / "compact" / "matches.h5") as file:
        notes = dict(file["a.png/b.jpg"].attrs)
    assert (notes["quarter_turns"], notes["tries"]) == (2, 2)
