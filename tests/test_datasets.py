"""Readers of data sets: which photos make a scene, which pairs are positive, and what is never trained on."""

import json
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_sets import write_acdc, write_disk, write_imw, write_own, write_tokyo

from ripe.data import own
from ripe.data.catalogue import SOURCES, locate, resolve
from ripe.data.scenes import Scene, no_group, one_group
from ripe.data.sets import acdc, megadepth, tokyo


def positives(scene: Scene) -> set[frozenset[str]]:
    """Names of all pairs that a scene can give."""
    pairs = (pair for group in scene.groups for pair in combinations(group, 2))
    return {frozenset(Path(scene.names[index]).name for index in pair) for pair in pairs}


def all_paths(scenes: list[Scene]) -> list[Path]:
    return [scene.path(index) for scene in scenes for index in range(len(scene))]


def test_megadepth_reads_scenes_and_leaves_benchmarks_out(tmp_path: Path) -> None:
    scenes = megadepth.read(write_disk(tmp_path))
    assert [scene.name for scene in scenes] == ["0000", "0101"]
    assert scenes[0].path(2) == tmp_path / "disk-data/megadepth/scenes/0000/images/0000_2.jpg"
    assert scenes[0].read(2).shape == (48, 64, 3)
    assert scenes[0].groups.tolist() == [[0, 1, 2], [1, 2, 3], [2, 3, 0], [3, 0, 1]]


@pytest.mark.parametrize("name", ["0015", "0022", "0022_1", "megadepth/0015/dense0", "1589"])
def test_a_benchmark_scene_is_known_however_it_is_written(name: str) -> None:
    assert megadepth.is_benchmark(one_group(name, Path("/2020/images"), []))


def test_a_benchmark_scene_is_known_by_its_path_if_its_name_has_no_number() -> None:
    assert megadepth.is_benchmark(one_group("brandenburg_gate", Path("scenes/0022/images"), []))
    assert not megadepth.is_benchmark(one_group("0001", Path("data/0022/0001"), []))
    assert not megadepth.is_benchmark(one_group("00150", Path("scenes/0001"), []))


@given(st.integers(1, 60), st.integers(1, 40), st.integers(0, 5))
def test_at_most_so_many_tuples_of_a_scene_are_drawn(tuples: int, most: int, seed: int) -> None:
    groups = np.stack([np.arange(tuples), np.arange(tuples) + 1, np.arange(tuples) + 2], axis=1)
    scene = Scene("0001", Path(), [str(index) for index in range(tuples + 2)], groups)
    drawn = [megadepth._draw_tuples(scene, most, seed).groups for _ in range(2)]
    assert np.array_equal(*drawn)
    assert len(drawn[0]) == min(tuples, most)
    assert {tuple(row) for row in drawn[0]} <= {tuple(row) for row in groups}
    assert len(np.unique(drawn[0], axis=0)) == len(drawn[0])


def test_the_published_cap_is_ten_thousand_tuples(tmp_path: Path) -> None:
    folder = write_disk(tmp_path, scenes=("0000",))
    content = json.loads((folder / "dataset.json").read_text())
    content["0000"]["tuples"] = [[0, 1, 2]] * 10_001
    (folder / "dataset.json").write_text(json.dumps(content))
    assert len(megadepth.read(folder)[0].groups) == 10_000


def test_scenes_whose_photos_are_not_there_are_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = write_disk(tmp_path)
    (folder / "scenes" / "0101").rename(folder / "elsewhere")
    assert [scene.name for scene in megadepth.read(folder)] == ["0000"]
    assert "1 of 2 scenes" in caplog.text
    (folder / "scenes").rename(folder / "gone")
    with pytest.raises(FileNotFoundError, match="none of the 2 scenes"):
        megadepth.read(folder)


