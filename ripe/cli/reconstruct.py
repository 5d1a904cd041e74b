"""`ripe reconstruct`: a folder of photos in, a sparse COLMAP model out."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ripe.cli import options
from ripe.cli.progress import progress_bar
from ripe.pairing.choice import METHODS, PairChoice
from ripe.resizing import stored_scales
from ripe.tables import markdown_table

if TYPE_CHECKING:
    from ripe.integrations.colmap import KnownCamera
    from ripe.reconstruction.pipeline import MappingSettings, Source, Summary
    from ripe.storage import Pair

EXAMPLES = """  ripe reconstruct photos/ -o model
  ripe reconstruct photos/ -o model --baseline sift
  ripe reconstruct video_frames/ -o model --pairs sequential --single-camera
  ripe reconstruct photos/ -o model --mapper global --intrinsics 1150
  ripe reconstruct photos/ -o model --pairs retrieval
  ripe reconstruct photos/ -o model --features features.h5 --matches matches.h5

Needs COLMAP: pip install 'ripe-keypoints[colmap]'. For each extractor, OUT/NAME/ gets sparse/*.bin (a model that COLMAP
opens), points.ply, model.html (cameras and points for the browser), database.db, and features.h5 and matches.h5 in
hloc's layout; OUT/summary.json has the figures.
Interrupted (even killed) and started again, it keeps the features and matches that are done; what was begun
with other settings is refused, --overwrite starts anew.
"""


def add_parser(commands: Any) -> None:
    """Declare the command."""
    summary = "Reconstruct a scene from a folder of photos with COLMAP."
    parser = options.add_command(commands, "reconstruct", summary, EXAMPLES)
    parser.add_argument("photos", metavar="PHOTOS", type=Path, help="folder of photos")
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="OUT", help="folder; made if need be")
    parser.add_argument("--features", type=Path, metavar="H5", help="feature file of these photos, with --matches")
    parser.add_argument("--matches", type=Path, metavar="H5", help="match file of --features: neither is made anew")
    options.add_model_options(parser)
    parser.add_argument("--baseline", nargs="+", action="extend", default=[], choices=("sift", "orb"), help="the same"
                        " with OpenCV's features, to compare")  # fmt: skip
    parser.add_argument(
        "--max-keypoints", type=options.positive, default=4096, metavar="N", help="the best N of a photo (%(default)s)"
    )
    options.add_scales_option(parser)
    options.add_photo_options(parser)
    options.add_overwrite_option(parser, "extract and match")
    matching = parser.add_argument_group("matching")
    options.add_matching_options(matching)
    options.add_rotations_option(matching)
    group = parser.add_argument_group("pairs, cameras and mapping")
    group.add_argument(
        "--pairs",
        nargs="+",
        default=["exhaustive"],
        metavar="|".join((*METHODS, "TXT")),
        help="how pairs are chosen, as by `ripe pairs --method`; or a file with two names a line (exhaustive)",
    )
    options.add_pairing_options(group)
    group.add_argument(
        "--single-camera", action="store_true", help="all photos of one size share one camera and zoom setting"
    )
    group.add_argument(
        "--intrinsics",
        type=_camera,
        metavar="F|FX,FY,CX,CY|MODEL:P,P,…",
        help="camera of all photos, which is kept: focal length in pixels, with or without the principal point, or a "
        "model and its parameters as in COLMAP's cameras.txt (found from EXIF and the photos)",
    )
    group.add_argument(
        "--mapper",
        choices=("incremental", "global"),
        default="incremental",
        help="photo after photo, or all at once, faster for many photos (%(default)s)",
    )
    group.add_argument(
        "--single-threaded", action="store_true", help="map in one thread, so that equal input gives equal models"
    )
    parser.set_defaults(run=run, refuse=parser.error)


def run(arguments: argparse.Namespace) -> int:
    """Carry the command out; 1 if a photo was left out or no model came about."""
    from ripe.files import write_json
    from ripe.integrations.colmap import import_pycolmap

    import_pycolmap()
    if not arguments.photos.is_dir():
        raise FileNotFoundError(f"{arguments.photos}: no such folder")
    if (arguments.features is None) != (arguments.matches is None):
        arguments.refuse("--features and --matches belong together")
    summaries = _reconstruct(arguments) if arguments.features is None else [_reconstruct_matched(arguments)]
    write_json(arguments.output / "summary.json", list(map(asdict, summaries)), indent=1)
    print(table(summaries))
    return _report_problems(arguments.output, summaries)


def _reconstruct(arguments: argparse.Namespace) -> list[Summary]:
    """A reconstruction of the photos with each extractor."""
    from ripe.cli.extract import name_images
    from ripe.reconstruction.pipeline import reconstruct

    names = list(name_images([arguments.photos]))
    pairs, how = _pairs(arguments), options.match_filter(arguments)
    summaries = []
    for source in _sources(arguments):
        with Progress(source.name) as progress:
            summary = reconstruct(
                arguments.photos,
                names,
                source,
                arguments.output / source.name,
                pairs,
                settings=_mapping_settings(arguments),
                match_filter=how,
                rotations=arguments.rotations,
                overwrite=arguments.overwrite,
                device=options.device(arguments),
                report=progress,
            )
        summaries.append(summary)
    return summaries


def _reconstruct_matched(arguments: argparse.Namespace) -> Summary:
    """A reconstruction from a feature file and a match file."""
    from ripe.reconstruction.pipeline import reconstruct_matched

    if arguments.baseline or arguments.masks is not None or arguments.overwrite:
        arguments.refuse("--features are taken as they are: leave out --baseline, --masks and --overwrite")
    pairs = None
    if arguments.pairs != ["exhaustive"]:
        listed = _pairs(arguments)
        if isinstance(listed, PairChoice):
            arguments.refuse("--matches holds its pairs; --pairs may name a list of some of them")
        else:
            pairs = listed
    name = arguments.features.stem
    with Progress(name) as progress:
        return reconstruct_matched(
            arguments.photos,
            arguments.features,
            arguments.matches,
            arguments.output / name,
            pairs,
            settings=_mapping_settings(arguments),
            report=progress,
        )


def _mapping_settings(arguments: argparse.Namespace) -> MappingSettings:
    from ripe.reconstruction.pipeline import MappingSettings

    return MappingSettings(arguments.mapper, arguments.single_camera, arguments.intrinsics, arguments.single_threaded)


class Progress:
    """A progress bar for each stage of a reconstruction."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._stage = ""
        self._done = 0
        self._bar = ExitStack()
        self._advance: Callable[..., object] = lambda count: None

    def __call__(self, stage: str, done: int, total: int) -> None:
        """Show how much of a stage is done."""
        if stage != self._stage:
            self._bar.close()
            self._advance = self._bar.enter_context(progress_bar(f"{self.name}: {stage}", total))
            self._stage, self._done = stage, 0
        self._advance(done - self._done)
        self._done = done

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *error: object) -> None:
        self._bar.close()


def table(summaries: Sequence[Summary]) -> str:
    """The figures of several reconstructions of the same photos, in Markdown."""
    header = ["features", "photos registered", "points", "observations", "track length", "reprojection error"]
    header += ["verified pairs", "models"]
    rows = []
    for summary in summaries:
        cells = [summary.extractor, f"{summary.registered} of {summary.photos}", str(summary.points)]
        cells += [str(summary.observations), _number(summary.mean_track_length)]
        cells += [f"{_number(summary.mean_reprojection_error)} px", f"{summary.verified_pairs} of {summary.pairs}"]
        rows.append([*cells, str(summary.models)])
    return markdown_table(header, rows)


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}"


def _pairs(arguments: argparse.Namespace) -> Sequence[Pair] | PairChoice:
    """The pairs of the list that was named, or how they are chosen."""
    from ripe.pair_lists import read_pair_list

    methods = [method for method in METHODS if method in arguments.pairs]
    if len(methods) == len(set(arguments.pairs)):
        return PairChoice(methods, arguments.neighbours, arguments.max_distance)
    if len(arguments.pairs) == 1:
        return read_pair_list(arguments.pairs[0])
    raise ValueError(f"--pairs {' '.join(arguments.pairs)}: give one file, or some of {', '.join(METHODS)}")


def _camera(text: str) -> KnownCamera:
    """An argument that is numbers, or a camera model of COLMAP's and its parameters."""
    from ripe.integrations.colmap import KnownCamera

    model, colon, numbers = text.rpartition(":")
    if not colon:
        return KnownCamera(options.camera_numbers(text))
    try:
        return KnownCamera(tuple(map(float, numbers.split(","))), model.upper())
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text} is no MODEL:P,P,… ({error})") from error


def _sources(arguments: argparse.Namespace) -> list[Source]:
    from ripe.evaluation.baselines import BASELINES
    from ripe.extractors import describer, shrinking
    from ripe.pretrained import MODELS, model_settings
    from ripe.reconstruction.pipeline import Source

    limits = {"max_keypoints": arguments.max_keypoints, "max_side": arguments.resize}
    model = options.load_model(arguments)
    name = arguments.model if arguments.model in MODELS else Path(arguments.model).stem
    sources = [
        Source(
            name,
            shrinking(
                describer(model, max_keypoints=arguments.max_keypoints, scales=arguments.scales),
                arguments.resize,
                arguments.max_megapixels,
            ),
            {**model_settings(model), **limits, "scales": stored_scales(arguments.scales)},
            arguments.masks,
            arguments.resize,
            partial(model.describe_turned, max_megapixels=arguments.max_megapixels),
        )
    ]
    for rival in arguments.baseline:
        extract = shrinking(BASELINES[rival](arguments.max_keypoints), arguments.resize, arguments.max_megapixels)
        sources.append(Source(rival, extract, {"baseline": rival, **limits}, arguments.masks, arguments.resize))
    return sources


def _report_problems(output: Path, summaries: Sequence[Summary]) -> int:
    """Say on the standard error what was left out, and where the models are; the exit status is returned."""
    problems = {name: reason for summary in summaries for name, reason in summary.failures.items()}
    for name, reason in problems.items():
        print(f"ripe: left out: {name}: {reason}", file=sys.stderr)
    failed = [summary for summary in summaries if summary.registered == 0]
    for summary in summaries:
        if summary not in failed:
            print(f"model      {output / summary.extractor / 'sparse'}")
            print(f"to look at {output / summary.extractor / 'model.html'}")
    for summary in failed:
        print(
            f"ripe: error: {summary.extractor}: no model; {summary.verified_pairs} of {summary.pairs} pairs have a "
            "common geometry. Photos must overlap, and be taken from different places",
            file=sys.stderr,
        )
    return 1 if problems or failed else 0
