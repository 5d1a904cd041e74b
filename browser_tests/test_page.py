"""The demo as a visitor uses it: upload, match, move the slider, look at the pictures, download."""

import io
import json
import re
from pathlib import Path

import numpy as np
from PIL import Image
from playwright.sync_api import Page, expect

expect.set_options(timeout=60_000)  # milliseconds: the first match loads the model, on whatever machine this is

VIEWS = {"Keypoints": "#keypoints", "All matches": "#all-matches", "Inliers": "#inliers"}


def upload(page: Page, photos: list[Path]) -> None:
    for number, photo in enumerate(photos):
        page.locator(f"#photo{number} input[type=file]").set_input_files(photo)
        page.wait_for_selector(f"#photo{number} img")


def shown(page: Page, view: str) -> np.ndarray:
    """The picture of a view as the server sent it."""
    page.get_by_role("tab", name=view, exact=True).click()
    source = page.locator(f"{VIEWS[view]} img").get_attribute("src")
    assert source is not None
    return np.asarray(Image.open(io.BytesIO(page.request.get(source).body())).convert("RGB"), dtype=int)


def inliers(page: Page) -> int:
    found = re.search(r"(\d+) \(\d+% of the matches\)", page.locator("#figures").inner_text())
    assert found is not None
    return int(found[1])


def share(picture: np.ndarray, strong: int, weak: int) -> float:
    """Share of pixels in which one channel is far above another."""
    return float((picture[:, :, strong] - picture[:, :, weak] > 60).mean())


def test_upload_match_slider_views_and_downloads(page: Page, photos: list[Path]) -> None:
    upload(page, photos)
    page.click("#match")
    expect(page.locator("#figures")).to_contain_text("extract")
    page.wait_for_selector("#inliers img")
    before = inliers(page)
    assert before > 300
    first = {view: shown(page, view) for view in VIEWS}
    assert len({picture.shape for picture in first.values()}) == 1
    assert "matched" in page.locator("#figures").inner_text()
    assert share(first["Keypoints"], 2, 0) > 0.005  # blue circles
    assert share(first["Inliers"], 1, 2) > share(first["Keypoints"], 1, 2) + 0.002  # lines from yellow to green
    assert share(first["All matches"], 0, 1) > share(first["Inliers"], 0, 1) + 0.002  # red: the other matches

    slider = page.locator("#inlier-threshold input[type=range]")
    slider.focus()
    slider.evaluate("slider => { slider.value = 6; slider.dispatchEvent(new Event('input', {bubbles: true})); }")
    slider.dispatch_event("pointerup")
    expect(page.locator("#figures")).to_contain_text("extract kept")
    assert inliers(page) > before
    assert (shown(page, "Keypoints") == first["Keypoints"]).all()
    assert (shown(page, "Inliers") != first["Inliers"]).any()

    expect(page.locator("#downloads")).to_contain_text("matches")
    contents = {}
    for link in page.locator("#downloads a").all():
        target = link.get_attribute("href")
        assert target is not None
        contents[target.rsplit("/", 1)[1]] = page.request.get(target).body()
    assert set(contents) == {"matches.png", "matches.json", "features.h5", "matches.h5"}
    assert sum(json.loads(contents["matches.json"])["inliers"]) >= before
    assert contents["features.h5"].startswith(b"\x89HDF")
    assert Image.open(io.BytesIO(contents["matches.png"])).format == "PNG"


def test_the_wheel_zooms_dragging_moves_and_a_double_click_resets(page: Page) -> None:
    page.click("#example")
    page.wait_for_selector("#photo1 img")
    page.click("#match")
    picture = page.locator("#inliers img")
    picture.wait_for()
    picture.scroll_into_view_if_needed()
    whole = picture.bounding_box()
    assert whole is not None
    x, y = whole["x"] + whole["width"] / 4, whole["y"] + whole["height"] / 2
    page.mouse.move(x, y)
    page.mouse.wheel(0, -400)
    page.wait_for_function("document.querySelector('#inliers img').style.transform.includes('scale(2.')")
    zoomed = picture.bounding_box()
    assert zoomed is not None
    assert abs((x - zoomed["x"]) / zoomed["width"] - 0.25) < 0.01  # what was under the pointer still is
    page.mouse.down()
    page.mouse.move(x - 50, y - 20)
    page.mouse.up()
    moved = picture.bounding_box()
    assert moved is not None
    assert abs(moved["x"] - (zoomed["x"] - 50)) < 1
    page.mouse.dblclick(x, y)
    assert picture.bounding_box() == whole


def test_a_refused_file_is_a_plain_message_and_the_page_goes_on(page: Page, photos: list[Path], tmp_path: Path) -> None:
    (tmp_path / "text.jpg").write_text("no image")
    upload(page, [photos[0]])
    page.locator("#photo1 input[type=file]").set_input_files(tmp_path / "text.jpg")
    page.wait_for_selector("#photo1 img", state="attached")
    page.click("#match")
    expect(page.locator(".toast-body")).to_contain_text("text.jpg: not a photo that can be read")
    page.click("#example")
    expect(page.locator("#photo1 img")).to_have_attribute("src", re.compile("motorcycle_right"))
    page.click("#match")
    page.wait_for_selector("#inliers img")
