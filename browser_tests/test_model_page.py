"""The page of a reconstruction in Chromium: cameras and points are seen, and turn when they are dragged."""

import io
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Browser, Page, expect

sys.path.append(str(Path(__file__).parents[1] / "tests"))
from made_scene import write

from ripe.cli import main

BACKGROUND, CAMERAS = (42, 45, 51), (255, 140, 26)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of the rendered room's reconstruction."""
    pytest.importorskip("pycolmap")
    folder = tmp_path_factory.mktemp("model")
    words = ["--max-keypoints", "600", "--single-camera", "--device", "cpu"]
    assert main(["reconstruct", str(write(folder / "room")), "-o", str(folder), *words]) == 0
    return folder / "compact" / "model.html"


@pytest.fixture
def opened(browser: Browser, model: Path) -> Iterator[Page]:
    """The page, which must ask nobody for anything, and tell of no error."""
    page = browser.new_page(viewport={"width": 900, "height": 600})
    wrong: list[str] = []
    page.on("request", lambda request: None if request.url.startswith("file:") else wrong.append(request.url))
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.goto(model.as_uri())
    yield page
    page.close()
    assert wrong == []


def seen(page: Page) -> np.ndarray:
    """The picture between the two lines of text."""
    picture = np.asarray(Image.open(io.BytesIO(page.screenshot())).convert("RGB"), dtype=int)
    return picture[70:540]


def near(picture: np.ndarray, colour: tuple[int, int, int]) -> np.ndarray:
    return np.abs(picture - colour).max(axis=2) < 12


def test_cameras_and_points_are_seen_and_turn(opened: Page) -> None:
    expect(opened.locator("#figures")).to_contain_text("6 cameras")
    before = seen(opened)
    cameras, points = near(before, CAMERAS), ~near(before, CAMERAS) & ~near(before, BACKGROUND)
    assert cameras.sum() > 150
    assert points.sum() > 1000
    assert len(np.unique(before[points], axis=0)) > 100  # the photos' colours

    opened.mouse.move(450, 300)
    opened.mouse.down()
    opened.mouse.move(600, 260, steps=4)
    opened.mouse.up()
    opened.wait_for_function("asked === false")
    after = seen(opened)
    assert near(after, CAMERAS).sum() > 100
    assert (near(after, CAMERAS) != cameras).sum() > 100

    opened.mouse.wheel(0, -500)
    opened.wait_for_timeout(200)
    assert (seen(opened) != after).any()
    opened.mouse.dblclick(450, 300)
    opened.wait_for_timeout(200)
    assert (near(seen(opened), CAMERAS) != cameras).sum() < 20


def test_the_camera_under_the_pointer_is_named_and_keys_turn(opened: Page) -> None:
    rows, columns = np.nonzero(near(seen(opened), CAMERAS))
    opened.mouse.move(int(columns.max()) - 4, int(rows[columns.argmax()]) + 70)
    expect(opened.locator("#name")).to_contain_text("view")
    before = seen(opened)
    opened.locator("canvas").focus()
    opened.keyboard.press("ArrowLeft")
    opened.wait_for_timeout(200)
    assert (seen(opened) != before).any()
