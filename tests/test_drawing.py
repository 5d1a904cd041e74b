"""Pictures of matches: what their colours say, which are drawn, and that the photo stays to be seen."""

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import skimage.data
import torch
from PIL import Image

from ripe import drawing
from ripe.drawing import GREY, ORANGE, RED, UNVERIFIED, draw_matches, draw_view, position_colours, spread
from ripe.features import TwoViewGeometry
from ripe.geometry.verdict import Verdict

SIZE = (300, 400)
BLACK = torch.zeros(3, *SIZE)
GRID = np.stack(np.meshgrid(np.linspace(0, 399, 41), np.linspace(0, 299, 31)), axis=-1).reshape(-1, 2)


def perceived(colours: np.ndarray) -> np.ndarray:
    """N×3 RGB as CIELAB."""
    return cv2.cvtColor(np.asarray(colours, np.float32)[None] / 255, cv2.COLOR_RGB2LAB)[0]


def verdict(name: str) -> Verdict:
    return replace(Verdict("matched", -9.0, 0.5, 0.01), name=name)


def strongest(picture: np.ndarray) -> np.ndarray:
    """The colours of the pixels that are as bright as drawn circles."""
    pixels = picture.reshape(-1, 3)
    return pixels[(pixels.max(axis=1) > 140) & (pixels.min(axis=1) < 250)].astype(int)


def test_colours_by_position_are_smooth_and_unlike_those_with_a_meaning() -> None:
    colours = perceived(position_colours(GRID, SIZE))
    for other in (RED, ORANGE, GREY, UNVERIFIED):
        assert np.linalg.norm(colours - perceived(np.array([other])), axis=1).min() > 25, other
    table = colours.reshape(31, 41, 3)
    for axis in (0, 1):
        assert np.linalg.norm(np.diff(table, axis=axis), axis=-1).max() < 8
    corners = table[[0, 0, -1, -1], [0, -1, 0, -1]]
    apart = np.linalg.norm(corners[:, None] - corners[None], axis=-1)[~np.eye(4, dtype=bool)]
    assert apart.min() > 25
    assert position_colours(np.zeros((0, 2)), SIZE).shape == (0, 3)


@pytest.mark.parametrize(("name", "shade"), [("doubtful", ORANGE), ("chance", GREY), (None, UNVERIFIED)])
def test_what_is_not_verified_has_a_colour_of_its_own(name: str | None, shade: tuple[int, int, int]) -> None:
    points = torch.tensor([[50.0, 60], [200, 80], [300, 200]])
    geometry = None if name is None else TwoViewGeometry("homography", 1.0, torch.eye(3).double(), torch.ones(3) > 0)
    found = None if name is None else verdict(name)
    picture = draw_view("inliers", (BLACK, BLACK), (points, points), (points, points), geometry, found)
    seen = np.unique(strongest(picture), axis=0)
    assert (np.abs(seen - shade).max(axis=1) == 0).any()
    by_position = position_colours(points.numpy(), SIZE)
    assert not (np.abs(seen[:, None] - by_position[None]).max(axis=2) == 0).any()
    certain = draw_view("inliers", (BLACK, BLACK), (points, points), (points, points), geometry, verdict("matched"))
    for colour in by_position:
        assert (np.abs(certain.astype(int) - colour).max(axis=2) == 0).any()


def test_wrong_matches_are_red_in_their_proportion() -> None:
    rng = np.random.default_rng(0)
    points = torch.from_numpy(rng.uniform(0, 300, (900, 2)))
    wrong = torch.arange(900) < 300
    chosen = drawing._chosen(points.numpy(), wrong.numpy(), 90)
    assert len(set(chosen.tolist())) == 90
    assert wrong[chosen].sum() == 30
    assert wrong[chosen[:30]].all()  # below the others
    assert len(drawing._chosen(points.numpy(), wrong.numpy(), 0)) == 900
    picture = draw_matches((BLACK, BLACK), (points, points), wrong=torch.ones(900) > 0)
    assert (picture[:, :400, 1] <= picture[:, :400, 0]).all()  # nothing but red on black