def test_photos_of_imw2020_have_no_extension_in_the_list(tmp_path: Path) -> None:
    [scene] = megadepth.read_all(write_imw(tmp_path))
    assert scene.path(1).is_file()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "not valid JSON"),
        ("[1]", "not DISK's layout"),
        ('{"a": {"images": []}}', "not DISK's layout"),
        ('{"a": {"image_path": "x", "images": ["1.jpg"], "tuples": [[0, 1]]}}', "tuple of scene a points beyond its 1"),
        ('{"a": {"image_path": "x", "images": ["1.jpg"], "tuples": [[0], [0, 0]]}}', "tuples of scene a are not"),
    ],
)
def test_a_wrong_list_of_scenes_is_named(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "dataset.json").write_text(content)
    with pytest.raises(ValueError, match=f"dataset.json: .*{message}"):
        megadepth.read(tmp_path)


def test_tokyo_pairs_the_times_of_one_direction(tmp_path: Path) -> None:
    scenes = tokyo.read(write_tokyo(tmp_path, places=3))
    assert len(scenes) == 3
    numbers = {tuple(sorted(int(name[:5]) for name in pair)) for scene in scenes for pair in positives(scene)}
    by_rule = {
        (first, second)
        for first, second in combinations(range(1, 28), 2)
        if (first - 1) // 3 == (second - 1) // 3  # one direction of one place
    }
    assert numbers == by_rule


def test_tokyo_needs_no_csv_and_leaves_broken_triples_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = write_tokyo(tmp_path, places=2)
    for path in folder.glob("*.csv"):
        path.unlink()
    (folder / "00005.jpg").unlink()
    scenes = tokyo.read(folder)
    assert [len(scene.groups) for scene in scenes] == [2, 3]
    assert {name for scene in scenes for name in scene.names} == {f"{n:05d}.jpg" for n in range(1, 19)} - {
        "00004.jpg",
        "00005.jpg",
        "00006.jpg",
    }
    assert all(scene.path(index).is_file() for scene in scenes for index in range(len(scene)))
    assert "triples" in caplog.text
    with pytest.raises(FileNotFoundError, match=r"none of the photos 00001\.jpg to 01125\.jpg"):
        tokyo.read(tmp_path / "nowhere")


def test_a_whole_tokyo_is_125_places_of_three_directions_and_times(tmp_path: Path) -> None:
    for number in range(1, 1126):
        (tmp_path / tokyo.photo_name(number)).touch()
    scenes = tokyo.read(tmp_path)
    assert len(scenes) == 125
    assert all(scene.groups.shape == (3, 3) for scene in scenes)
    assert scenes[124].names[-1] == "01125.jpg"


def test_acdc_pairs_a_photo_with_its_clear_weather_partner(tmp_path: Path) -> None:
    folder = write_acdc(tmp_path, frames=2)
    (folder / "rgb_anon/fog/train_ref/GOPR0475/GOPR0475_frame_000002_ref_anon.png").unlink()
    scenes = acdc.read(folder)
    assert [scene.name for scene in scenes] == ["fog 0475", "night 0356", "rain 0400"]
    assert positives(scenes[0]) == {
        frozenset({"GOPR0475_frame_000001_rgb_anon.png", "GOPR0475_frame_000001_ref_anon.png"})
    }
    assert len(positives(scenes[1])) == 2
    assert [scene.name for scene in acdc.read(folder, conditions=("night",))] == ["night 0356"]
    with pytest.raises(FileNotFoundError, match="holds no pair"):
        acdc.read(folder, splits=("val",))


def test_acdc_shows_no_bonnet(tmp_path: Path) -> None:
    scene = acdc.read(write_acdc(tmp_path, frames=1))[0]
    photo = scene.read(0)
    assert photo.shape == (896, 1920, 3)
    assert photo.max() < 200  # the bonnet is white


def test_parts_of_a_recording_are_one_scene(tmp_path: Path) -> None:
    folder = write_acdc(tmp_path, frames=1)
    for split, ending in (("train", "rgb_anon"), ("train_ref", "ref_anon")):
        part = folder / "rgb_anon" / "fog" / split / "GP010475"
        part.mkdir()
        (part / f"GP010475_frame_000001_{ending}.png").touch()
    scenes = acdc.read(folder)
    assert len(scenes[0].groups) == 2
    assert len(scenes) == 3


