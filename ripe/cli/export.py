"""`ripe export`: a network as an ONNX file, for what runs without PyTorch."""

from __future__ import annotations

import argparse
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from ripe.cli import options

if TYPE_CHECKING:
    from ripe.model import RIPE

EXAMPLES = """  ripe export compact -o compact.onnx
  ripe export lightglue -o lightglue.onnx
  ripe export my_weights.safetensors -o mine.onnx
  ripe export compact -o compact_int8.onnx --int8 photos/
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
        help="compact, robust, vgg_hyper, lightglue or a weights file",
    )
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="ONNX", help="the file, replaced whole")
    parser.add_argument(
        "--int8",
        type=Path,
        metavar="FOLDER",
        help="convolutions of compact in eight bits, for processors with VNNI or ARM's dot product; the ranges of "
        "numbers are those that 200 photos in it show",
    )
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
        if arguments.int8 is not None:
            raise ValueError("a matcher is exported in float32: leave out --int8")
        name = "lightglue"
        matcher = load_matcher("compact" if shipped_matcher else arguments.model, device="cpu")
        export_matcher(matcher, arguments.output, license=license)
    else:
        model = load(arguments.model, device="cpu")
        name = model.name
        if arguments.int8 is None:
            export(model, arguments.output, license=license)
        else:
            _export_int8(model, license, arguments)
    print(f"{name} in {arguments.output}, {arguments.output.stat().st_size / 1e6:.1f} MB")
    return 0


def _export_int8(model: RIPE, license: str, arguments: argparse.Namespace) -> None:
    """Export by way of a float32 file."""
    from ripe.export import export
    from ripe.folders import photos_below
    from ripe.quantisation import quantise

    photos = [arguments.int8 / name for name in photos_below(arguments.int8)]
    if not photos:
        raise ValueError(f"{arguments.int8}: holds no photos to calibrate by")
    with TemporaryDirectory() as folder:
        whole = Path(folder) / "float32.onnx"
        export(model, whole, license=license)
        quantise(whole, arguments.output, photos)
