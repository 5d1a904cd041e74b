"""The documentation as a reader uses it: what the copy button gives, and pages that fit a telephone."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page

DOCS = Path(__file__).parents[1] / "docs"
ADDRESSES = sorted(path.relative_to(DOCS).with_suffix("").as_posix() for path in DOCS.rglob("*.md"))


@pytest.fixture
def reader(browser: Browser, site: str) -> Iterator[Page]:
    """A page that may use the clipboard; no request may go anywhere but to the site."""
    context = browser.new_context(base_url=site, viewport={"width": 390, "height": 844})
    context.grant_permissions(["clipboard-read", "clipboard-write"])
    page = context.new_page()
    elsewhere: list[str] = []
    page.on("request", lambda request: None if request.url.startswith((site, "data:", "blob:"))
            else elsewhere.append(request.url))  # fmt: skip
    yield page
    context.close()
    assert elsewhere == []


def open_page(reader: Page, name: str) -> None:
    reader.goto("/" if name == "index" else f"/{name}/")


def test_the_copy_button_leaves_prompts_out(reader: Page) -> None:
    open_page(reader, "training")
    prompts = 0
    for block in reader.locator(".highlight").all():
        button = block.locator("button[data-clipboard-target]")
        button.scroll_into_view_if_needed()
        button.click()
        copied = reader.evaluate("navigator.clipboard.readText()")
        lines = block.locator("code").inner_text().rstrip().splitlines()
        prompts += sum(line.startswith("$ ") for line in lines)
        assert copied.splitlines() == [line.removeprefix("$ ") for line in lines]
    assert prompts > 10


def test_selected_commands_are_copied_without_prompts(reader: Page) -> None:
    open_page(reader, "start")
    code = reader.locator(".highlight code", has=reader.locator(".gp")).first
    assert code.inner_text().startswith("$ pip")
    code.evaluate("code => getSelection().selectAllChildren(code)")
    reader.keyboard.press("Control+c")
    assert reader.evaluate("navigator.clipboard.readText()").startswith("pip")


@pytest.mark.parametrize("name", ADDRESSES)
def test_a_page_fits_a_telephone_and_its_pictures_are_there_and_described(reader: Page, name: str) -> None:
    open_page(reader, name)
    assert reader.evaluate("document.documentElement.scrollWidth") <= 390
    for picture in reader.locator("article img").all():
        assert len(picture.get_attribute("alt") or "") > 20
        picture.scroll_into_view_if_needed()
        assert picture.evaluate("image => image.decode().then(() => image.naturalWidth)") > 0
