"""`ripe extract`: features of many photos into one HDF5 file that hloc reads, or into a table at any address."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from ripe.cli import options
from ripe.cli.progress import progress_bar
from ripe.resizing import stored_scales

if TYPE_CHECKING:
    from ripe import runtime
    from ripe.extract_many import Extract
    from ripe.model import RIPE

EXAMPLES = """  ripe extract photos/ -o features.h5
  ripe extract photos/ -o features.h5 --resize 1024 --max-keypoints 4096
  ripe extract photos/ -o features.h5 --masks masks/
  ripe extract photos/ -o features.h5 --scales 1,0.5,0.25
  ripe extract photos/ -o features.h5 --resize none --max-memory 2G
  ripe extract a.jpg b.jpg c.jpg -o features.h5 --model vgg_hyper
  ripe extract photos/ -o features.h5 --backend onnx
  ripe extract s3://bucket/photos -o s3://bucket/features --engine ray

Interrupted (even killed) and started again, it goes on where it was; photos that have changed, or whose masks have, are
done anew. What was begun with other settings is refused; --overwrite starts anew. Images are named by their path
relative to the folder; files that are given one by one, by their file name.

At an address of fsspec (s3://, gs://, file://), or by --engine ray, features go to a table: a folder of Parquet files,
in which a photo that cannot be read is a row with its error. Extras: pip install 'ripe-keypoints[scale]'. ripe convert
makes a table of an HDF5 file and back.
"""


def add_parser(commands: Any) -> None:
    """Declare the command."""
    parser = options.add_command(commands, "extract", "Extract the features of many photos.", EXAMPLES)
    parser.add_argument(
        "inputs",
        metavar="FOLDER|FILE|URL",
        nargs="+",
        type=options.address,
        help="a folder of photos, at an address too, or photos",
    )
    parser.add_argument(
        "-o",
        "--output",
        type=options.address,
        required=True,
        metavar="H5|URL",
        help="feature file in hloc's layout; folder of a table at an address, or with --engine ray",
    )
    options.add_overwrite_option(parser, "extract")
    options.add_engine_options(parser)
    parser.add_argument(
        "--shard-size", type=options.positive, default=64, metavar="N", help="photos of a table's file (%(default)s)"
    )
    options.add_model_options(parser)
    options.add_backend_option(parser)
    options.add_memory_option(options.add_extraction_options(parser))
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Carry the command out; 1 if some images could not be read."""
    if options.is_table(arguments):
        return _extract_table(arguments)
    from ripe import files

    files.check_writable(arguments.output)
    named = name_images(arguments.inputs)
    failures = extract_to(arguments.output, named, arguments, overwrite=arguments.overwrite)
    print(f"{len(named) - len(failures)} of {len(named)} images in {arguments.output}")
    for name, reason in failures.items():
        print(f"ripe: not extracted: {name}: {reason}", file=sys.stderr)
    return 1 if failures else 0


def extract_to(
    output: Path, named: Mapping[str, Path], arguments: argparse.Namespace, *, overwrite: bool = False
) -> dict[str, str]:
    """Extract photos to a feature file as the options of model and keypoints say; why some cannot be, by name."""
    from ripe.extract_many import extract_many, model_extract
    from ripe.folders import masks_below
    from ripe.storage import FeatureFile

    masks = {} if arguments.masks is None else masks_below(arguments.masks, named)
    given = options.extraction_settings(arguments)
    model, own = _model(arguments, given["threshold"])
    settings = {**given, "scales": stored_scales(given["scales"]), **own}
    with (
        FeatureFile(output, settings, overwrite=overwrite) as store,
        progress_bar("extract", len(named), unit="image") as progress,
    ):
        extract = model_extract(model, **given, **_limits(arguments))
        return extract_many(named, extract, store, masks=masks, progress=progress)


def _extract_table(arguments: argparse.Namespace) -> int:
    """Extract to a table; 1 if some images could not be read."""
    from ripe.scale.extraction import extract_table
    from ripe.scale.places import Place

    if len(arguments.inputs) != 1:
        raise ValueError(
            f"{arguments.output}: a table is made of one folder; {len(arguments.inputs)} inputs were given"
        )
    photos = Place(str(arguments.inputs[0]))
    versions = photos.photos()
    given = options.extraction_settings(arguments)
    model, own = _model(arguments, given["threshold"])
    sent = None if arguments.backend == "onnx" else cast("RIPE", model).cpu()
    with progress_bar("extract", len(versions), unit="image") as progress:
        failures = extract_table(
            photos,
            versions,
            partial(_make_extract, arguments, sent, given),
            str(arguments.output),
            {**given, "scales": stored_scales(given["scales"]), **own},
            masks=None if arguments.masks is None else Place(str(arguments.masks)),
            engine=options.engine(arguments),
            shard_size=arguments.shard_size,
            overwrite=arguments.overwrite,
            progress=progress,
        )
    print(f"{len(versions) - len(failures)} of {len(versions)} images in {arguments.output}")
    for name, reason in list(failures.items())[: options.NAMED]:
        print(f"ripe: not extracted: {name}: {reason}", file=sys.stderr)
    if len(failures) > options.NAMED:
        print(f"ripe: and {len(failures) - options.NAMED} more: see the column error of the table", file=sys.stderr)
    return 1 if failures else 0


def _make_extract(arguments: argparse.Namespace, model: RIPE | None, given: dict[str, Any]) -> Extract:
    """The extractor in a process of the engine's: `model` on that process's own device, or the back end's."""
    from ripe.extract_many import model_extract
    from ripe.pretrained import usable_device

    here = options.load_runtime(arguments) if model is None else model.to(usable_device(arguments.device))
    return model_extract(here, **given, **_limits(arguments))


def _limits(arguments: argparse.Namespace) -> dict[str, Any]:
    return {"max_megapixels": arguments.max_megapixels, "max_memory": arguments.max_memory}


def _model(arguments: argparse.Namespace, threshold: float | None) -> tuple[RIPE | runtime.Extractor, dict[str, Any]]:
    """What extracts, and what its features depend on, which is the same for both back ends."""
    if arguments.backend == "onnx":
        extractor = options.load_runtime(arguments)
        return extractor, extractor.settings(threshold)
    from ripe.pretrained import model_settings

    model = options.load_model(arguments)
    return model, model_settings(model, threshold)


def name_images(inputs: Sequence[Path | str]) -> dict[str, Path]:
    """The photos of one folder, by path relative to it, or of several files, by file name; sorted.

    Raises:
        FileNotFoundError, ValueError: a path does not exist, there is no photo, or two have the same name.
    """
    from ripe.folders import photos_below
    from ripe.photos import EXTENSIONS

    if urls := [each for each in inputs if isinstance(each, str)]:
        raise ValueError(f"{urls[0]}: photos at an address go to a table: -o URL, or --engine ray")
    paths = list(map(Path, inputs))
    for path in paths:
        if not path.exists():
            raise FileNotFoundError(f"{path}: no such file or folder")
    if len(paths) == 1 and paths[0].is_dir():
        folder = paths[0]
        names = photos_below(folder)
        if not names:
            raise ValueError(f"{folder}: holds no photo ({', '.join(sorted(EXTENSIONS))})")
        return {name: folder / name for name in names}
    named: dict[str, Path] = {}
    for path in paths:
        if path.is_dir():
            raise ValueError(f"{path}: is a folder; give one folder, or files")
        if path.name in named:
            raise ValueError(f"{path} and {named[path.name]} have the same name; give the folder that holds both")
        named[path.name] = path
    return dict(sorted(named.items()))
