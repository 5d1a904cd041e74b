"""`ripe stitch`: overlapping photos in, a panorama out."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from ripe.cli import options
from ripe.cli.progress import progress_bar
from ripe.two_views import LONG_SIDE

EXAMPLES = """  ripe stitch photos/ -o pano.jpg
  ripe stitch left.jpg middle.jpg right.jpg -o pano.png --long-side 3000

The photos, in any order, are to be taken from one place by a camera that turns. Those that do not belong to the others
are left out and named; the exit status is 3 if no two belong together, and 1 if a photo could not be read.
"""


def add_parser(commands: Any) -> None:
    """Declare the command."""
    parser = options.add_command(commands, "stitch", "Join overlapping photos into a panorama.", EXAMPLES)
    parser.add_argument("inputs", metavar="FOLDER|FILE", nargs="+", type=Path, help="a folder of photos, or photos")
    parser.add_argument("-o", "--output", type=Path, metavar="PICTURE", required=True, help="panorama to write")
    parser.add_argument(
        "--long-side",
        type=options.positive,
        default=LONG_SIDE,
        metavar="PX",
        help="to which larger photos are shrunk, for features and picture (%(default)s)",
    )
    options.add_model_options(parser)
    group = parser.add_argument_group("keypoints")
    group.add_argument(
        "--max-keypoints", type=options.positive, default=2048, metavar="N", help="the best N of an image (%(default)s)"
    )
    options.add_megapixels_option(group)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Carry the command out; 1 if a photo could not be read, 3 if no two belong together."""
    from ripe import drawing, files
    from ripe.cli.extract import name_images
    from ripe.geometry.verdict import UnrelatedPhotosError
    from ripe.stitching import stitch

    drawing.picture_format(arguments.output)
    files.check_writable(arguments.output)
    named = name_images(arguments.inputs)
    names = list(named)
    model = options.load_model(arguments)
    try:
        with progress_bar("stitch", len(names) * (len(names) + 1) // 2, unit="step", leave=False) as progress:
            panorama = stitch(
                list(named.values()),
                model=model,
                max_keypoints=arguments.max_keypoints,
                long_side=arguments.long_side,
                max_megapixels=arguments.max_megapixels,
                progress=progress,
            )
    except UnrelatedPhotosError as error:
        print(f"ripe: {error}", file=sys.stderr)
        return options.UNRELATED
    drawing.save_picture(panorama.picture, arguments.output)
    height, width = panorama.valid.shape
    print(f"photos     {len(panorama.used)} of {len(names)}")
    print(f"size       {width}×{height}")
    print(f"picture    {arguments.output}")
    for index, name in enumerate(names):
        if index not in panorama.used:
            reason = panorama.unreadable.get(index, f"{name}: does not match the others")
            print(f"ripe: left out: {reason}", file=sys.stderr)
    return 1 if panorama.unreadable else 0
