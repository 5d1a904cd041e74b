"""The demo as a visitor uses it: photos or an example in, verdict, pictures and figures out; also on a phone."""

import io
import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Locator, Page, expect

expect.set_options(timeout=180_000)  # milliseconds: the first match loads the model, on whatever machine this is

VIEWS = ("Keypoints", "Matches", "Inliers")


def upload(page: Page, photos: list[Path]) -> None:
    for number, photo in enumerate(photos):
        page.locator(f"#photo{number} input[type=file]").set_input_files(photo)
        page.wait_for_selector(f"#photo{number} img")


def run_example(page: Page, title: str, verdict: str) -> Locator:
    """Click an example and wait for its verdict; the picture of the inliers."""
    page.locator("#examples").get_by_text(title, exact=True).click()
    expect(page.locator(f"#verdict .{verdict}")).to_be_visible()
    expect(page.locator("#about")).to_contain_text(title)
    picture = page.locator("#inliers img")
    picture.wait_for()
    return picture


def shown(page: Page, view: str) -> np.ndarray:
    """The picture of a view as the server sent it."""
    page.get_by_role("tab", name=view, exact=True).click()
    source = page.locator(f"#{view.lower()} img").get_attribute("src")
    assert source is not None
    return np.asarray(Image.open(io.BytesIO(page.request.get(source).body())).convert("RGB"), dtype=int)


def inliers(page: Page) -> int:
    found = re.search(r"(\d+) of \d+ matches agree", page.locator("#verdict").inner_text())
    assert found is not None
    return int(found[1])


def share(picture: np.ndarray, strong: int, weak: int) -> float:
    """Share of pixels in which one channel is far above another."""
    return float((picture[:, :, strong] - picture[:, :, weak] > 60).mean())


def box(locator: Locator) -> dict[str, float]:
    found = locator.bounding_box()
    assert found is not None
    return dict(found)


def zoom_of(picture: Locator) -> float:
    return float(picture.evaluate("image => new DOMMatrix(getComputedStyle(image).transform).a"))


def test_upload_match_views_and_downloads(page: Page, photos: list[Path]) -> None:
    upload(page, photos)
    page.click("#match")
    expect(page.locator("#verdict .matched")).to_contain_text("Matched")
    expect(page.locator("#verdict [aria-live=polite]")).to_contain_text("Matched")
    page.wait_for_selector("#inliers img")
    assert inliers(page) > 300
    expect(page.locator("#figures")).to_contain_text("SIFT")
    assert re.search(r"Time to extract\s+\d+ ms\s+\d+ ms", page.locator("#figures").inner_text())
    assert page.locator("#figures td").filter(has_text="✓ matched").count() == 2

    pictures = {view: shown(page, view) for view in VIEWS}
    assert len({picture.shape for picture in pictures.values()}) == 1
    assert share(pictures["Keypoints"], 2, 0) > 0.005  # blue circles
    assert share(pictures["Inliers"], 1, 2) > share(pictures["Keypoints"], 1, 2) + 0.002  # lines from yellow to green
    assert share(pictures["Matches"], 0, 1) > share(pictures["Inliers"], 0, 1) + 0.002  # red: the other matches
    source = page.locator("#inliers img").get_attribute("src")
    assert source is not None
    page.locator("#side").get_by_text("SIFT").click()
    expect(page.locator("#inliers img")).not_to_have_attribute("src", source)

    page.locator("#files").get_by_text("Downloads").click()
    expect(page.locator("#downloads")).to_contain_text("matches")
    contents = {}
    for link in page.locator("#downloads a").all():
        target = link.get_attribute("href")
        assert target is not None
        contents[target.rsplit("/", 1)[1]] = page.request.get(target).body()
    assert set(contents) == {"matches.png", "matches.json", "features.h5", "matches.h5"}
    assert sum(json.loads(contents["matches.json"])["inliers"]) == inliers(page)
    assert contents["features.h5"].startswith(b"\x89HDF")
    assert Image.open(io.BytesIO(contents["matches.png"])).format == "PNG"


def test_sliders_react_to_keys_and_typing_and_results_that_are_out_of_date_are_dimmed(page: Page) -> None:
    run_example(page, "Two cameras", "matched")
    first = inliers(page)
    results, note = page.locator("#results"), page.locator("#note")
    expect(results).not_to_have_class(re.compile("stale"))
    slider = page.locator("#inlier-threshold input[type=range]")
    slider.focus()
    page.keyboard.press("ArrowRight")
    expect(page.locator("#figures")).to_contain_text("1.25 px")
    expect(page.locator("#figures")).to_contain_text("kept")
    assert inliers(page) > first
    number = page.locator("#inlier-threshold input[type=number]")
    number.fill("12")  # more than there is
    number.press("Tab")
    expect(page.locator("#figures")).to_contain_text("10 px")
    number.fill("1")
    expect(page.locator("#figures")).to_contain_text("1 px")
    assert inliers(page) == first
    assert page.locator(".toast-body").count() == 0

    source = page.locator("#photo1 img").get_attribute("src")
    assert source is not None
    page.locator("#photo1 .icon-button-wrapper button").last.click()
    expect(results).to_have_class(re.compile("stale"))
    expect(note).to_contain_text("other photos or settings")
    page.locator("#photo1 input[type=file]").set_input_files(
        {"name": "motorcycle_right.jpg", "mimeType": "image/jpeg", "buffer": page.request.get(source).body()}
    )
    expect(results).not_to_have_class(re.compile("stale"))  # put back
    expect(note).not_to_contain_text("other photos")


