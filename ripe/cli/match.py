"""`ripe match`: two photos in; figures, a picture and JSON out. Or a list of pairs in and hloc's match file out."""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ripe.cli import options
from ripe.cli.progress import progress_bar
from ripe.two_views import INLIER_THRESHOLDS, Stopwatch, document, fit

if TYPE_CHECKING:
    from torch import Tensor

    from ripe.features import Features, Matches, TwoViewGeometry
    from ripe.geometry.verdict import Verdict
    from ripe.model import RIPE
    from ripe.runtime import Extractor

EXAMPLES = """  ripe match left.jpg right.jpg
  ripe match left.jpg right.jpg -o matches.png --json matches.json
  ripe match left.jpg right.jpg -o all.png --view matches --draw 0
  ripe match page.jpg scan.jpg --geometry homography --inlier-threshold 3
  ripe match left.jpg right.jpg --method adalam --masks masks/
  ripe match left.jpg right.jpg --geometry essential --intrinsics 1150
  ripe match --pairs pairs.txt --features features.h5 -o matches.h5
  ripe match --pairs pairs.txt --features features.h5 -o inliers.h5 --geometry fundamental

The last two match many pairs (two names a line) with the features that `ripe extract` has stored, and write hloc's
matches.h5; with --geometry it holds only the matches that agree with one. Interrupted (even killed) and started again,
they go on where they were; pairs whose features have changed are matched anew. In the list, names that hold blanks
stand in double quotes; lines that begin with # are passed over.

Every fitted pair gets a verdict: matched, doubtful, or no better than chance. Of two photos the last one is exit status
3, and the picture's lines are grey; of a list, such a pair gets no matches.
"""


def add_parser(commands: Any) -> None:
    """Declare the command."""
    parser = options.add_command(commands, "match", "Match two photos and fit their geometry.", EXAMPLES)
    parser.add_argument("image0", metavar="A", type=Path, nargs="?", help="first photo")
    parser.add_argument("image1", metavar="B", type=Path, nargs="?", help="second photo")
    parser.add_argument(
        "-o", "--output", type=Path, metavar="PNG|H5", help="picture of the matches; match file with --pairs"
    )
    parser.add_argument("--json", type=Path, metavar="JSON", help="keypoints, matches, inliers, model and settings")
    options.add_picture_options(parser)
    many = parser.add_argument_group("many pairs (in place of A and B)")
    many.add_argument("--pairs", type=Path, metavar="TXT", help="two image names a line")
    many.add_argument("--features", type=Path, metavar="H5", help="feature file that holds these images")
    options.add_overwrite_option(many, "match")
    options.add_model_options(parser)
    options.add_backend_option(parser)
    options.add_extraction_options(parser)
    options.add_matching_options(parser.add_argument_group("matching"))
    group = parser.add_argument_group("geometry")
    group.add_argument(
        "--geometry", choices=INLIER_THRESHOLDS, help="what is fitted (fundamental to two photos, none to a list)"
    )
    group.add_argument(
        "--inlier-threshold",
        type=float,
        metavar="PX",
        help="in pixels of the photos (2 for homography, 1 for the others; times as much as --resize has shrunk them)",
    )
    group.add_argument(
        "--intrinsics",
        type=_numbers,
        nargs="+",
        metavar="F|FX,FY,CX,CY",
        help="for essential: camera of both photos, or of each (EXIF's 35 mm focal length)",
    )
    parser.set_defaults(run=run, refuse=parser.error)


def run(arguments: argparse.Namespace) -> int:
    """Carry the command out."""
    many = arguments.pairs is not None or arguments.features is not None
    arguments.geometry = arguments.geometry or ("none" if many else "fundamental")
    if arguments.intrinsics is not None and (arguments.geometry != "essential" or len(arguments.intrinsics) > 2):
        arguments.refuse("--intrinsics goes with --geometry essential: one camera for both photos, or one for each")
    if arguments.view == "warp" and arguments.geometry != "homography":
        arguments.refuse("--view warp goes with --geometry homography")
    if many:
        return _match_many(arguments)
    if arguments.image1 is None:
        arguments.refuse("give two photos, or --pairs, --features and -o")
    return _match_two(arguments)


