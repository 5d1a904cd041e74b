"""What several commands share: the model, how it extracts, and where it runs."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ripe.filters import METHODS, MatchFilter
from ripe.two_views import LONG_SIDE

if TYPE_CHECKING:
    import torch

    from ripe import runtime
    from ripe.model import RIPE

PRECISIONS = ("float32", "bfloat16", "float16")
UNRELATED = 3
"""Exit status of what is asked to join photos that have no more in common than chance gives."""


def add_command(commands: Any, name: str, summary: str, examples: str) -> argparse.ArgumentParser:
    """The parser of one command, with examples at the end of its help."""
    return commands.add_parser(
        name,
        description=summary,
        epilog="examples:\n" + examples,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def add_model_options(parser: argparse.ArgumentParser) -> None:
    """--model, --device and --precision."""
    group = parser.add_argument_group("model")
    group.add_argument(
        "--model", default="compact", metavar="NAME|FILE", help="compact, vgg_hyper or a weights file (%(default)s)"
    )
    group.add_argument("--device", help="such as cpu or cuda:1 (a GPU if there is one)")
    group.add_argument("--precision", choices=PRECISIONS, default="float32", help="of the arithmetic (%(default)s)")


def add_backend_option(parser: argparse.ArgumentParser) -> None:
    """--backend."""
    parser.add_argument(
        "--backend",
        choices=("torch", "onnx"),
        default="torch",
        help="onnx: ONNX Runtime on the CPU; --model is compact or a file of ripe export (%(default)s)",
    )


def add_extraction_options(parser: argparse.ArgumentParser) -> None:
    """--max-keypoints, --threshold, --resize, --masks and --max-megapixels."""
    group = parser.add_argument_group("keypoints")
    group.add_argument(
        "--max-keypoints", type=positive, default=2048, metavar="N", help="the best N of an image (%(default)s)"
    )
    group.add_argument("--threshold", type=float, metavar="T", help="least score of a keypoint (the model's own)")
    add_photo_options(group)


def add_photo_options(group: argparse._ActionsContainer) -> None:
    """--resize, --masks and --max-megapixels."""
    group.add_argument(
        "--resize",
        type=long_side,
        default=LONG_SIDE,
        metavar="PX|none",
        help="shrink longer sides to this for the network; none keeps the photo's own size (%(default)s)",
    )
    group.add_argument(
        "--masks",
        type=Path,
        metavar="FOLDER",
        help="keypoints of sub/a.jpg lie only where sub/a.jpg.png, or else sub/a.png, in it is not black",
    )
    add_megapixels_option(group)


def add_matching_options(group: argparse._ActionsContainer) -> None:
    """--method, --ratio and --min-similarity."""
    group.add_argument(
        "--method", choices=METHODS, help="mutual nearest neighbours (mutual), or kornia's FGINN or AdaLAM"
    )
    group.add_argument(
        "--ratio", type=float, metavar="R", help="most of nearest by second nearest distance (none; fginn 0.85)"
    )
    group.add_argument("--min-similarity", type=float, metavar="S", help="least cosine of a match (-1)")


def add_picture_options(parser: argparse.ArgumentParser) -> None:
    """--view and --draw."""
    group = parser.add_argument_group("picture")
    group.add_argument(
        "--view",
        choices=("keypoints", "matches", "inliers", "warp"),
        default="inliers",
        help="what it shows; matches against the geometry are red, warp lays A on B by the homography (%(default)s)",
    )
    group.add_argument(
        "--draw",
        type=count,
        default=200,
        metavar="N",
        help="matches drawn, chosen to cover the photo evenly; 0 for all (%(default)s)",
    )


def add_megapixels_option(group: argparse._ActionsContainer) -> None:
    """--max-megapixels."""
    group.add_argument(
        "--max-megapixels", type=positive, default=200, metavar="N", help="refuse larger photos (%(default)s)"
    )


def positive(text: str) -> int:
    """An argument that is a whole number of 1 or more."""
    return _whole_number(text, least=1)


def count(text: str) -> int:
    """An argument that is a whole number of 0 or more."""
    return _whole_number(text, least=0)


def _whole_number(text: str, least: int) -> int:
    value = int(text)
    if value < least:
        raise argparse.ArgumentTypeError(f"{text} is not {least} or more")
    return value


def long_side(text: str) -> int | None:
    """An argument that is a length in pixels, or none."""
    return None if text == "none" else positive(text)


def load_model(arguments: argparse.Namespace) -> RIPE:
    """The model that --model, --device and --precision ask for."""
    import torch

    from ripe.pretrained import load

    return load(arguments.model, device=device(arguments), dtype=getattr(torch, arguments.precision))


def load_runtime(arguments: argparse.Namespace) -> runtime.Extractor:
    """The file that --model names, for --backend onnx."""
    from ripe.runtime import load

    if arguments.device is not None or arguments.precision != "float32":
        raise ValueError("--backend onnx runs on the CPU in float32: leave out --device and --precision")
    if Path(arguments.model).suffix != ".onnx" and arguments.model != "compact":
        raise ValueError(
            f"--backend onnx runs compact or an ONNX file: ripe export {arguments.model} -o FILE.onnx writes one"
        )
    return load(arguments.model)


def device(arguments: argparse.Namespace) -> torch.device:
    """The device of --device (a GPU if there is one, otherwise the CPU); `ValueError` if it cannot be used."""
    from ripe.pretrained import usable_device

    return usable_device(arguments.device)


def extraction_settings(arguments: argparse.Namespace) -> dict[str, Any]:
    """The keyword arguments of `ripe.extract_many.model_extract` that the options stand for."""
    from ripe.photos import MIN_SIDE

    if arguments.resize is not None and arguments.resize < MIN_SIDE:
        raise ValueError(f"--resize is {arguments.resize}; the longer side needs {MIN_SIDE} pixels or more")
    return {
        "max_keypoints": arguments.max_keypoints,
        "threshold": arguments.threshold,
        "max_side": arguments.resize,
    }


def match_filter(arguments: argparse.Namespace) -> MatchFilter:
    """What --method, --ratio and --min-similarity ask for; mutual nearest neighbours if nothing is said."""
    from ripe.matching import check_installed

    names = ("method", "ratio", "min_similarity")
    given = {name: getattr(arguments, name) for name in names if getattr(arguments, name) is not None}
    how = MatchFilter(**given)
    check_installed(how)  # before hours of extraction
    return how


def add_overwrite_option(parser: argparse._ActionsContainer, what: str) -> None:
    """--overwrite."""
    parser.add_argument("--overwrite", action="store_true", help=f"{what} anew, in place of what is there")
