"""Try the installed package: `python smoke.py SOURCE`, outside the checkout, where no optional package is installed."""

import contextlib
import io
import sys
from importlib.util import find_spec
from pathlib import Path

import ripe
from ripe.cli import COMMANDS, main

OPTIONAL = ("gradio", "hydra", "kornia", "lightning_fabric", "matplotlib", "pycolmap", "pytest")


def shown(*words: str) -> str:
    """What a command prints; it must succeed."""
    with contextlib.redirect_stdout(io.StringIO()) as output:
        assert main(words) == 0, words
    return output.getvalue()


def check(source: Path) -> None:
    """Compare with the files of the source, then use it."""
    installed = Path(ripe.__file__).parent
    assert installed != source
    assert "site-packages" in installed.parts
    assert not [name for name in OPTIONAL if find_spec(name)]
    files = [
        path.relative_to(source) for path in source.rglob("*") if path.is_file() and "__pycache__" not in path.parts
    ]
    missing = [str(path) for path in files if not (installed / path).is_file()]
    assert not missing, missing

    photos = [str(installed / "assets" / f"motorcycle_{side}.jpg") for side in ("left", "right")]
    figures = dict(line.split(maxsplit=1) for line in shown("match", *photos, "-o", "matches.png").splitlines())
    assert int(figures["inliers"].split()[0]) > 100
    shown("extract", *photos, "-o", "features.h5")
    assert ripe.__version__ in shown("info")
    for command in COMMANDS:
        with contextlib.suppress(SystemExit):
            shown(command, "--help")


if __name__ == "__main__":
    check(Path(sys.argv[1]))
