"""`ripe match`: two photos in; figures, a picture and JSON out. Or a list of pairs in and hloc's match file out."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ripe.cli import options
from ripe.cli.progress import progress_bar
from ripe.two_views import INLIER_THRESHOLDS, Stopwatch, document, fit

if TYPE_CHECKING:
    from ripe.features import Features, Matches, TwoViewGeometry

EXAMPLES = """  ripe match left.jpg right.jpg
  ripe match left.jpg right.jpg -o matches.png --json matches.json
  ripe match page.jpg scan.jpg --geometry homography --inlier-threshold 3
  ripe match --pairs pairs.txt --features features.h5 -o matches.h5

The last one matches many pairs (two names a line) with the features that `ripe extract` has stored, and writes hloc's
matches.h5. Interrupted (even killed) and started again, it goes on where it was; pairs whose features have changed are
matched anew. In the list, names that hold blanks stand in double quotes; lines that begin with # are passed over.
"""


def add_parser(commands: Any) -> None:
    """Declare the command."""
    parser = options.add_command(commands, "match", "Match two photos and fit their geometry.", EXAMPLES)
    parser.add_argument("image0", metavar="A", type=Path, nargs="?", help="first photo")
    parser.add_argument("image1", metavar="B", type=Path, nargs="?", help="second photo")
    parser.add_argument(
        "-o", "--output", type=Path, metavar="PNG|H5", help="picture of the inlier matches; match file with --pairs"
    )
    parser.add_argument("--json", type=Path, metavar="JSON", help="keypoints, matches, inliers, model and settings")
    many = parser.add_argument_group("many pairs (in place of A and B)")
    many.add_argument("--pairs", type=Path, metavar="TXT", help="two image names a line")
    many.add_argument("--features", type=Path, metavar="H5", help="feature file that holds these images")
    options.add_model_options(parser)
    options.add_extraction_options(parser)
    group = parser.add_argument_group("geometry")
    group.add_argument(
        "--geometry", choices=INLIER_THRESHOLDS, default="fundamental", help="what is fitted (%(default)s)"
    )
    group.add_argument(
        "--inlier-threshold", type=float, metavar="PX", help="in pixels (1 for fundamental, 2 for homography)"
    )
    parser.set_defaults(run=run, refuse=parser.error)


def run(arguments: argparse.Namespace) -> int:
    """Carry the command out."""
    if arguments.pairs is not None or arguments.features is not None:
        return _match_many(arguments)
    if arguments.image1 is None:
        arguments.refuse("give two photos, or --pairs, --features and -o")
    return _match_two(arguments)


def _match_many(arguments: argparse.Namespace) -> int:
    """Match a list of pairs with stored features; 1 if an image had none."""
    if arguments.pairs is None or arguments.features is None or arguments.output is None:
        arguments.refuse("--pairs, --features and -o belong together")
    if arguments.image0 is not None or arguments.json is not None:
        arguments.refuse("--pairs goes with neither photos nor --json")
    from ripe import files
    from ripe.match_many import SETTINGS, match_many
    from ripe.pair_lists import read_pair_list
    from ripe.storage import FeatureReader, MatchFile

    files.check_writable(arguments.output)
    pairs = read_pair_list(arguments.pairs)
    device = options.device(arguments)
    with (
        FeatureReader(arguments.features) as features,
        MatchFile(arguments.output, {**SETTINGS, **features.settings}) as store,
        progress_bar("match", len(pairs), unit="pair") as progress,
    ):
        missing = match_many(features, pairs, store, device=device, progress=progress)
        done = sum(store.holds(*pair) for pair in pairs)
    print(f"{done} of {len(pairs)} pairs in {arguments.output}")
    for name, count in missing.items():
        print(
            f"ripe: not matched: {count} pairs of {name}: {arguments.features} has no features of it", file=sys.stderr
        )
    return 1 if missing else 0


def _match_two(arguments: argparse.Namespace) -> int:
    from ripe import drawing, files
    from ripe.images import as_rgb
    from ripe.matching import match

    if arguments.output is not None:
        drawing.picture_format(arguments.output)
    for path in (arguments.output, arguments.json):
        if path is not None:
            files.check_writable(path)
    threshold = _inlier_threshold(arguments)
    watch = Stopwatch()
    with watch.stage("read"):
        images = [as_rgb(path) for path in (arguments.image0, arguments.image1)]
    with watch.stage("load"):
        model = options.load_model(arguments)
    with watch.stage("extract"):
        features = [model.extract(image, **options.extraction_settings(arguments))[0].to("cpu") for image in images]
    with watch.stage("match"):
        matches = match(*features)
    points = matches.points(*features)
    with watch.stage("geometry"):
        geometry = fit(arguments.geometry, points, threshold)
    _report(features, matches, geometry, watch)
    if arguments.output is not None:
        shown = points if geometry is None else [p[geometry.inliers] for p in points]
        drawing.save_picture(drawing.draw_matches(images, shown), arguments.output)
        print(f"picture    {arguments.output}")
    if arguments.json is not None:
        settings = _settings(arguments, model.detection.threshold, threshold)
        files.write_json(arguments.json, document(settings, features, matches, geometry, watch.milliseconds))
        print(f"json       {arguments.json}")
    return 0


def _inlier_threshold(arguments: argparse.Namespace) -> float | None:
    given = arguments.inlier_threshold
    if given is not None and not given > 0:
        raise ValueError(f"--inlier-threshold is {given}; it must be more than 0 pixels")
    return given or INLIER_THRESHOLDS[arguments.geometry]


def _report(features: list[Features], matches: Matches, geometry: TwoViewGeometry | None, watch: Stopwatch) -> None:
    print(f"keypoints  {len(features[0])} and {len(features[1])}")
    print(f"matches    {len(matches)}")
    if geometry is not None:
        print(f"inliers    {geometry.num_inliers}" + ("" if geometry.model is not None else " (no model found)"))
    print("time       " + ", ".join(f"{stage} {value:.0f} ms" for stage, value in watch.milliseconds.items()))


def _settings(arguments: argparse.Namespace, own_threshold: float, inlier_threshold: float | None) -> dict[str, Any]:
    return {
        "model": arguments.model,
        "precision": arguments.precision,
        "max_keypoints": arguments.max_keypoints,
        "threshold": own_threshold if arguments.threshold is None else arguments.threshold,
        "resize": arguments.resize,
        "geometry": arguments.geometry,
        "inlier_threshold": inlier_threshold,
    }