def test_a_folder_is_told_apart_by_what_is_in_it(tmp_path: Path) -> None:
    both = own.read_root(write_own(tmp_path / "both", {"church": 2, "tower": 1}, singles=2))
    assert [(scene.name, len(scene), scene.pairable) for scene in both] == [
        ("church", 2, True),
        ("tower", 1, False),
        (own.SINGLES, 2, False),
    ]
    flat = own.read_root(write_own(tmp_path / "flat", {}, singles=3))
    assert [len(scene.groups) for scene in flat] == [0]
    deep = write_own(tmp_path / "deep", {"church/day1": 1, "church/day2": 2, ".thumbnails": 4})
    assert [(scene.name, len(scene)) for scene in own.read_root(deep)] == [("church", 3)]
    assert own.read_root(deep)[0].path(2).is_file()
    (tmp_path / "empty" / "scene").mkdir(parents=True)
    with pytest.raises(ValueError, match="holds no photo"):
        own.read_root(tmp_path / "empty")
    with pytest.raises(FileNotFoundError, match="no such folder"):
        own.read_root(tmp_path / "nowhere")


collections = st.tuples(
    st.dictionaries(st.text("abcdef", min_size=1, max_size=5), st.integers(1, 40), max_size=12), st.integers(0, 40)
)


@given(collections, st.floats(0, 0.5), st.integers(0, 3))
def test_held_back_photos_are_never_trained_on(sizes: tuple[dict[str, int], int], share: float, seed: int) -> None:
    scenes = [one_group(name, Path(name), [f"{i:03d}" for i in range(count)]) for name, count in sizes[0].items()]
    photos = scenes + ([no_group(own.SINGLES, Path(), [f"{i:03d}" for i in range(sizes[1])])] if sizes[1] else [])
    kept, held = (
        [scene.path(i) for scene in part for i in range(len(scene))] for part in own.hold_back(photos, share, seed)
    )
    everything = [scene.path(i) for scene in photos for i in range(len(scene))]
    assert sorted(kept + held) == sorted(everything)
    assert len(set(kept)) + len(set(held)) == len(everything)
    assert all_paths(own.hold_back(photos, share, seed)[1]) == held
    # Never more than a quarter or the share of the scenes, whichever is more, beyond rounding to two photos of a scene.
    assert len(held) <= max(share, 0.25) * len(everything) + len(photos)
    if share == 0:
        assert held == []
    if share >= 0.05 and any(len(scene) >= own.FEWEST_TO_SPLIT for scene in photos):
        assert kept
        assert held or sum(map(len, scenes)) >= own.FEWEST_TO_SPLIT > sizes[1]


def test_whole_scenes_are_held_back_where_there_are_enough() -> None:
    photos = [one_group(f"scene {i}", Path(), [f"{j}" for j in range(5)]) for i in range(20)]
    kept, held = own.hold_back(photos, 0.1, seed=0)
    assert [len(scene) for scene in held] == [5, 5]
    assert {scene.name for scene in held}.isdisjoint(scene.name for scene in kept)
    assert [scene.name for scene in own.hold_back(photos, 0.1, seed=1)[1]] != [scene.name for scene in held]


def test_of_a_single_scene_neighbours_are_held_back() -> None:
    names = [f"frame {index:03d}" for index in range(50)]
    [kept], [held] = own.hold_back([one_group("video", Path(), names)], 0.1, seed=3)
    start = names.index(held.names[0])
    assert list(held.names) == names[start : start + 5]
    assert held.pairable
    assert len(kept) == 45


def test_sets_have_other_names_too() -> None:
    assert resolve("disk-megadepth") == resolve("megadepth") == "megadepth"
    with pytest.raises(ValueError, match="cambridge: no such data set; there are: acdc, hpatches"):
        resolve("cambridge")


@pytest.mark.parametrize("name", SOURCES)
def test_a_missing_set_says_how_it_is_had(tmp_path: Path, name: str) -> None:
    with pytest.raises(FileNotFoundError, match=f"ripe data download {name} --dir {tmp_path}"):
        locate(name, root=tmp_path)
