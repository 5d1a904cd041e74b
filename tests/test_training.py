"""Photos to pairs: views and labels, and bad files."""

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import skimage.data
import torch
from batches import pair_batches
from hypothesis import given, settings
from hypothesis import strategies as st

from ripe.data.light import change_light
from ripe.data.pairs import ScenePairs, collate
from ripe.data.warps import render, self_pair, similarity
from ripe.recipe.config import DataConfig, WarpConfig


def test_a_view_shows_each_point_of_the_photo_where_its_homography_says() -> None:
    y, x = np.mgrid[0:240, 0:320]
    ramp = np.stack([x * 0.7, y, np.full_like(x, 128)], axis=-1).astype(np.uint8)
    rng = np.random.default_rng(0)
    for scale in (0.5, 1.0, 1.7):
        view = render(ramp, similarity(96, np.array([160.0, 120.0]), scale, 30.0), 96)
        for target in rng.uniform(20, 76, (20, 2)).round():
            source = np.linalg.inv(view.homography) @ [*target, 1.0]
            source = source[:2] / source[2]
            if not (5 <= source[0] < 315 and 5 <= source[1] < 235):
                continue
            seen = view.image[int(target[1]), int(target[0])].astype(float)
            assert seen[0] == pytest.approx(source[0] * 0.7, abs=1.5)
            assert seen[1] == pytest.approx(source[1], abs=1.5)


def test_pixels_beyond_the_photo_are_not_valid() -> None:
    photo = np.full((50, 60, 3), 200, np.uint8)
    view = render(photo, similarity(96, np.array([29.5, 24.5]), 1.0, 0.0), 96)
    assert view.valid.sum() == pytest.approx(50 * 60, rel=0.05)
    assert view.valid[48, 48]
    assert not view.valid[2, 2]


def test_views_of_a_self_pair_overlap_and_are_seeded() -> None:
    photo, config = skimage.data.astronaut(), WarpConfig()
    for seed in range(10):
        first, second = self_pair(photo, 128, config, np.random.default_rng(seed))
        relative = second.homography @ np.linalg.inv(first.homography)
        aligned = cv2.warpPerspective(first.image, relative, (128, 128)).astype(float)
        both = cv2.warpPerspective(first.valid.astype(np.uint8), relative, (128, 128), flags=cv2.INTER_NEAREST) > 0
        both &= second.valid
        assert both.mean() >= config.min_overlap - 0.01  # both ways of counting round to pixels
        assert np.abs(aligned - second.image)[both].mean() < 20
    again = self_pair(photo, 128, config, np.random.default_rng(9))
    assert np.array_equal(again[1].image, second.image)


@settings(max_examples=25, deadline=None)
@given(
    st.integers(16, 400), st.integers(16, 400), st.sampled_from([0.12, 0.5, 1.0]), st.floats(0, 180), st.integers(0, 99)
)
def test_self_pairs_of_any_photo_overlap_as_promised(
    height: int, width: int, least: float, rotation: float, seed: int
) -> None:
    """Measured by points of a grid on the second view, which both views and the photo must show."""
    photo = np.zeros((height, width, 3), np.uint8)
    config = WarpConfig(min_overlap=least, rotation_deg=rotation, any_rotation_share=0.5)
    first, second = self_pair(photo, 64, config, np.random.default_rng(seed))
    grid = np.stack([*np.mgrid[0:64, 0:64][::-1], np.ones((64, 64))]).reshape(3, -1)
    shown = second.valid.ravel()
    for matrix, (right, bottom) in (
        (np.linalg.inv(second.homography), (width, height)),
        (first.homography @ np.linalg.inv(second.homography), (64, 64)),
    ):
        x, y, w = matrix @ grid
        shown &= (x / w > -0.6) & (x / w < right - 0.4) & (y / w > -0.6) & (y / w < bottom - 0.4)
    assert shown.mean() >= least - 0.02  # both ways of counting round to pixels


def test_photometric_changes_keep_shape_and_type() -> None:
    image = skimage.data.astronaut()[:64, :64]
    for seed in range(20):
        changed = change_light(image, 1.0, np.random.default_rng(seed))
        assert changed.shape == image.shape
        assert changed.dtype == np.uint8
    assert np.array_equal(change_light(image, 0.0, np.random.default_rng(0)), image)


def test_pairs_depend_on_seed_and_number_alone(scenes: Path) -> None:
    config = DataConfig(scenes=scenes, size=96, pairs_per_step=3, self_share=0.5, negative_share=0.25, workers=0)
    straight = list(pair_batches(config, 5, 0, 3))
    late = list(pair_batches(replace(config, workers=1), 5, 2, 3))
    assert len(straight) == 3
    assert len(late) == 1
    assert torch.equal(straight[2].images, late[0].images)
    assert torch.equal(straight[2].positive, late[0].positive)
    assert not torch.equal(straight[1].images, straight[2].images)


def test_labels_and_shares_of_pairs(scenes: Path) -> None:
    pairs = ScenePairs(DataConfig(scenes=scenes, size=32, self_share=0.5, negative_share=0.25), 0, 200)
    batch = collate([pairs[index] for index in range(200)])
    warped = batch.H_0to1.isfinite().all(dim=-1).all(dim=-1)
    assert batch.positive[warped].all()
    assert warped.float().mean().item() == pytest.approx(0.5, abs=0.1)
    assert (~batch.positive).float().mean().item() == pytest.approx(0.25, abs=0.1)


def test_an_unreadable_photo_costs_itself_and_is_named(scenes: Path, tmp_path: Path) -> None:
    scene = tmp_path / "scene"
    scene.mkdir()
    (scene / "good.png").write_bytes((scenes / "coffee" / "0.png").read_bytes())
    (scene / "bad.jpg").write_text("no photo")
    pairs = ScenePairs(DataConfig(singles=scene, size=64, self_share=1, negative_share=0), 0, 20)
    skipped = [message for index in range(20) for message in pairs[index][1]]
    assert skipped
    assert all("bad.jpg" in message for message in skipped)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"scenes": Path("nowhere")}, "nowhere: no such folder"),
        ({}, "no photo found"),
    ],
)
def test_missing_photos_are_named(settings: dict, message: str) -> None:
    with pytest.raises((FileNotFoundError, ValueError), match=message):
        ScenePairs(DataConfig(**settings), 0, 1)


def test_one_scene_has_no_negative_pairs(scenes: Path, tmp_path: Path) -> None:
    (tmp_path / "only").symlink_to(scenes / "coffee")
    with pytest.raises(ValueError, match="negative_share=0"):
        ScenePairs(DataConfig(scenes=tmp_path), 0, 1)
