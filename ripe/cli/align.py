"""`ripe align`: a photo in the frame of another, by itself or laid over it."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ripe.cli import options
from ripe.cli.progress import stage_line
from ripe.two_views import LONG_SIDE

if TYPE_CHECKING:
    import numpy as np

    from ripe.alignment import Alignment

EXAMPLES = """  ripe align left.jpg right.jpg -o warped.png
  ripe align left.jpg right.jpg -o blend.jpg --view blend
  ripe align left.jpg right.jpg -o flicker.gif --view flicker --mask mask.png

B is warped into A's frame by a homography, at full resolution: right for flat scenes and for cameras that have turned
but hardly moved. Where the matches agree no better than by chance, nothing is written and the exit status is 3; a
doubtful pair is aligned with a warning.
"""
VIEWS = ("warped", "blend", "checker", "flicker")


def add_parser(commands: Any) -> None:
    """Declare the command."""
    parser = options.add_command(commands, "align", "Warp one photo into the frame of another.", EXAMPLES)
    parser.add_argument("image0", metavar="A", type=Path, help="photo whose frame is taken")
    parser.add_argument("image1", metavar="B", type=Path, help="photo that is warped")
    parser.add_argument("-o", "--output", type=Path, metavar="PICTURE", required=True, help="picture to write")
    parser.add_argument(
        "--view",
        choices=VIEWS,
        help="B alone, the mean of both, a chequered change, or a GIF that shows them in turn (by the ending)",
    )
    parser.add_argument("--mask", type=Path, metavar="PNG", help="where B shows something: 255, elsewhere 0")
    options.add_model_options(parser)
    group = parser.add_argument_group("keypoints")
    group.add_argument(
        "--max-keypoints", type=options.positive, default=2048, metavar="N", help="the best N of an image (%(default)s)"
    )
    group.add_argument(
        "--resize",
        type=options.positive,
        default=LONG_SIDE,
        metavar="LONG_SIDE",
        help="longer side in pixels that the network sees of larger photos (%(default)s)",
    )
    group.add_argument(
        "--inlier-threshold",
        type=options.above_zero,
        default=2.0,
        metavar="PX",
        help="in pixels of B as the network sees it (%(default)s)",
    )
    options.add_scales_option(group, automatic=True)
    options.add_rotations_option(group)
    options.add_megapixels_option(group)
    parser.set_defaults(run=run, refuse=parser.error)


def run(arguments: argparse.Namespace) -> int:
    """Carry the command out; 3 if the photos have nothing in common."""
    from ripe import drawing, files
    from ripe.alignment import align
    from ripe.geometry.verdict import UnrelatedPhotosError
    from ripe.images import as_planes

    is_gif = arguments.output.suffix.lower() == ".gif"
    view = arguments.view or ("flicker" if is_gif else "warped")
    if (view == "flicker") != is_gif:
        arguments.refuse("--view flicker and an output that ends in .gif belong together")
    for path in filter(None, (arguments.output, arguments.mask)):
        drawing.picture_format(path)
        files.check_writable(path)
    with stage_line("align") as begin:
        begin("read")
        paths = arguments.image0, arguments.image1
        images = [as_planes(path, max_megapixels=arguments.max_megapixels) for path in paths]
        begin("load")
        model = options.load_model(arguments)
        begin("extract, match and warp")
        try:
            aligned = align(
                *images,
                model=model,
                max_keypoints=arguments.max_keypoints,
                long_side=arguments.resize,
                max_error=arguments.inlier_threshold,
                rotations=arguments.rotations,
                scales=arguments.scales,
            )
        except UnrelatedPhotosError as error:
            begin("")
            print(f"ripe: {error}", file=sys.stderr)
            return options.UNRELATED
        begin("draw")
        _save(view, drawing.picture_of(images[0]), aligned, arguments.output)
    _report(aligned)
    print(f"picture    {arguments.output}")
    if arguments.mask is not None:
        drawing.save_picture(aligned.valid * drawing.WHITE, arguments.mask)
        print(f"mask       {arguments.mask}")
    return 0


def _report(aligned: Alignment) -> None:
    matches = len(aligned.geometry.inliers)
    print(f"inliers    {aligned.geometry.num_inliers} of {matches} matches ({aligned.verdict.inlier_share:.0%})")
    print(f"verdict    {aligned.verdict}")
    print(f"covered    {aligned.valid.mean():.0%} of A")
    if not aligned.verdict:
        print("ripe: warning: doubtful: chance gives nearly as many inliers; look at the picture", file=sys.stderr)


def _save(view: str, ground: np.ndarray, aligned: Alignment, path: Path) -> None:
    from ripe import drawing

    if view == "flicker":
        drawing.save_flicker((ground, aligned.warped), path)
    elif view == "blend":
        drawing.save_picture(drawing.blend(ground, aligned.warped, aligned.valid), path)
    elif view == "checker":
        drawing.save_picture(drawing.checker(ground, aligned.warped, aligned.valid), path)
    else:
        drawing.save_picture(aligned.warped, path)
