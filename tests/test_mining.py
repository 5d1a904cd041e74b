"""Which photos overlap: found by the shipped network on crops of photos, whose places are known."""

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from batches import pair_batches

import ripe
from ripe.cli import main
from ripe.data.mining import choose, mine
from ripe.data.own import read_scenes, with_pairs
from ripe.data.photo_pairs import PhotoPair, read_pairs, write_pairs
from ripe.recipe.config import DataConfig, WarpConfig

SIZE = (320, 300)
CORNERS = np.array([(0, 0), (40, 20), (10, 60)])  # of the crops of the fixture `scenes`, (x, y)


@pytest.fixture(scope="module")
def found(scenes: Path) -> list[PhotoPair]:
    return mine(read_scenes(scenes), ripe.load(device="cpu"))


def shift(x: float, y: float) -> tuple[tuple[float, ...], ...]:
    return ((1.0, 0.0, float(x)), (0.0, 1.0, float(y)), (0.0, 0.0, 1.0))


def made(
    first: str, second: str, inliers: int, homography: tuple[tuple[float, ...], ...] | None = None, matches: int = 200
) -> PhotoPair:
    planar = inliers if homography else 5
    return PhotoPair(f"room/{first}", f"room/{second}", matches, inliers, planar, SIZE, SIZE, homography)


def test_crops_of_a_photo_are_joined_by_their_shift(found: list[PhotoPair]) -> None:
    assert [pair.scene for pair in found] == ["astronaut"] * 3 + ["coffee"] * 3
    for pair in found:
        first, second = (int(Path(name).stem) for name in (pair.image0, pair.image1))
        assert pair.homography is not None
        moved = cv2.perspectiveTransform(np.float64([[[60, 80], [250, 200]]]), np.array(pair.homography))
        expected = np.array([[60, 80], [250, 200]]) + CORNERS[first] - CORNERS[second]
        assert np.abs(moved[0] - expected).max() < 1.0


def test_photos_that_show_different_things_do_not_overlap(tmp_path: Path, scenes: Path) -> None:
    mixed = tmp_path / "mixed" / "both"
    mixed.mkdir(parents=True)
    for index, scene in enumerate(("astronaut", "coffee")):
        (mixed / f"{index}.png").symlink_to(scenes / scene / "0.png")
    pairs = mine(read_scenes(mixed.parent), ripe.load(device="cpu"))
    assert len(pairs) == 1
    assert pairs[0].homography is None
    assert choose(pairs) == []


def test_unreadable_photos_are_told_and_left_out(tmp_path: Path, scenes: Path) -> None:
    room = tmp_path / "photos" / "room"
    room.mkdir(parents=True)
    for name in ("0.png", "1.png"):
        (room / name).symlink_to(scenes / "coffee" / name)
    (room / "2.png").write_bytes(b"no photo")
    told: list[str] = []
    pairs = mine(read_scenes(room.parent), ripe.load(device="cpu"), told.append)
    assert len(pairs) == 1
    assert len(told) == 1
    assert "2.png" in told[0]


def test_pairs_beyond_doubt_are_chosen_hard_ones_first() -> None:
    easy, hard, none = made("a", "b", 180), made("b", "c", 60), made("a", "c", 20)
    assert choose([easy, hard, none]) == [hard, easy]
    assert choose([easy, hard, none], most_of_scene=1) == [hard]


def test_a_third_photo_vouches_for_a_weak_pair() -> None:
    strong = [made("a", "b", 180), made("b", "c", 60)]
    weak = made("a", "c", 30)
    assert weak in choose([*strong, weak])
    assert weak not in choose([strong[0], weak])


def test_homographies_go_on_over_a_third_photo() -> None:
    day, dusk = made("day", "dusk", 150, shift(30, 0)), made("dusk", "night", 60, shift(-10, 5))
    unmatched = made("day", "night", 8)
    joined = choose([day, dusk, unmatched])[0]
    assert (joined.image0, joined.image1) == (unmatched.image0, unmatched.image1)
    assert np.allclose(joined.homography, shift(20, 5))
    backwards = choose([day, replace(dusk, image0=dusk.image1, image1=dusk.image0), unmatched])[0]
    assert np.allclose(backwards.homography, shift(40, -5))


def test_photos_that_do_not_meet_are_not_joined_over_a_third_one() -> None:
    panorama = [made("a", "b", 150, shift(-200, 0)), made("b", "c", 150, shift(-200, 0)), made("a", "c", 8)]
    assert len(choose(panorama)) == 2


def test_pairs_are_read_as_they_were_written(tmp_path: Path, found: list[PhotoPair]) -> None:
    write_pairs(tmp_path / "pairs.json", [*found, made("a", "b", 50)])
    assert read_pairs(tmp_path / "pairs.json") == [*found, made("a", "b", 50)]


@pytest.mark.parametrize("content", ["", "{}", "[1]", '[{"image0": "a"}]', "\x00"])
def test_a_file_that_is_no_list_of_pairs_is_named(tmp_path: Path, content: str) -> None:
    (tmp_path / "pairs.json").write_text(content)
    with pytest.raises(ValueError, match=r"pairs\.json"):
        read_pairs(tmp_path / "pairs.json")


def test_only_these_pairs_are_trained_on_and_their_homographies_join_the_views(
    tmp_path: Path, scenes: Path, found: list[PhotoPair]
) -> None:
    chosen = [pair for pair in found if pair.image0.endswith("0.png") and pair.image1.endswith("2.png")]
    write_pairs(tmp_path / "pairs.json", chosen)
    config = DataConfig(
        scenes=scenes,
        pairs=tmp_path / "pairs.json",
        hold_back=0.0,
        size=128,
        pairs_per_step=8,
        self_share=0.0,
        negative_share=0.0,
        workers=0,
        warp=WarpConfig(photometric=0.0),
        warp_ramp=0.0,
    )
    batch = next(pair_batches(config, 3, 0, 1))
    assert bool(batch.by_warp.all())
    for index in range(len(batch)):
        first, second = (batch.images[view].permute(1, 2, 0).numpy() for view in (index, index + len(batch)))
        valid0, valid1 = (batch.valid[view].numpy().astype(np.uint8) for view in (index, index + len(batch)))
        warp = batch.H_0to1[index].double().numpy()
        aligned = cv2.warpPerspective(first, warp, (128, 128)).astype(float)
        both = (cv2.warpPerspective(valid0, warp, (128, 128), flags=cv2.INTER_NEAREST) > 0) & (valid1 > 0)
        assert both.mean() > 0.2
        assert np.abs(aligned - second)[both].mean() < 20


def test_photos_without_a_pair_are_still_strangers_to_others(scenes: Path) -> None:
    kept = with_pairs(read_scenes(scenes), [])
    assert all(len(scene.groups) == len(scene) for scene in kept)
    assert not any(scene.pairable for scene in kept)


def test_the_command_writes_what_training_reads(
    tmp_path: Path, scenes: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "pairs.json"
    assert main(["data", "mine", str(scenes), "-o", str(output), "--device", "cpu"]) == 0
    assert "6 of 6 pairs of photos of 2 scenes, 6 joined by a homography" in capsys.readouterr().out
    assert len(read_pairs(output)) == 6
    assert main(["data", "mine", str(tmp_path / "nowhere"), "-o", str(output)]) != 0
    assert "nowhere" in capsys.readouterr().err
