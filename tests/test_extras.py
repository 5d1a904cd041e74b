"""Without an optional package, what needs it says in one line what to install, and the rest works."""

import subprocess
import sys
import tomllib
from pathlib import Path

import torch
from made_sets import write_annotated

EXTRAS = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]["optional-dependencies"]


def run_without(packages: str, *words: object) -> subprocess.CompletedProcess[str]:
    """The command in a Python that cannot import some packages, separated by commas."""
    code = (
        "import sys; sys.modules.update(dict.fromkeys(sys.argv[1].split(',')));"
        "from ripe.cli import main; sys.exit(main(sys.argv[2:]))"
    )
    command = [sys.executable, "-c", code, packages, *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True)


def test_each_named_extra_exists() -> None:
    assert any(requirement.startswith("pycolmap") for requirement in EXTRAS["colmap"])
    assert {requirement.partition(">")[0] for requirement in EXTRAS["eval"]} == {"kornia", "matplotlib"}


def test_learned_baselines_need_kornia(tmp_path: Path) -> None:
    write_annotated(tmp_path / "pairs")
    torch.save({}, tmp_path / "disk.pth")
    words = [
        "eval",
        "pairs",
        tmp_path / "pairs",
        "--model",
        "none",
        "--baseline",
        f"disk={tmp_path / 'disk.pth'}",
        "-o",
        tmp_path / "out",
    ]
    result = run_without("kornia", *words)
    assert result.returncode == 1
    assert result.stderr.startswith("ripe: error: disk needs a recent kornia: pip install 'ripe-keypoints[eval]'")
    assert result.stderr.count("\n") == 1


def test_evaluation_goes_on_without_plots(tmp_path: Path) -> None:
    write_annotated(tmp_path / "pairs")
    words = [
        "eval",
        "pairs",
        tmp_path / "pairs",
        "--model",
        "none",
        "--baseline",
        "orb",
        "--repeats",
        "1",
        "--gallery",
        "0",
    ]
    result = run_without("matplotlib", *words, "-o", tmp_path / "out")
    assert result.returncode == 0
    assert "ripe: no plots; they need: pip install 'ripe-keypoints[eval]'" in result.stderr
    written = {path.name for path in (tmp_path / "out").iterdir()}
    assert written == {"homography", "pairs.csv", "pose", "report.md", "results.json"}


def test_the_core_needs_none_of_them(photos: list[Path], tmp_path: Path) -> None:
    result = run_without(
        "kornia,matplotlib,pycolmap,hydra,gradio,lightning", "match", *photos, "--json", tmp_path / "matches.json"
    )
    assert result.returncode == 0, result.stderr
