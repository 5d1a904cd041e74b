"""What several commands share: the model, how it extracts, and where it runs."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ripe.filters import METHODS, MatchFilter
from ripe.resizing import ONE_SCALE, check_scales
from ripe.two_views import LONG_SIDE, ROTATIONS

if TYPE_CHECKING:
    import torch

    from ripe import runtime
    from ripe.model import RIPE
    from ripe.scale.engines import Engine

NAMED = 20
"""Of so many photos or pairs of a long list it is said why they were left out; of more, how many more there are."""
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
        "--model",
        default="compact",
        metavar="NAME|FILE",
        help="compact, robust, vgg_hyper or a weights file (%(default)s)",
    )
    group.add_argument("--device", help="such as cpu or cuda:1 (a GPU if there is one)")
    group.add_argument("--precision", choices=PRECISIONS, default="float32", help="of the arithmetic (%(default)s)")


def add_backend_option(parser: argparse.ArgumentParser) -> None:
    """--backend."""
    parser.add_argument(
        "--backend",
        choices=("torch", "onnx"),
        default="torch",
        help="onnx: ONNX Runtime on the CPU, at one scale and without turns; --model is compact or a file of ripe "
        "export (%(default)s)",
    )


def add_extraction_options(
    parser: argparse.ArgumentParser, *, automatic_scales: bool = False
) -> argparse._ArgumentGroup:
    """--max-keypoints, --threshold, --scales, --resize, --masks and --max-megapixels; their group is returned."""
    group = parser.add_argument_group("keypoints")
    group.add_argument(
        "--max-keypoints", type=positive, default=2048, metavar="N", help="the best N of an image (%(default)s)"
    )
    group.add_argument("--threshold", type=float, metavar="T", help="least score of a keypoint (the model's own)")
    add_scales_option(group, automatic=automatic_scales)
    add_photo_options(group)
    return group


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
    """--matcher, --ratio, --min-similarity and --min-score."""
    group.add_argument(
        "--matcher",
        "--method",
        dest="method",
        metavar="NAME",
        help="mutual (nearest neighbours), kornia's fginn or adalam, lightglue, or the weights file of a LightGlue",
    )
    group.add_argument(
        "--ratio", type=float, metavar="R", help="most of nearest by second nearest distance (none; fginn 0.85)"
    )
    group.add_argument("--min-similarity", type=float, metavar="S", help="least cosine of a match (-1)")
    group.add_argument("--min-score", type=float, metavar="P", help="least probability of a match of lightglue (0.1)")


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


def add_scales_option(group: argparse._ActionsContainer, *, automatic: bool = False) -> None:
    """--scales: one unless said otherwise; None, which stands for several where one is not enough, if automatic."""
    where = "auto: 1, and 1,0.5,0.25 where that is no better than chance" if automatic else "1, the photo alone"
    group.add_argument(
        "--scales",
        type=_scales_or_auto if automatic else _scales,
        default=None if automatic else ONE_SCALE,
        metavar="auto|S,S" if automatic else "S,S",
        help=f"factors of its size at which a photo is seen, such as 1,0.5,0.25 ({where})",
    )


def add_rotations_option(group: argparse._ActionsContainer) -> None:
    """--rotations."""
    group.add_argument(
        "--rotations",
        choices=ROTATIONS,
        default="auto",
        help="match the first photo in quarter turns, too: where it is no better than chance otherwise and where its "
        "matches show that it is turned, always, or never (%(default)s)",
    )


def add_pairing_options(group: argparse._ActionsContainer) -> None:
    """--neighbours and --max-distance."""
    group.add_argument(
        "--neighbours",
        type=positive,
        default=20,
        metavar="N",
        help="partners that a photo chooses by each method but exhaustive (%(default)s)",
    )
    group.add_argument(
        "--max-distance",
        type=above_zero,
        default=100.0,
        metavar="M",
        help="of spatial pairs, in metres (%(default)g)",
    )


def add_megapixels_option(group: argparse._ActionsContainer) -> None:
    """--max-megapixels."""
    group.add_argument(
        "--max-megapixels", type=positive, default=200, metavar="N", help="refuse larger photos (%(default)s)"
    )


def add_memory_option(group: argparse._ActionsContainer) -> None:
    """--max-memory."""
    group.add_argument(
        "--max-memory",
        type=memory,
        metavar="2G",
        help="most memory of the process: photos one at a time, large ones in parts, with the same result (no limit)",
    )


def memory(text: str) -> int:
    """An argument that is an amount of memory, in bytes."""
    from ripe.ceiling import parse_bytes

    try:
        return parse_bytes(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def add_engine_options(group: argparse._ActionsContainer) -> None:
    """--engine and --workers."""
    group.add_argument(
        "--engine",
        choices=("local", "ray"),
        default="local",
        help="ray: on all cores, or on the cluster that RAY_ADDRESS names; the output is a table (%(default)s)",
    )
    group.add_argument(
        "--workers", type=positive, metavar="N", help="processes of ray that hold a model (one for each GPU or core)"
    )


def engine(arguments: argparse.Namespace) -> Engine:
    """What runs the blocks of a table."""
    from ripe.scale.engines import in_process, on_ray

    if arguments.engine == "local":
        return in_process
    return on_ray(arguments.workers, gpu=not (arguments.device or "cuda").startswith("cpu"))


def address(text: str) -> Path | str:
    """An argument that is a path, or a URL such as s3://bucket/photos, which stays as it is."""
    return text if "://" in text else Path(text)