def _match_many(arguments: argparse.Namespace) -> int:
    """Match a list of pairs with stored features; 1 if an image had none, or such as cannot be matched."""
    if arguments.pairs is None or arguments.features is None or arguments.output is None:
        arguments.refuse("--pairs, --features and -o belong together")
    if arguments.image0 is not None or arguments.json is not None or arguments.masks is not None:
        arguments.refuse("--pairs goes with neither photos nor --json nor --masks (which ripe extract takes)")
    if arguments.geometry == "essential" and len(arguments.intrinsics or ()) != 1:
        arguments.refuse("--geometry essential needs --intrinsics, one camera for all photos of a list")
    from ripe import files
    from ripe.geometry.verdict import WORDS
    from ripe.match_many import match_many
    from ripe.pair_lists import read_pair_list
    from ripe.storage import FeatureReader, MatchFile

    files.check_writable(arguments.output)
    pairs = read_pair_list(arguments.pairs)
    how = options.match_filter(arguments)
    device = options.device(arguments)
    with (
        FeatureReader(arguments.features) as features,
        MatchFile(
            arguments.output,
            {"matcher": f"{how}{_verification(arguments)}", **features.settings},
            overwrite=arguments.overwrite,
        ) as store,
        progress_bar("match", len(pairs), unit="pair") as progress,
    ):
        problems: list[str] = []
        missing = match_many(
            features,
            pairs,
            store,
            how=how,
            device=device,
            progress=progress,
            keep=partial(_inliers, arguments, _seen_side(features.settings)),
            failed=lambda pair, error: problems.append(f"{pair[0]} and {pair[1]}: {error}"),
        )
        done = sum(store.holds(*pair) for pair in pairs)
        verdicts = Counter(store.notes(*pair).get("verdict") for pair in pairs)
    print(f"{done} of {len(pairs)} pairs in {arguments.output}")
    if arguments.geometry != "none":
        print(", ".join(f"{verdicts[name]} {words}" for name, words in WORDS.items()))
    for name, count in missing.items():
        problems.append(f"{count} pairs of {name}: {arguments.features} has no features of it")
    for problem in problems:
        print(f"ripe: not matched: {problem}", file=sys.stderr)
    return 1 if problems else 0


def _verification(arguments: argparse.Namespace) -> str:
    """What `_inliers` does to matches, in words; nothing where it keeps all."""
    if arguments.geometry == "none":
        return ""
    camera = "" if arguments.intrinsics is None else f" by {','.join(f'{n:g}' for n in arguments.intrinsics[0])}"
    where = " of what was extracted from" if arguments.inlier_threshold is None else ""
    return f", inliers of {arguments.geometry} within {_inlier_threshold(arguments, None):g} px{where}{camera}"


def _seen_side(settings: Mapping[str, Any]) -> int | None:
    """To which longer side the photos of a feature file were shrunk; None if they were not, or if it is not known."""
    side = settings.get("max_side", "none")
    return None if side == "none" else int(side)


def _inliers(
    arguments: argparse.Namespace, seen_side: int | None, features0: Features, features1: Features, matches: Matches
) -> tuple[Matches, dict[str, Any]]:
    """The matches of a pair of a list that agree with one geometry, and what they are worth; none if it is chance."""
    points = matches.points(features0, features1)
    sizes = features0.image_size, features1.image_size
    threshold = _inlier_threshold(arguments, seen_side, sizes)
    geometry, verdict = fit(arguments.geometry, points, threshold, _cameras(arguments, sizes))
    if geometry is None or verdict is None:
        return matches, {}
    kept = geometry.inliers.to(matches.indices.device) & (verdict.name != "chance")
    inliers = replace(matches, indices=matches.indices[kept], scores=matches.scores[kept])
    return inliers, {"verdict": verdict.name, "log10_nfa": verdict.log10_nfa}


def _cameras(arguments: argparse.Namespace, sizes: Sequence[tuple[int, int]]) -> tuple[Tensor, Tensor] | None:
    """Camera matrices of both photos, of (width, height) `sizes`, from --intrinsics or EXIF; None if not needed."""
    if arguments.geometry != "essential":
        return None
    from ripe.geometry.intrinsics import camera_matrix

    given = arguments.intrinsics or [_exif_camera(path) for path in (arguments.image0, arguments.image1)]
    return camera_matrix(given[0], sizes[0]), camera_matrix(given[-1], sizes[1])


def _exif_camera(path: Path) -> tuple[float]:
    from ripe.geometry.intrinsics import exif_focal_length

    focal = exif_focal_length(path)
    if focal is None:
        raise ValueError(
            f"{path}: EXIF has no 35 mm focal length; give --intrinsics, such as its focal length in pixels"
        )
    return (focal,)


def _numbers(text: str) -> tuple[float, ...]:
    """An argument that is one number, or four with commas between them."""
    numbers = tuple(float(part) for part in text.split(","))
    if len(numbers) not in (1, 4):
        raise argparse.ArgumentTypeError(f"{text} is neither F (pixels) nor FX,FY,CX,CY")
    return numbers


