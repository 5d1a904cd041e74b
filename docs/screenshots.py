"""Take the pictures of the web demo that the documentation shows: `python docs/screenshots.py` (needs Chromium)."""

import io
import shutil
import subprocess
import sys
from pathlib import Path

from PIL import Image
from playwright.sync_api import sync_playwright

ROOT = Path(__file__).parents[1]
IMAGES = ROOT / "docs" / "images"
PORT = "7871"
WIDTH = 1100
QUALITY = 78
PATIENCE = 180_000  # milliseconds


def save(picture: bytes, name: str) -> None:
    """Save as JPEG, shrunk to the width of a page."""
    with Image.open(io.BytesIO(picture)) as image:
        height = round(image.height * WIDTH / image.width)
        image.convert("RGB").resize((WIDTH, height), Image.Resampling.LANCZOS).save(IMAGES / name, quality=QUALITY)


def take(address: str) -> None:
    """Match the bundled photos and take the pictures."""
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1280, "height": 900})
        page.set_default_timeout(PATIENCE)
        page.goto(address)
        page.locator("#keypoint-limit input[type=number]").fill("512")  # fewer lines show more of the photos
        page.locator("#examples button").first.click()
        page.wait_for_selector("#verdict .matched")
        page.wait_for_selector("#inliers img")
        save(page.screenshot(), "demo.jpg")
        for view, name in (("Matches", "all-matches.jpg"), ("Inliers", "inliers.jpg")):
            page.get_by_role("tab", name=view, exact=True).click()
            save(page.request.get(page.locator(f"#{view.lower()} img").get_attribute("src")).body(), name)
        browser.close()


if __name__ == "__main__":
    IMAGES.mkdir(exist_ok=True)
    command = [sys.executable, str(ROOT / "app.py"), "--port", PORT, "--model", "compact"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        try:
            take(server.stdout.readline().split()[1])
        finally:
            server.terminate()
