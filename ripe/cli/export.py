"""`ripe export`: a network as an ONNX file, for what runs without PyTorch."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from ripe.cli import options

EXAMPLES = """  ripe export compact -o compact.onnx
  ripe export lightglue -o lightglue.onnx
  ripe export my_weights.safetensors -o mine.onnx
  ripe extract photos/ -o features.h5 --backend onnx --model mine.onnx

The file takes photos of any size, and finds, chooses and describes the keypoints itself; ripe.export says what goes in
and comes out. Needs: pip install 'ripe-keypoints[export]'. The file of compact comes with the package.
"""


def add_parser(commands: Any) -> None:
    """Declare the command."""
    parser = options.add_command(commands, "export", "Write a network as an ONNX file.", EXAMPLES)
    parser.add_argument(
        "model",
        metavar="NAME|FILE",
        nargs="?",
        default="compact",
        help="compact, vgg_hyper, lightglue or a weights file",
    )
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="ONNX", help="the file, replaced whole")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Carry the command out."""
    from ripe import files

    files.check_writable(arguments.output)
    from ripe.export import export, export_matcher
    from ripe.matchers import is_matcher, load_matcher
    from ripe.pretrained import MODELS, load

    shipped_matcher = arguments.model == "lightglue"
    known = MODELS.get("compact" if shipped_matcher else arguments.model)
    license = "not stated" if known is None else known.license
    if shipped_matcher or is_matcher(Path(arguments.model)):
        name = "lightglue"
        matcher = load_matcher("compact" if shipped_matcher else arguments.model, device="cpu")
        export_matcher(matcher, arguments.output, license=license)
    else:
        model = load(arguments.model, device="cpu")
        name = model.name
        export(model, arguments.output, license=license)
    print(f"{name} in {arguments.output}, {arguments.output.stat().st_size / 1e6:.1f} MB")
    return 0
