"""`ripe match`: two photos in; figures, a picture and JSON out. A list of pairs: `ripe.cli.match_list`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ripe.cli import fitting, options
from ripe.cli.match_list import match_list
from ripe.cli.progress import stage_line
from ripe.two_views import INLIER_THRESHOLDS, Stopwatch, document

if TYPE_CHECKING:
    from torch import Tensor

    from ripe.attempts import MatchedPhotos
    from ripe.features import Features
    from ripe.filters import MatchFilter
    from ripe.model import RIPE
    from ripe.runtime import Extractor

EXAMPLES = """  ripe match left.jpg right.jpg
  ripe match left.jpg right.jpg -o matches.png --json matches.json
  ripe match left.jpg right.jpg -o all.png --view matches --draw 0
  ripe match page.jpg scan.jpg --geometry homography --inlier-threshold 3
  ripe match left.jpg right.jpg --matcher lightglue
  ripe match left.jpg right.jpg --matcher adalam --masks masks/
  ripe match left.jpg right.jpg --geometry essential --intrinsics 1150
  ripe match left.jpg detail.jpg --scales 1,0.5,0.25 --rotations none
  ripe match --pairs pairs.txt --features features.h5 -o matches.h5
  ripe match --pairs pairs.txt --features features.h5 -o inliers.h5 --geometry fundamental
  ripe match --pairs pairs.txt --features s3://bucket/features -o s3://bucket/matches --engine ray

The last three match many pairs (two names a line) with the features that `ripe extract` has stored, and write hloc's
matches.h5; with --geometry it holds only the matches that agree with one. Interrupted (even killed) and started again,
they go on where they were; pairs whose features have changed are matched anew. In the list, names that hold blanks
stand in double quotes; lines that begin with # are passed over. The last one goes from a table (see ripe extract
--help) to a table, which has every pair's verdict and fundamental matrix, or what --geometry says.