def test_the_drawn_ones_cover_the_photo_evenly() -> None:
    """Where nine in ten points crowd in one corner, the drawn ones still leave no cell of the rest empty."""
    rng = np.random.default_rng(1)
    points = np.concatenate([rng.uniform(0, 40, (1800, 2)), rng.uniform(0, 400, (200, 2))])
    drawn = points[spread(points, 100)]
    cells = {tuple(cell) for cell in (drawn // 80).astype(int).tolist()}
    assert cells == {tuple(cell) for cell in (points // 80).astype(int).tolist()}
    assert (drawn < 40).all(axis=1).sum() < 10
    same = np.zeros((5, 2))
    assert len(set(spread(same, 4).tolist())) == 4
    assert spread(points[:3], 5).tolist() == [0, 1, 2]


@pytest.mark.parametrize("count", [20, 900])
def test_few_lines_are_seen_and_many_do_not_hide_the_photo(count: int) -> None:
    photo = torch.from_numpy(skimage.data.coffee()).permute(2, 0, 1) / 255
    rng = np.random.default_rng(2)
    points = torch.from_numpy(rng.uniform(0, 1, (count, 2)) * (599, 399))
    picture = draw_matches((photo, photo), (points, points), limit=0)
    plain = draw_matches((photo, photo), (points[:0], points[:0]))
    changed = np.abs(picture.astype(int) - plain).max(axis=2)
    if count == 20:
        assert (changed > 80).sum() > 20 * 300  # a strong line of half the picture's width for each
    else:
        assert np.corrcoef(picture.ravel(), plain.ravel())[0, 1] > 0.9
        assert np.median(changed) < 50


def test_lines_grow_with_the_picture() -> None:
    widths = []
    for height, width in ((100, 200), (800, 1600)):
        photo = torch.zeros(3, height, width)
        middle = torch.tensor([[width / 2, height / 2]])
        picture = draw_matches((photo, photo), (middle, middle), max_width=4000)
        widths.append(int((picture[:, width - 20].max(axis=1) > 60).sum()))
    assert widths[0] < widths[1] <= 8


def test_a_warped_photo_lies_on_the_other() -> None:
    photo = torch.from_numpy(skimage.data.coffee()).permute(2, 0, 1) / 255
    shifted = torch.roll(photo, (-30, -50), dims=(1, 2))
    shift = torch.tensor([[1.0, 0, -50], [0, 1, -30], [0, 0, 1]], dtype=torch.float64)
    geometry = TwoViewGeometry("homography", 1.0, shift, torch.ones(4) > 0)
    none = torch.zeros(0, 2)
    picture = draw_view("warp", (photo, shifted), (none, none), (none, none), geometry, verdict("matched"))
    expected = (shifted * 255).byte().permute(1, 2, 0).numpy().astype(int)
    assert np.abs(picture - expected).max() <= 2
    small = draw_view("warp", (photo, shifted), (none, none), (none, none), geometry, max_width=300)
    assert small.shape == (200, 300, 3)
    assert np.abs(small.astype(int) - cv2.resize(picture, (300, 200), interpolation=cv2.INTER_AREA)).mean() < 6


@pytest.mark.parametrize("geometry", [None, TwoViewGeometry.failed("homography", 1.0, 0)])
def test_there_is_nothing_to_warp_without_a_homography(geometry: TwoViewGeometry | None) -> None:
    none = torch.zeros(0, 2)
    with pytest.raises(ValueError, match="homography"):
        draw_view("warp", (BLACK, BLACK), (none, none), (none, none), geometry)
    with pytest.raises(ValueError, match="it must be one of keypoints, matches, inliers, warp"):
        draw_view("lines", (BLACK, BLACK), (none, none), (none, none))  # type: ignore[arg-type]


def test_a_flicker_shows_both_pictures(tmp_path: Path) -> None:
    frames = [np.full((30, 40, 3), value, dtype=np.uint8) for value in (10, 240)]
    drawing.save_flicker(frames, tmp_path / "a.gif", max_side=20)
    with Image.open(tmp_path / "a.gif") as image:
        assert (image.n_frames, image.size) == (2, (20, 15))