def is_table(arguments: argparse.Namespace) -> bool:
    """Whether a table is written: to an address, or by Ray."""
    return arguments.engine == "ray" or isinstance(arguments.output, str)


def above_zero(text: str) -> float:
    """An argument that is a finite number above 0."""
    value = float(text)
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} is not above 0")
    return value


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


def _scales_or_auto(text: str) -> tuple[float, ...] | None:
    """An argument that is scales, or auto."""
    return None if text == "auto" else _scales(text)


def _scales(text: str) -> tuple[float, ...]:
    """An argument that is scales with commas between them."""
    try:
        return check_scales(text.split(","))
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def long_side(text: str) -> int | None:
    """An argument that is a length in pixels, or none."""
    return None if text == "none" else positive(text)


def camera_numbers(text: str) -> tuple[float, ...]:
    """An argument that is one number, or four with commas between them."""
    numbers = tuple(float(part) for part in text.split(","))
    if len(numbers) not in (1, 4):
        raise argparse.ArgumentTypeError(f"{text} is neither F (pixels) nor FX,FY,CX,CY")
    return numbers


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
    if (arguments.scales or ONE_SCALE) != ONE_SCALE or getattr(arguments, "rotations", "auto") == "all":
        raise ValueError("--backend onnx sees photos at one scale and upright: leave out --scales and --rotations")
    if getattr(arguments, "max_memory", None) is not None:
        raise ValueError("--backend onnx sees photos as a whole: leave out --max-memory, or shrink them (--resize)")
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
    from ripe.photos import check_long_side

    check_long_side(arguments.resize)  # before anything is loaded
    return {
        "max_keypoints": arguments.max_keypoints,
        "threshold": arguments.threshold,
        "max_side": arguments.resize,
        "scales": arguments.scales,
    }


def match_filter(arguments: argparse.Namespace) -> MatchFilter:
    """What `add_matching_options` asks for; mutual nearest neighbours if nothing is said."""
    from ripe.matching import check_usable

    names = ("method", "ratio", "min_similarity", "min_score")
    given = {name: getattr(arguments, name) for name in names if getattr(arguments, name) is not None}
    method = given.get("method", "mutual")
    if method not in METHODS:
        if not Path(method).suffix:
            raise ValueError(f"--matcher {method}: give one of {', '.join(METHODS)}, or a weights file")
        given |= {"method": "lightglue", "matcher": method}
    how = MatchFilter(**given)
    check_usable(how)  # before hours of extraction
    return how


def add_overwrite_option(parser: argparse._ActionsContainer, what: str) -> None:
    """--overwrite."""
    parser.add_argument("--overwrite", action="store_true", help=f"{what} anew, in place of what is there")
