"""What several commands share: the model, how it extracts, and where it runs."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

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


def add_extraction_options(parser: argparse.ArgumentParser) -> None:
    """--max-keypoints, --threshold and --resize."""
    group = parser.add_argument_group("keypoints")
    group.add_argument(
        "--max-keypoints", type=positive, default=2048, metavar="N", help="the best N of an image (%(default)s)"
    )
    group.add_argument("--threshold", type=float, metavar="T", help="least score of a keypoint (the model's own)")
    group.add_argument(
        "--resize", type=positive, metavar="LONG_SIDE", help="longer side in pixels that the network sees (as it is)"
    )
    add_megapixels_option(group)


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


def load_model(arguments: argparse.Namespace) -> RIPE:
    """The model that --model, --device and --precision ask for."""
    import torch

    from ripe.pretrained import load

    return load(arguments.model, device=device(arguments), dtype=getattr(torch, arguments.precision))


def device(arguments: argparse.Namespace) -> torch.device:
    """The device of --device (a GPU if there is one, otherwise the CPU); `ValueError` if it cannot be used."""
    from ripe.pretrained import usable_device

    return usable_device(arguments.device)


def extraction_settings(arguments: argparse.Namespace) -> dict[str, Any]:
    """The keyword arguments of `RIPE.extract` that the options stand for."""
    return {
        "max_keypoints": arguments.max_keypoints,
        "threshold": arguments.threshold,
        "resize": arguments.resize,
    }
