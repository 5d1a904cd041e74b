"""A running demo with the shipped weights, the built documentation, and Chromium to look at them."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

import ripe

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
ROOT = Path(__file__).parents[1]
ASSETS = Path(ripe.__file__).parent / "assets"


@pytest.fixture(scope="session")
def photos() -> list[Path]:
    """The two bundled photos."""
    return [ASSETS / "motorcycle_left.jpg", ASSETS / "motorcycle_right.jpg"]


@pytest.fixture(scope="session")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Where `app.py` serves the demo."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    app = ROOT / "app.py"
    folders = {name: str(tmp_path_factory.mktemp(name)) for name in ("TMPDIR", "RIPE_CACHE")}
    command = [sys.executable, str(app), "--port", str(port)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={**os.environ, **folders}) as server:
        try:
            assert server.stdout is not None
            yield server.stdout.readline().split()[1]
        finally:
            server.send_signal(signal.SIGTERM)


class QuietHandler(SimpleHTTPRequestHandler):
    """Serves files without a line for each."""

    def log_message(self, *words: object) -> None:
        pass


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Where the documentation is served, just built; a browser lets pages of this computer use the clipboard."""
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)]
    subprocess.run(command, cwd=ROOT, check=True, env={**os.environ, "NO_MKDOCS_2_WARNING": "1"})
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(QuietHandler, directory=folder)) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """Chromium; Playwright's own download is not needed."""
    assert CHROMIUM is not None, "no Chromium found; on Debian: apt-get install chromium"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def page(browser: Browser, address: str, request: pytest.FixtureRequest) -> Iterator[Page]:
    """The demo's page, just opened; no request may go anywhere else. The marker `phone` makes it one of a phone."""
    is_phone = request.node.get_closest_marker("phone") is not None
    size = {"width": 390, "height": 844} if is_phone else {"width": 1280, "height": 900}
    page = browser.new_page(viewport=size, has_touch=is_phone, is_mobile=is_phone)
    page.set_default_timeout(180_000)
    elsewhere: list[str] = []
    page.on("request", lambda request: None if request.url.startswith((address, "data:", "blob:"))
            else elsewhere.append(request.url))  # fmt: skip
    page.goto(address)
    page.wait_for_selector("#match")
    yield page
    page.close()
    assert elsewhere == []
