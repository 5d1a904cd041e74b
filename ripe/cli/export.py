"""`ripe export`: a network as an ONNX file, for what runs without PyTorch."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from ripe.cli import options

EXAMPLES = """  ripe export compact -o compact.onnx
  ripe export lightglue -o lightglue.onnx
  ripe export my_weights.safetensors -o mine.onnx
  ripe export compact -o compact_half.onnx --float16
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
    reduced = parser.add_mutually_exclusive_group()
    reduced.add_argument(
        "--float16",
        action="store_true",
        help="the network's stages in half precision, for GPUs and phones; what comes out stays in float32",
    )
    reduced.add_argument(
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
        if arguments.int8 is not None or arguments.float16:
            raise ValueError("a matcher is exported in float32: leave out --int8 and --float16")
        name = "lightglue"
        matcher = load_matcher("compact" if shipped_matcher else arguments.model, device="cpu")
        export_matcher(matcher, arguments.output, license=license)
    else:
        model = load(arguments.model, device="cpu")
        name = model.name
        with TemporaryDirectory() as folder:
            reduces = arguments.float16 or arguments.int8 is not None
            whole = Path(folder) / "float32.onnx" if reduces else arguments.output
            photos = _calibration(arguments.int8)
            export(model, whole, license=license)
            _reduce(whole, arguments, photos)
    print(f"{name} in {arguments.output}, {arguments.output.stat().st_size / 1e6:.1f} MB")
    return 0


def _calibration(folder: Path | None) -> list[Path]:
    """The photos that eight bits are calibrated by; none where there is no folder of them."""
    from ripe.folders import photos_below

    photos = [] if folder is None else [folder / name for name in photos_below(folder)]
    if folder is not None and not photos:
        raise ValueError(f"{folder}: holds no photos to calibrate by")
    return photos


def _reduce(whole: Path, arguments: argparse.Namespace, photos: Sequence[Path]) -> None:
    """Write the float32 file `whole` anew in half precision or eight bits, where that is asked for."""
    from ripe.halving import halve
    from ripe.quantisation import quantise

    if arguments.float16:
        halve(whole, arguments.output)
    elif photos:
        quantise(whole, arguments.output, photos)
