"""Pairs of views: labels, shares, mixtures, letterboxes, bad files, and that pair k depends on seed and k alone."""

import os
from collections import Counter
from dataclasses import replace
from itertools import islice
from pathlib import Path

import cv2
import numpy as np
import pytest
import skimage.data
import torch
from batches import pair_batches
from hypothesis import given, settings
from hypothesis import strategies as st
from made_sets import write_acdc, write_disk, write_own, write_tokyo

from ripe.data.catalogue import place
from ripe.data.mixture import Mixture
from ripe.data.pairs import PairBatch, ScenePairs, collate, split_own
from ripe.data.scenes import Scene, no_group, one_group
from ripe.data.warps import letterbox
from ripe.recipe.config import DataConfig, TrainConfig, WarpConfig

PUBLISHED = {"view": "letterbox", "self_share": 0.0, "negative_share": 0.5}


@pytest.fixture(scope="session")
def public(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder with small MegaDepth, Tokyo 24/7 and ACDC."""
    root = tmp_path_factory.mktemp("data")
    write_disk(root)
    write_tokyo(root)
    write_acdc(root, frames=1)
    return root


def published(public: Path, **sets: float) -> DataConfig:
    return DataConfig(sets=sets, dir=public, size=64, pairs_per_step=6, workers=0, **PUBLISHED)


def test_a_letterbox_is_the_resized_photo_centred_in_zeros() -> None:
    photo = skimage.data.coffee()[:300, :500]
    view = letterbox(photo, 256)
    height = round(300 * 256 / 500)
    top = (256 - height) // 2
    expected = np.zeros((256, 256), dtype=bool)
    expected[top : top + height] = True
    assert np.array_equal(view.valid, expected)
    assert not view.image[~expected].any()
    independent = skimage.transform.resize(photo, (height, 256), anti_aliasing=True, preserve_range=True)
    assert np.abs(view.image[top : top + height] - independent).mean() < 4


@settings(deadline=None)
@given(st.integers(16, 400), st.integers(16, 400), st.sampled_from([64, 96, 256]))
def test_letterboxes_keep_the_photo_whole_and_centred(height: int, width: int, size: int) -> None:
    view = letterbox(np.full((height, width, 3), 255, dtype=np.uint8), size)
    rows, columns = (np.flatnonzero(view.valid.any(axis=axis)) for axis in (1, 0))
    assert max(len(rows), len(columns)) == size
    for inside in (rows, columns):
        before, after = inside[0], size - 1 - inside[-1]
        assert 0 <= after - before <= 1
    assert view.valid.sum() == len(rows) * len(columns)
    assert np.array_equal(view.valid, view.image.all(axis=2))
    assert len(rows) * width == pytest.approx(len(columns) * height, abs=max(width, height))
    # The photo's outer corners go to the outer corners of the valid part.
    corners = np.array([[-0.5, -0.5], [width - 0.5, height - 0.5]])
    moved = corners * view.homography[[0, 1], [0, 1]] + view.homography[:2, 2]
    assert np.allclose(moved, [[columns[0] - 0.5, rows[0] - 0.5], [columns[-1] + 0.5, rows[-1] + 0.5]])


@pytest.mark.parametrize("name", ["megadepth", "tokyo", "acdc"])
def test_half_of_the_published_pairs_are_negative_and_labels_are_right(public: Path, name: str) -> None:
    pairs = ScenePairs(published(public, **{name: 1.0}), 0, 1)
    rng = np.random.default_rng(0)
    for _ in range(200):
        first, second = pairs.mixture.draw_pair(rng)
        assert first.scene is second.scene
        assert first.index != second.index
        assert any({first.index, second.index} <= set(group.tolist()) for group in first.scene.groups)
        first, second = pairs.mixture.draw_strangers(rng)
        assert first.scene.name != second.scene.name
    kinds = [np.random.default_rng([0, k]).random() < pairs.negative_share for k in range(2000)]
    assert np.mean(kinds) == pytest.approx(0.5, abs=0.04)
    assert pairs.real_share == 0.5


def test_published_batches_are_letterboxes_with_labels(public: Path) -> None:
    batches = list(pair_batches(published(public, megadepth=0.8, tokyo=0.2), 0, 0, 4))
    assert all(batch.images.shape == (12, 3, 64, 64) and batch.images.dtype == torch.uint8 for batch in batches)
    assert all(batch.H_0to1.isnan().all() for batch in batches)
    valid = torch.cat([batch.valid for batch in batches])
    assert valid[:, 8:56].all()  # the photos are 64×48
    assert not valid[:, :8].any()
    assert not valid[:, 56:].any()
    positive = torch.cat([batch.positive for batch in batches])
    assert 4 <= positive.sum() <= 20
    assert not any(batch.skipped for batch in batches)


def mixture_of(weights: tuple[float, float]) -> Mixture:
    many = [one_group(f"a{i}", Path(), ["0", "1"]) for i in range(10)]
    few = [one_group(f"b{i}", Path(), ["0", "1", "2"]) for i in range(4)]
    return Mixture({"a": many, "b": few}, weights)


def test_sets_are_drawn_by_weight_and_negatives_mix_them() -> None:
    mixture, rng = mixture_of((0.8, 0.2)), np.random.default_rng(0)
    pairs = Counter(mixture.draw_pair(rng)[0].set_name for _ in range(4000))
    assert pairs["b"] / 4000 == pytest.approx(0.2, abs=0.03)
    negatives = Counter("".join(sorted(draw.set_name for draw in mixture.draw_strangers(rng))) for _ in range(4000))
    assert negatives["aa"] / 4000 == pytest.approx(0.64, abs=0.03)
    assert negatives["ab"] / 4000 == pytest.approx(0.32, abs=0.03)
    assert negatives["bb"] / 4000 == pytest.approx(0.04, abs=0.02)


def test_groups_of_a_set_count_alike() -> None:
    small = Scene("small", Path(), ["0", "1"], np.array([[0, 1]]))
    large = Scene("large", Path(), ["0", "1", "2", "3"], np.array([[0, 1], [1, 2], [2, 3]]))
    mixture, rng = Mixture({"a": [small, large]}, [1.0]), np.random.default_rng(0)
    names = Counter(mixture.draw_pair(rng)[0].scene.name for _ in range(4000))
    assert names["large"] / 4000 == pytest.approx(0.75, abs=0.03)


def test_a_set_of_one_scene_finds_strangers_elsewhere() -> None:
    lonely = [one_group("only", Path(), ["0", "1"])]
    mixture = Mixture(
        {"a": lonely, "b": [one_group("other", Path(), ["0"]), no_group("x", Path(), ["1"])]}, [1.0, 1e-3]
    )
    rng = np.random.default_rng(0)
    for _ in range(100):
        assert {draw.scene.name for draw in mixture.draw_strangers(rng)} == {"only", "other"}


def same(first: PairBatch, second: PairBatch) -> bool:
    tensors = ("images", "valid", "positive")
    return all(torch.equal(getattr(first, name), getattr(second, name)) for name in tensors) and torch.equal(
        first.H_0to1.nan_to_num(-1), second.H_0to1.nan_to_num(-1)
    )


@pytest.mark.parametrize("workers", [1, 2])
def test_pairs_do_not_depend_on_workers_or_on_where_a_run_resumes(public: Path, workers: int) -> None:
    config = replace(published(public, megadepth=0.8, acdc=0.2), self_share=0.3, pairs_per_step=4)
    straight = list(pair_batches(config, 7, 0, 4))
    resumed = list(pair_batches(replace(config, workers=workers), 7, 2, 4))
    assert len(straight) == 4
    assert len(resumed) == 2
    assert all(same(*batches) for batches in zip(straight[2:], resumed, strict=True))
    assert not same(straight[0], straight[1])
    assert not same(straight[0], next(pair_batches(config, 8, 0, 4)))


def test_workers_are_forked_while_opencv_has_no_threads(public: Path) -> None:
    """A thread of OpenCV's pool that held a lock when the process was forked hung the workers, now and then."""
    threads, seen = cv2.getNumThreads(), []
    cv2.setNumThreads(3)
    os.register_at_fork(before=lambda: seen.append(cv2.getNumThreads()))
    config = replace(published(public, acdc=1.0), workers=2, pairs_per_step=2)
    assert len(list(pair_batches(config, 0, 0, 3))) == 3
    assert seen == [1, 1]
    assert cv2.getNumThreads() == 3
    cv2.setNumThreads(threads)


def test_a_data_set_with_many_bad_files_goes_on(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = write_disk(tmp_path)
    bad = sorted(folder.rglob("0000_*.jpg"))[:3] + sorted(folder.rglob("0101_*.jpg"))[:2]
    for path in bad[:3]:
        path.write_bytes(path.read_bytes()[:100])
    for path in bad[3:]:
        path.unlink()
    batches = list(pair_batches(published(tmp_path, megadepth=1.0), 0, 0, 3))
    assert sum(len(batch) for batch in batches) == 18
    named = {message for batch in batches for message in batch.skipped}
    assert {name for name in map(str, bad) if any(name in message for message in named)} == set(map(str, bad))
    assert len(caplog.records) == len(set(caplog.messages))
    assert all(batch.images.any() for batch in batches)


def test_a_set_of_nothing_but_bad_files_ends_with_a_message(tmp_path: Path) -> None:
    for index in range(3):
        (tmp_path / f"{index}.jpg").write_text("no photo")
    pairs = ScenePairs(DataConfig(root=tmp_path, workers=0), 0, 1)
    with pytest.raises(RuntimeError, match=r"pairs in a row could not be read; the last: .*not an image"):
        pairs[0]


@pytest.mark.parametrize(("layout", "kinds"), [({}, {"self"}), ({"a": 3}, {"self", "real"}), ({"a": 3, "b": 1}, None)])
def test_a_root_gives_the_pairs_that_it_can(tmp_path: Path, layout: dict, kinds: set | None) -> None:
    write_own(tmp_path, layout, singles=3)
    config = DataConfig(root=tmp_path, size=64, self_share=0.3, negative_share=0.3, workers=0)
    pairs = ScenePairs(config, 0, 40)
    batch = collate([pairs[index] for index in range(40)])
    warped = batch.H_0to1.isfinite().all(dim=-1).all(dim=-1)
    seen = {"self"} & ({"self"} if warped.any() else set())
    seen |= {"real"} if (batch.positive & ~warped).any() else set()
    seen |= {"negative"} if (~batch.positive).any() else set()
    assert seen == (kinds or {"self", "real", "negative"})


def test_held_back_photos_are_not_drawn(tmp_path: Path) -> None:
    write_own(tmp_path, {f"scene{index}": 3 for index in range(8)}, singles=10)
    config = DataConfig(root=tmp_path, hold_back=0.2, workers=0)
    kept, held = (
        {scene.path(index) for scene in part for index in range(len(scene))} for part in split_own(config, seed=4)
    )
    assert len(held) == 5  # a scene and two loose photos
    assert len(kept) + len(held) == 34
    mixture, rng = ScenePairs(config, 4, 1).mixture, np.random.default_rng(0)
    draws = [mixture.draw_photo(rng) for _ in range(300)]
    for _ in range(300):
        draws += [*mixture.draw_pair(rng), *mixture.draw_strangers(rng)]
    assert {draw.scene.path(draw.index) for draw in draws} == kept
    everything = split_own(replace(config, hold_back=0.0), seed=4)
    assert everything[1] == []
    assert split_own(DataConfig(), seed=0) == ([], [])


def test_own_photos_mix_with_public_sets(public: Path, tmp_path: Path) -> None:
    write_own(tmp_path, {"a": 2})
    config = replace(published(public, megadepth=0.5, own=0.5), root=tmp_path)
    mixture, rng = ScenePairs(config, 0, 1).mixture, np.random.default_rng(0)
    assert {mixture.draw_pair(rng)[0].set_name for _ in range(50)} == {"megadepth", "own"}


@pytest.mark.parametrize("name", ["megadepth", "tokyo", "acdc"])
def test_a_missing_set_is_named_with_the_way_to_get_it(tmp_path: Path, name: str) -> None:
    config = DataConfig(sets={name: 1.0}, dir=tmp_path)
    with pytest.raises(FileNotFoundError, match=f"no such folder; .*ripe data download {name}"):
        ScenePairs(config, 0, 1)
    place(name, tmp_path).mkdir(parents=True)
    with pytest.raises(FileNotFoundError, match=f"(holds no|no such file).*ripe data download {name}"):
        ScenePairs(config, 0, 1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sets": {"cambridge": 1.0}}, "data.sets=cambridge: must be one of megadepth, tokyo, acdc, own"),
        ({"sets": {"tokyo": 0.0}}, "data.sets.tokyo=0.0: must be more than 0"),
        ({"root": Path("a"), "scenes": Path("b")}, "data.root stands in for data.scenes"),
        ({"view": "square"}, "data.view=square: must be one of crop, letterbox"),
        ({"size": 100}, "data.size=100: must be a multiple of 8"),
        ({"pairs_per_step": 0}, "data.pairs_per_step=0: must be 1 or more"),
        ({"self_share": 1.5}, "data.self_share=1.5: must be from 0 to 1"),
        ({"self_share": 0.7, "negative_share": 0.7}, "must be 1 or less"),
        ({"hold_back": 1.0}, "data.hold_back=1.0: must be 0 or more"),
        ({"workers": -1}, "data.workers=-1: must be 0 or more"),
    ],
)
def test_wrong_settings_are_named(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DataConfig(**options)


@pytest.mark.parametrize(
    "options", [{"min_scale": 3.0}, {"max_scale_ratio": 0.5}, {"min_overlap": 2}, {"photometric": -1}]
)
def test_wrong_warps_are_named(options: dict) -> None:
    with pytest.raises(ValueError, match=f"data.warp.{next(iter(options))}="):
        WarpConfig(**options)


def test_the_configuration_is_saved_as_plain_values(public: Path) -> None:
    data = TrainConfig(data=published(public, megadepth=0.8, tokyo=0.2)).to_dict()["data"]
    assert data["sets"] == {"megadepth": 0.8, "tokyo": 0.2}
    assert data["dir"] == str(public)


def test_two_photo_crops_show_different_parts(tmp_path: Path) -> None:
    write_own(tmp_path, {"a": 4, "b": 4})
    config = DataConfig(root=tmp_path, size=64, self_share=0.0, negative_share=0.0, workers=0, pairs_per_step=2)
    [batch] = islice(pair_batches(config, 0, 0, 1), 1)
    assert batch.positive.all()
    assert batch.H_0to1.isnan().all()
    assert cv2.absdiff(batch.images[0].numpy(), batch.images[2].numpy()).mean() > 1


def test_the_warps_of_self_pairs_grow_over_the_ramp(tmp_path: Path) -> None:
    write_own(tmp_path, {"place": 2})
    config = DataConfig(root=tmp_path, hold_back=0.0, size=64, self_share=1.0, negative_share=0.0)
    full, ramped = (ScenePairs(replace(config, warp_ramp=ramp), 0, 200) for ramp in (0.0, 0.5))
    zooms = [abs(np.log(np.linalg.det(ramped[number][0].H_0to1[:2, :2]))) for number in range(0, 200, 5)]
    assert zooms[0] < 0.1  # no zoom, hardly a perspective
    assert np.mean(zooms[:8]) < np.mean(zooms[12:20]) < np.log(16)
    for number in (100, 199):
        assert np.array_equal(full[number][0].views[1].image, ramped[number][0].views[1].image)