def _match_two(arguments: argparse.Namespace) -> int:
    from ripe import drawing, files
    from ripe.images import as_rgb
    from ripe.matching import filtered_match
    from ripe.runtime import Extractor

    if arguments.output is not None:
        drawing.picture_format(arguments.output)
    for path in (arguments.output, arguments.json):
        if path is not None:
            files.check_writable(path)
    how, limits = options.match_filter(arguments), options.extraction_settings(arguments)
    limits |= {"resize": limits.pop("max_side"), "enlarge": False}
    watch = Stopwatch()
    with watch.stage("read"):
        paths = arguments.image0, arguments.image1
        images = [as_rgb(path, max_megapixels=arguments.max_megapixels) for path in paths]
        masks = [_mask(arguments, path, image) for path, image in zip(paths, images, strict=True)]
    sizes = [(image.shape[2], image.shape[1]) for image in images]
    threshold, cameras = _inlier_threshold(arguments, arguments.resize, sizes), _cameras(arguments, sizes)
    with watch.stage("load"):
        model = options.load_runtime(arguments) if arguments.backend == "onnx" else options.load_model(arguments)
    with watch.stage("extract"):
        features = [_extract(model, image, mask, limits) for image, mask in zip(images, masks, strict=True)]
    with watch.stage("match"):
        matches = filtered_match(features[0], features[1], how)
    points = matches.points(*features)
    with watch.stage("geometry"):
        geometry, verdict = fit(arguments.geometry, points, threshold, cameras)
    _report(features, matches, geometry, verdict, watch)
    if arguments.output is not None:
        _draw(arguments, images, features, points, geometry, verdict)
    if arguments.json is not None:
        own = model.threshold if isinstance(model, Extractor) else model.detection.threshold
        settings = _settings(arguments, own, threshold)
        if cameras is not None:
            settings["intrinsics0"], settings["intrinsics1"] = (camera.tolist() for camera in cameras)
        files.write_json(arguments.json, document(settings, features, matches, geometry, verdict, watch.milliseconds))
        print(f"json       {arguments.json}")
    return options.UNRELATED if verdict is not None and verdict.name == "chance" else 0


def _extract(model: RIPE | Extractor, image: Tensor, mask: Tensor | None, limits: dict[str, Any]) -> Features:
    """The features of a 3×H×W image, on the CPU, by either back end."""
    from ripe.features import Features
    from ripe.images import as_tensor
    from ripe.runtime import Extractor

    if not isinstance(model, Extractor):
        return model.extract(image, **limits, masks=[mask])[0].to("cpu")
    masks = [None if mask is None else mask.numpy()]
    [found] = model.extract(image.permute(1, 2, 0).numpy(), **limits, masks=masks)
    keypoints, scores, descriptors = map(as_tensor, (found.keypoints, found.scores, found.descriptors))
    return Features(keypoints, scores, descriptors, found.image_size)


def _draw(
    arguments: argparse.Namespace,
    images: Sequence[Tensor],
    features: Sequence[Features],
    points: Sequence[Tensor],
    geometry: TwoViewGeometry | None,
    verdict: Verdict | None,
) -> None:
    from ripe import drawing

    if arguments.view == "warp" and (geometry is None or geometry.model is None):
        print("picture    none: no homography was found to warp by")
        return
    keypoints = [found.keypoints for found in features]
    picture = drawing.draw_view(arguments.view, images, keypoints, points, geometry, verdict, limit=arguments.draw)
    drawing.save_picture(picture, arguments.output)
    every = len(points[0]) if geometry is None or arguments.view == "matches" else geometry.num_inliers
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


def _inlier_threshold(
    arguments: argparse.Namespace, seen_side: int | None, sizes: Sequence[tuple[int, int]] = ()
) -> float | None:
    """--inlier-threshold in pixels of the photos; by default it grows as the photo that was shrunk more was shrunk.

    Args:
        arguments: of the command.
        seen_side: longer side to which longer photos were shrunk; None if they were not.
        sizes: (width, height) of both photos.
    """
    given = arguments.inlier_threshold
    if given is not None and not given > 0:
        raise ValueError(f"--inlier-threshold is {given}; it must be more than 0 pixels")
    usual = INLIER_THRESHOLDS[arguments.geometry]
    if given is not None or usual is None:
        return given
    return usual * max([1.0, *(max(size) / seen_side for size in sizes)]) if seen_side else usual


def _report(
    features: list[Features],
    matches: Matches,
    geometry: TwoViewGeometry | None,
    verdict: Verdict | None,
    watch: Stopwatch,
) -> None:
    import torch

    from ripe.geometry.pose import CalibratedGeometry, rotation_angle

    print(f"keypoints  {len(features[0])} and {len(features[1])}")
    print(f"matches    {len(matches)}")
    if geometry is not None:
        share = "no model found" if geometry.model is None else f"{geometry.num_inliers / len(matches):.0%}"
        print(f"inliers    {geometry.num_inliers} ({share})")
        print(f"verdict    {verdict}")
    if isinstance(geometry, CalibratedGeometry) and geometry.rotation is not None and geometry.translation is not None:
        angle = float(rotation_angle(torch.eye(3, dtype=torch.float64), geometry.rotation))
        x, y, z = geometry.translation.tolist()
        print(f"rotation   {angle:.2f}°")
        print(f"direction  {x:.3f} {y:.3f} {z:.3f} of the translation")
    print("time       " + ", ".join(f"{stage} {value:.0f} ms" for stage, value in watch.milliseconds.items()))


def _settings(arguments: argparse.Namespace, own_threshold: float, inlier_threshold: float | None) -> dict[str, Any]:
    return {
        "model": arguments.model,
        "precision": arguments.precision,
        "backend": arguments.backend,
        "max_keypoints": arguments.max_keypoints,
        "threshold": own_threshold if arguments.threshold is None else arguments.threshold,
        "resize": arguments.resize,
        "matcher": str(options.match_filter(arguments)),
        "geometry": arguments.geometry,
        "inlier_threshold": inlier_threshold,
    }