Every fitted pair gets a verdict: matched, doubtful, or no better than chance. Of two photos the last one is exit status
3, and the picture's lines are grey; of a list, such a pair gets no matches. Before that is said, two photos are tried
at several scales and with A in quarter turns; pairs of a list with the first photo turned, if --photos is given.
"""


def add_parser(commands: Any) -> None:
    """Declare the command."""
    parser = options.add_command(commands, "match", "Match two photos and fit their geometry.", EXAMPLES)
    parser.add_argument("image0", metavar="A", type=Path, nargs="?", help="first photo")
    parser.add_argument("image1", metavar="B", type=Path, nargs="?", help="second photo")
    parser.add_argument(
        "-o",
        "--output",
        type=options.address,
        metavar="PNG|H5|URL",
        help="picture of the matches; match file with --pairs; table with --pairs, at an address or with --engine ray",
    )
    parser.add_argument("--json", type=Path, metavar="JSON", help="keypoints, matches, inliers, model and settings")
    options.add_picture_options(parser)
    many = parser.add_argument_group("many pairs (in place of A and B)")
    many.add_argument("--pairs", type=Path, metavar="TXT", help="two image names a line")
    many.add_argument(
        "--features", type=options.address, metavar="H5|URL", help="feature file, or table, that holds these images"
    )
    many.add_argument(
        "--photos", type=Path, metavar="FOLDER", help="folder that the names are relative to, to turn photos"
    )
    options.add_overwrite_option(many, "match")
    options.add_engine_options(many)
    options.add_model_options(parser)
    options.add_backend_option(parser)
    options.add_extraction_options(parser, automatic_scales=True)
    matching = parser.add_argument_group("matching")
    options.add_matching_options(matching)
    options.add_rotations_option(matching)
    group = parser.add_argument_group("geometry")
    group.add_argument(
        "--geometry",
        choices=INLIER_THRESHOLDS,
        help="what is fitted (fundamental; none to a list whose matches go to an HDF5 file)",
    )
    group.add_argument(
        "--inlier-threshold",
        type=float,
        metavar="PX",
        help="in pixels of the photos (2 for homography, 1 for the others; times as much as --resize has shrunk them)",
    )
    group.add_argument(
        "--intrinsics",
        type=options.camera_numbers,
        nargs="+",
        metavar="F|FX,FY,CX,CY",
        help="for essential: camera of both photos, or of each (EXIF's 35 mm focal length)",
    )
    parser.set_defaults(run=run, refuse=parser.error)


def run(arguments: argparse.Namespace) -> int:
    """Carry the command out."""
    many = any(given is not None for given in (arguments.pairs, arguments.features, arguments.photos))
    table = options.is_table(arguments)
    arguments.geometry = arguments.geometry or ("none" if many and not table else "fundamental")
    if table and not many:
        arguments.refuse("--engine ray, and an address for -o, go with --pairs and --features")
    if arguments.intrinsics is not None and (arguments.geometry != "essential" or len(arguments.intrinsics) > 2):
        arguments.refuse("--intrinsics goes with --geometry essential: one camera for both photos, or one for each")
    if arguments.view == "warp" and arguments.geometry != "homography":
        arguments.refuse("--view warp goes with --geometry homography")
    if arguments.photos is not None and arguments.geometry == "none":
        arguments.refuse("--photos, which are turned where the verdict is chance, goes with a --geometry")
    if arguments.rotations == "all" and (arguments.geometry == "none" or (many and arguments.photos is None)):
        arguments.refuse("--rotations all goes with a --geometry, and with --photos if pairs of a list are matched")
    if many:
        return match_list(arguments)
    if arguments.image1 is None:
        arguments.refuse("give two photos, or --pairs, --features and -o")
    with stage_line("match") as begun:
        return _match_two(arguments, begun)


def _match_two(arguments: argparse.Namespace, begun: Callable[[str], object]) -> int:
    from ripe import drawing, files
    from ripe.images import as_rgb
    from ripe.matching import check_usable

    if arguments.output is not None:
        drawing.picture_format(arguments.output)
    for path in (arguments.output, arguments.json):
        if path is not None:
            files.check_writable(path)
    how = options.match_filter(arguments)
    watch = Stopwatch(begun)
    with watch.stage("read"):
        paths = arguments.image0, arguments.image1
        images = [as_rgb(path, max_megapixels=arguments.max_megapixels) for path in paths]
        masks = [_mask(arguments, path, image) for path, image in zip(paths, images, strict=True)]
    sizes = [(image.shape[2], image.shape[1]) for image in images]
    fit = {
        "geometry": arguments.geometry,
        "max_error": fitting.inlier_threshold(arguments, arguments.resize, sizes),
        "intrinsics": fitting.cameras(arguments, sizes),
    }
    with watch.stage("load"):
        model = options.load_runtime(arguments) if arguments.backend == "onnx" else options.load_model(arguments)
        check_usable(how, _weights(model))
    found = _found(arguments, model, images, masks, how, fit, watch)
    begun("")
    _report(found, watch)
    if arguments.output is not None:
        _draw(arguments, images, found)
    if arguments.json is not None:
        _write(arguments, _settings(arguments, how, model, fit), found, watch)
    return options.UNRELATED if found.by_chance else 0


def _weights(model: RIPE | Extractor) -> str:
    from ripe.pretrained import weights_hash
    from ripe.runtime import Extractor

    return model.settings()["weights"] if isinstance(model, Extractor) else weights_hash(model)


def _found(
    arguments: argparse.Namespace,
    model: RIPE | Extractor,
    images: Sequence[Tensor],
    masks: Sequence[Tensor | None],
    how: MatchFilter,
    fit: dict[str, Any],
    watch: Stopwatch,
) -> MatchedPhotos:
    """The photos' features, matches and geometry; by ONNX Runtime they are matched as they are, in one attempt."""
    from ripe.attempts import attempt_match, match_photos
    from ripe.runtime import Extractor

    limits = options.extraction_settings(arguments)
    limits |= {"resize": limits.pop("max_side")}
    if isinstance(model, Extractor):
        with watch.stage("extract"):
            first, second = (_extract(model, *each, limits) for each in zip(images, masks, strict=True))
        return attempt_match(first, second, how=how, watch=watch, **fit)
    turned = {"match_filter": how, "rotations": arguments.rotations, "masks": masks, "watch": watch}
    return match_photos(images[0], images[1], model=model, **fit, **limits, **turned)


def _extract(model: Extractor, image: Tensor, mask: Tensor | None, limits: dict[str, Any]) -> Features:
    """The features of a 3×H×W image by ONNX Runtime, at one scale."""
    from ripe.features import Features
    from ripe.images import as_tensor

    masks = [None if mask is None else mask.numpy()]
    once = {name: value for name, value in limits.items() if name != "scales"}
    [found] = model.extract(image.permute(1, 2, 0).numpy(), **once, enlarge=False, masks=masks)
    keypoints, scores, descriptors = map(as_tensor, (found.keypoints, found.scores, found.descriptors))
    return Features(keypoints, scores, descriptors, found.image_size)