def test_photos_that_do_not_belong_together_are_no_better_than_chance(page: Page) -> None:
    run_example(page, "Unrelated", "chance")
    expect(page.locator("#verdict")).to_contain_text("✗")
    expect(page.locator("#verdict")).to_contain_text("No better than chance")
    expect(page.locator("#about")).to_contain_text("CC BY 2.0")
    page.get_by_role("tab", name="Overlay").click()
    expect(page.locator("#overlay-said")).to_contain_text("cannot be laid on each other")
    expect(page.locator("#overlay-slider")).to_be_hidden()


def test_overlays_slide_blink_and_alternate(page: Page) -> None:
    run_example(page, "Two cameras", "matched")
    page.get_by_role("tab", name="Overlay").click()
    slider, picture = page.locator("#overlay-slider"), page.locator("#overlay img")
    expect(slider.locator("img")).to_have_count(2)
    expect(page.locator("#overlay-said")).to_contain_text("in the first one's frame")
    for mode, ending in (("blink", "gif"), ("checkerboard", "jpeg")):
        page.locator("#overlay-mode").get_by_text(mode).click()
        expect(slider).to_be_hidden()
        expect(picture).to_have_attribute("src", re.compile(f"{ending}$"))
    page.locator("#overlay-mode").get_by_text("slider").click()
    expect(slider).to_be_visible()
    middle = box(slider)
    page.evaluate("window.scrollTo(0, 0)")
    page.mouse.move(middle["x"] + middle["width"] / 4, middle["y"] + 60)
    page.mouse.wheel(0, 100)
    page.wait_for_function("window.scrollY > 0")


def test_the_result_is_above_the_fold_beside_the_photos(page: Page) -> None:
    picture = box(run_example(page, "Two cameras", "matched"))
    photo, verdict = box(page.locator("#photo1")), box(page.locator("#verdict"))
    assert page.evaluate("window.scrollY") == 0
    assert verdict["x"] > photo["x"] + photo["width"]
    assert verdict["y"] + verdict["height"] < picture["y"]
    assert picture["y"] + picture["height"] < 900
    assert page.evaluate("document.documentElement.scrollWidth") <= 1280


def test_the_wheel_scrolls_and_zooms_where_it_is_asked_to(page: Page) -> None:
    picture = run_example(page, "Two cameras", "matched")
    page.evaluate("window.scrollTo(0, 0)")
    whole = box(picture)
    x, y = whole["x"] + whole["width"] / 4, whole["y"] + whole["height"] / 2
    page.mouse.move(x, y)
    page.mouse.wheel(0, 50)
    page.wait_for_function("window.scrollY > 0")
    assert zoom_of(picture) == 1
    page.evaluate("window.scrollTo(0, 0)")
    page.keyboard.down("Control")
    page.mouse.wheel(0, -400)
    page.keyboard.up("Control")
    page.wait_for_function("document.querySelector('#inliers img').style.transform.includes('scale(2.')")
    zoomed = box(picture)
    assert abs((x - zoomed["x"]) / zoomed["width"] - 0.25) < 0.01  # what was under the pointer still is
    page.mouse.down()
    page.mouse.move(x - 50, y - 20)
    page.mouse.up()
    assert abs(box(picture)["x"] - (zoomed["x"] - 50)) < 1
    page.mouse.dblclick(x, y)
    assert box(picture) == whole
    page.mouse.wheel(0, -400)  # a click makes it the picture's
    page.wait_for_function("document.querySelector('#inliers img').style.transform.includes('scale(2.')")
    page.keyboard.press("Escape")
    page.mouse.wheel(0, 50)
    page.wait_for_function("window.scrollY > 0")


@pytest.mark.phone
def test_a_phone_shows_a_readable_table_and_pinches(page: Page) -> None:
    picture = run_example(page, "Two cameras", "matched")
    expect(page.locator("#verdict")).to_be_in_viewport()
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    expect(page.locator("#figures")).to_contain_text("Time to extract")
    rows = [box(row)["height"] for row in page.locator("#figures tr").all()]
    assert max(rows[1:]) < 60  # a value takes two lines at most, and none is broken within a word
    picture.scroll_into_view_if_needed()
    place = box(picture)
    x, y = place["x"] + place["width"] / 2, place["y"] + place["height"] / 2
    fingers = page.context.new_cdp_session(page)

    def touch(kind: str, *apart: float) -> None:
        points = [{"x": x + side * gap, "y": y, "id": side} for gap in apart for side in (-1, 1)]
        fingers.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})

    touch("touchStart", 20)
    touch("touchMove", 30)
    touch("touchMove", 60)
    touch("touchEnd")
    assert zoom_of(picture) == pytest.approx(3, rel=0.1)
    zoomed = box(picture)
    assert zoomed["x"] + zoomed["width"] / 2 == pytest.approx(x, abs=3)


def test_the_licence_of_other_weights_is_agreed_to_before_they_are_fetched(page: Page, photos: list[Path]) -> None:
    upload(page, photos)
    licence = page.locator("#licence")
    expect(licence).to_be_hidden()
    page.locator("#settings").get_by_label("Model").click()
    page.get_by_role("option", name="vgg_hyper").click()
    expect(licence).to_contain_text("academic, non-commercial")
    page.click("#match")
    expect(page.locator(".toast-body")).to_contain_text("agree to the licence")


def test_a_refused_file_is_a_plain_message_and_the_page_goes_on(page: Page, photos: list[Path], tmp_path: Path) -> None:
    (tmp_path / "text.jpg").write_text("no image")
    upload(page, [photos[0]])
    page.locator("#photo1 input[type=file]").set_input_files(tmp_path / "text.jpg")
    page.wait_for_selector("#photo1 img", state="attached")
    page.click("#match")
    expect(page.locator(".toast-body")).to_contain_text("text.jpg: not a photo that can be read")
    run_example(page, "Two cameras", "matched")
    expect(page.locator("#photo1 img")).to_have_attribute("src", re.compile("motorcycle_right"))
