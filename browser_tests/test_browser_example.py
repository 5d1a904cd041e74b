"""The browser example matches what the user chooses as `ripe.runtime` does."""

import shutil
import subprocess
import threading
from collections.abc import Iterator
from functools import partial
from http.server import ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT, QuietHandler
from PIL import Image
from playwright.sync_api import Browser, Page, expect

from ripe import runtime

EXAMPLE = ROOT / "examples" / "browser"
PACKAGES = ROOT / ".venv" / "browser_example"  # kept, as the package is large


@pytest.fixture(scope="module")
def example(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Where the example's page is served, with onnxruntime-web from npm beside it."""
    if shutil.which("npm") is None:
        pytest.skip("npm is not installed (Debian: apt-get install npm)")
    PACKAGES.mkdir(parents=True, exist_ok=True)
    wanted = (EXAMPLE / "package.json").read_text()
    installed = PACKAGES / "package.json"
    if not installed.is_file() or installed.read_text() != wanted:
        shutil.copy(EXAMPLE / "package.json", installed)
        command = ["npm", "install", "--silent", "--no-audit", "--no-fund", "--ignore-scripts"]
        if subprocess.run(command, cwd=PACKAGES).returncode:
            installed.unlink()
            pytest.skip("npm cannot install onnxruntime-web")
    root = tmp_path_factory.mktemp("served")
    (root / "ripe").symlink_to(ROOT / "ripe")
    shutil.copytree(EXAMPLE, root / "examples" / "browser", ignore=shutil.ignore_patterns("node_modules"))
    (root / "examples" / "browser" / "node_modules").symlink_to(PACKAGES / "node_modules")
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(QuietHandler, directory=root)) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.fixture(scope="module")
def page(browser: Browser, example: str) -> Iterator[Page]:
    """The example's page; it may ask nobody else for anything, and no error may be left in its console."""
    page = browser.new_page(viewport={"width": 1280, "height": 800})
    page.set_default_timeout(180_000)
    wrong: list[str] = []
    page.on("request", lambda request: None if request.url.startswith((example, "data:", "blob:"))
            else wrong.append(request.url))  # fmt: skip
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.goto(f"{example}/examples/browser/")
    expect(page.locator("#save")).to_be_visible(timeout=180_000)  # the bundled photos are matched
    yield page
    page.close()
    assert wrong == []


def saved(page: Page) -> np.ndarray:
    """The matches of the file that the page offers, one a row."""
    with page.expect_download() as download:
        page.click("#save")
    return np.loadtxt(download.value.path(), delimiter=",", skiprows=1, ndmin=2)


def test_chosen_photos_are_matched_as_the_runtime_does(page: Page, photos: list[Path], tmp_path: Path) -> None:
    """Lossless copies, so that both see the same pixels; of two sizes."""
    paths = [tmp_path / "left.png", tmp_path / "right.png"]
    for source, path, box in zip(photos, paths, ((100, 60, 500, 360), (60, 40, 520, 370)), strict=True):
        with Image.open(source) as image:
            image.crop(box).save(path)
    features = runtime.load().extract(paths)
    matches = runtime.match(*features)
    expected = np.hstack([*matches.points(*features), matches.scores[:, None]])

    assert f"of {len(saved(page))} matches have" in page.inner_text("#status")
    for name, path in zip(("first", "second"), paths, strict=True):
        page.set_input_files(f"#{name}", path)
    page.click("#match")
    expect(page.locator("#match")).to_be_enabled(timeout=180_000)
    found = saved(page)
    assert abs(len(found) - len(expected)) <= 0.01 * len(expected)
    distances = np.abs(found[:, None, :4] - expected[None, :, :4]).max(axis=2)
    near = distances.min(axis=1) < 0.05
    assert near.mean() > 0.99
    np.testing.assert_allclose(found[near, 4], expected[distances.argmin(axis=1)[near], 4], atol=0.001)

    page.locator("#similarity").fill("0.95")
    shown = int(page.inner_text("#status").split()[0])
    assert abs(shown - (expected[:, 4] >= 0.95).sum()) <= 0.02 * len(expected)


def test_what_is_no_photo_is_said(page: Page, tmp_path: Path) -> None:
    status = page.locator("#status")
    (tmp_path / "text.png").write_text("no photo")
    Image.new("RGB", (120, 100), (90, 90, 90)).save(tmp_path / "blank.png")
    page.set_input_files("#second", tmp_path / "blank.png")
    page.set_input_files("#first", tmp_path / "text.png")
    page.click("#match")
    expect(status).to_have_text("A file is not a photo that this browser can read.", timeout=60_000)
    Image.new("RGB", (40, 9)).save(tmp_path / "small.png")
    page.set_input_files("#first", tmp_path / "small.png")
    page.click("#match")
    expect(status).to_have_text("A photo needs 16 pixels or more on each side.", timeout=60_000)
    page.set_input_files("#first", tmp_path / "blank.png")
    page.click("#match")
    expect(status).to_have_text("No matches", timeout=180_000)