def _write(arguments: argparse.Namespace, settings: dict[str, Any], found: MatchedPhotos, watch: Stopwatch) -> None:
    from ripe import files

    features = found.features0, found.features1
    written = document(settings, features, found.matches, found.geometry, found.verdict, watch.milliseconds)
    files.write_json(arguments.json, {**written, "quarter_turns": found.quarter_turns})
    print(f"json       {arguments.json}")


def _draw(arguments: argparse.Namespace, images: Sequence[Tensor], found: MatchedPhotos) -> None:
    from ripe import drawing

    geometry = found.geometry
    if arguments.view == "warp" and (geometry is None or geometry.model is None):
        print("picture    none: no homography was found to warp by")
        return
    keypoints = [found.features0.keypoints, found.features1.keypoints]
    picture = drawing.draw_view(
        arguments.view, images, keypoints, found.points, geometry, found.verdict, limit=arguments.draw
    )
    drawing.save_picture(picture, arguments.output)
    every = len(found.matches) if geometry is None or arguments.view == "matches" else geometry.num_inliers
    if arguments.view in ("matches", "inliers") and 0 < arguments.draw < every:
        print(f"drawn      {arguments.draw} of {every}")
    print(f"picture    {arguments.output}")


def _mask(arguments: argparse.Namespace, path: Path, image: Tensor) -> Tensor | None:
    """The mask that --masks has for a photo: by its path, or the end of its path that finds one; None without."""
    if arguments.masks is None:
        return None
    from ripe.folders import mask_in
    from ripe.inference import as_mask

    parts = path.parts[1:] if path.is_absolute() else path.parts
    names = ("/".join(parts[start:]) for start in range(len(parts)))
    found = next(filter(None, (mask_in(arguments.masks, name) for name in names)), None)
    if found is None:
        print(f"ripe: {arguments.masks} has no mask of {path}: all of it is used", file=sys.stderr)
        return None
    return as_mask(found, path, (image.shape[1], image.shape[2]), max_megapixels=arguments.max_megapixels)


def _report(found: MatchedPhotos, watch: Stopwatch) -> None:
    import torch

    from ripe.geometry.pose import CalibratedGeometry, rotation_angle, view_of_second

    geometry, verdict = found.geometry, found.verdict
    print(f"keypoints  {len(found.features0)} and {len(found.features1)}")
    print(f"matches    {len(found.matches)}")
    if geometry is not None:
        share = "no model found" if geometry.model is None else f"{geometry.num_inliers / len(found.matches):.0%}"
        print(f"inliers    {geometry.num_inliers} ({share})")
        print(f"verdict    {verdict}")
    if found.quarter_turns:
        print(f"turned     A by {90 * found.quarter_turns}° counter-clockwise, to match")
    if isinstance(geometry, CalibratedGeometry) and geometry.rotation is not None and geometry.translation is not None:
        angle = float(rotation_angle(torch.eye(3, dtype=torch.float64), geometry.rotation))
        x, y, z = geometry.translation.tolist()
        print(f"rotation   {angle:.2f}°")
        print(f"direction  {x:.3f} {y:.3f} {z:.3f} of the translation")
        right, up = view_of_second(geometry.rotation, geometry.translation)
        print(f"B's camera {abs(right):.2f}° to the {'left' if right < 0 else 'right'} and {abs(up):.2f}° "
              f"{'down' if up < 0 else 'up'} of where A looks")  # fmt: skip
    print("time       " + ", ".join(f"{stage} {value:.0f} ms" for stage, value in watch.milliseconds.items()))


def _settings(
    arguments: argparse.Namespace, how: MatchFilter, model: RIPE | Extractor, fit: dict[str, Any]
) -> dict[str, Any]:
    from ripe.runtime import Extractor

    own_threshold = model.threshold if isinstance(model, Extractor) else model.detection.threshold
    settings = {
        "model": arguments.model,
        "precision": arguments.precision,
        "backend": arguments.backend,
        "max_keypoints": arguments.max_keypoints,
        "threshold": own_threshold if arguments.threshold is None else arguments.threshold,
        "resize": arguments.resize,
        "scales": arguments.scales,
        "rotations": arguments.rotations,
        "matcher": str(how),
        "geometry": arguments.geometry,
        "inlier_threshold": fit["max_error"],
    }
    if fit["intrinsics"] is not None:
        settings["intrinsics0"], settings["intrinsics1"] = (camera.tolist() for camera in fit["intrinsics"])
    return settings
