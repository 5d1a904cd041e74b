"""The README does what it says."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from ripe.pretrained import build

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)


def run(code: str, folder: Path, photos: list[Path]) -> str:
    for photo, name in zip(photos, ("left.jpg", "right.jpg"), strict=True):
        shutil.copy(photo, folder / name)
    return subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, check=True).stdout


def test_the_first_example_runs_with_the_shipped_weights(tmp_path: Path, photos: list[Path]) -> None:
    verdict, *figures = run(blocks("python")[0], tmp_path, photos).split()
    keypoints0, keypoints1, matches, inliers = map(int, figures)
    assert verdict == "matched"
    assert min(keypoints0, keypoints1) >= matches >= inliers > 100


def test_the_demo_prints_figures_and_writes_the_picture(tmp_path: Path) -> None:
    demo = [sys.executable, str(ROOT / "demo.py")]
    shown = subprocess.run(demo, cwd=tmp_path, capture_output=True, text=True, check=True).stdout
    figures = dict(line.split(maxsplit=1) for line in shown.splitlines())
    assert list(figures) == ["keypoints", "matches", "inliers", "verdict", "time", "drawn", "picture"]
    assert int(figures["inliers"].split()[0]) > 100
    assert figures["verdict"] == "matched"
    assert (tmp_path / figures["picture"]).stat().st_size > 10_000


@pytest.mark.slow
def test_the_published_example_runs(tmp_path: Path, photos: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """As it stands, with random weights where the released ones belong."""
    pytest.importorskip("kornia")
    monkeypatch.setenv("RIPE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("MPLBACKEND", "agg")
    (tmp_path / "cache").mkdir()
    state = build("vgg_hyper").state_dict()
    state["net.decoder.layers.1.out_conv.bias"][0] += 100  # random scores do not exceed the example's threshold
    torch.save(state, tmp_path / "cache" / "ripe_weights.pth")
    run(blocks("python")[1], tmp_path, photos)
    assert (tmp_path / "matches.png").stat().st_size > 10_000
