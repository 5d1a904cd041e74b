"""`ripe extract`: features of many photos into one HDF5 file that hloc reads."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ripe.cli import options
from ripe.cli.progress import progress_bar
from ripe.resizing import stored_scales

if TYPE_CHECKING:
    from ripe import runtime
    from ripe.model import RIPE

EXAMPLES = """  ripe extract photos/ -o features.h5
  ripe extract photos/ -o features.h5 --resize 1024 --max-keypoints 4096
  ripe extract photos/ -o features.h5 --masks masks/
  ripe extract photos/ -o features.h5 --scales 1,0.5,0.25
  ripe extract a.jpg b.jpg c.jpg -o features.h5 --model vgg_hyper
  ripe extract photos/ -o features.h5 --backend onnx

Interrupted (even killed) and started again, it goes on where it was; photos that have changed, or whose masks have, are
done anew. What was begun with other settings is refused; --overwrite starts anew. Images are named by their path
relative to the folder; files that are given one by one, by their file name.
"""


def add_parser(commands: Any) -> None:
    """Declare the command."""
    parser = options.add_command(commands, "extract", "Extract the features of many photos to one HDF5 file.", EXAMPLES)
    parser.add_argument("inputs", metavar="FOLDER|FILE", nargs="+", type=Path, help="a folder of photos, or photos")
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="H5", help="feature file, hloc's layout")
    options.add_overwrite_option(parser, "extract")
    options.add_model_options(parser)
    options.add_backend_option(parser)
    options.add_extraction_options(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Carry the command out; 1 if some images could not be read."""
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
        extract = model_extract(model, **given, max_megapixels=arguments.max_megapixels)
        return extract_many(named, extract, store, masks=masks, progress=progress)


def _model(arguments: argparse.Namespace, threshold: float | None) -> tuple[RIPE | runtime.Extractor, dict[str, Any]]:
    """What extracts, and what its features depend on, which is the same for both back ends."""
    if arguments.backend == "onnx":
        extractor = options.load_runtime(arguments)
        return extractor, extractor.settings(threshold)
    from ripe.pretrained import model_settings

    model = options.load_model(arguments)
    return model, model_settings(model, threshold)


def name_images(inputs: Sequence[Path]) -> dict[str, Path]:
    """The photos of one folder, by path relative to it, or of several files, by file name; sorted.

    Raises:
        FileNotFoundError, ValueError: a path does not exist, there is no photo, or two have the same name.
    """
    from ripe.folders import photos_below
    from ripe.photos import EXTENSIONS

    for path in inputs:
        if not path.exists():
            raise FileNotFoundError(f"{path}: no such file or folder")
    if len(inputs) == 1 and inputs[0].is_dir():
        folder = inputs[0]
        names = photos_below(folder)
        if not names:
            raise ValueError(f"{folder}: holds no photo ({', '.join(sorted(EXTENSIONS))})")
        return {name: folder / name for name in names}
    named: dict[str, Path] = {}
    for path in inputs:
        if path.is_dir():
            raise ValueError(f"{path}: is a folder; give one folder, or files")
        if path.name in named:
            raise ValueError(f"{path} and {named[path.name]} have the same name; give the folder that holds both")
        named[path.name] = path
    return dict(sorted(named.items()))
