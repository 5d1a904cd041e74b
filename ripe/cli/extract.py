"""`ripe extract`: features of many photos into one HDF5 file that hloc reads."""

from __future__ import annotations

import argparse
import sys
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ripe.cli import options

if TYPE_CHECKING:
    import numpy as np

    from ripe.features import Features
    from ripe.model import RIPE
    from ripe.storage import FeatureFile

EXAMPLES = """  ripe extract photos/ -o features.h5
  ripe extract photos/ -o features.h5 --resize 1024 --max-keypoints 4096
  ripe extract a.jpg b.jpg c.jpg -o features.h5 --model vgg_hyper

Interrupted (even killed) and started again, it goes on where it was. Images are named by their path relative to the
folder; files that are given one by one, by their file name.
"""
READERS = 4
READ_AHEAD = 8


def add_parser(commands: Any) -> None:
    """Declare the command."""
    parser = options.add_command(commands, "extract", "Extract the features of many photos to one HDF5 file.", EXAMPLES)
    parser.add_argument("inputs", metavar="FOLDER|FILE", nargs="+", type=Path, help="a folder of photos, or photos")
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="H5", help="feature file, hloc's layout")
    options.add_model_options(parser)
    options.add_extraction_options(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Carry the command out; 1 if some images could not be read."""
    from tqdm.auto import tqdm

    from ripe import files
    from ripe.storage import FeatureFile

    files.check_writable(arguments.output)
    named = name_images(arguments.inputs)
    model = options.load_model(arguments)
    failures: dict[str, str] = {}
    with FeatureFile(arguments.output, _settings(arguments, model)) as store:
        pending = {name: path for name, path in named.items() if name not in store.done and _storable(name, failures)}
        with tqdm(total=len(named), initial=len(named) - len(pending), unit="image", desc="extract") as progress:
            for batch in _batches(_read_ahead(pending, failures, arguments.max_megapixels)):
                _process(model, batch, store, failures, options.extraction_settings(arguments))
                progress.update(len(batch))
            progress.update(len(named) - progress.n)
    print(f"{len(named) - len(failures)} of {len(named)} images in {arguments.output}")
    for name, reason in failures.items():
        print(f"ripe: not extracted: {name}: {reason.removeprefix(f'{named[name]}: ')}", file=sys.stderr)
    return 1 if failures else 0


def name_images(inputs: Sequence[Path]) -> dict[str, Path]:
    """The photos of one folder, by path relative to it, or of several files, by file name; sorted.

    Raises:
        FileNotFoundError, ValueError: a path does not exist, there is no photo, or two have the same name.
    """
    from ripe.folders import photos_below
    from ripe.images import EXTENSIONS

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


def _settings(arguments: argparse.Namespace, model: RIPE) -> dict[str, Any]:
    from ripe.pretrained import weights_hash

    given = options.extraction_settings(arguments)
    if given["threshold"] is None:
        given["threshold"] = model.detection.threshold
    return {"model": model.name, "weights": weights_hash(model), "precision": arguments.precision, **given}


def _storable(name: str, failures: dict[str, str]) -> bool:
    """Whether HDF5 can name a group so; a file name of bytes that are no UTF-8 goes to `failures`."""
    try:
        name.encode()
    except UnicodeEncodeError:
        failures[name] = "its name is not UTF-8"
        return False
    return True


def _read_ahead(
    named: dict[str, Path], failures: dict[str, str], max_megapixels: int
) -> Iterator[tuple[str, np.ndarray]]:
    """The images in order, read by threads while the network works; those that cannot be read go to `failures`."""
    from ripe.images import read_image

    read = partial(read_image, max_megapixels=max_megapixels)
    waiting: deque[tuple[str, Future[np.ndarray]]] = deque()
    remaining = iter(named.items())
    pool = ThreadPoolExecutor(READERS)
    try:
        while True:
            while len(waiting) < READ_AHEAD and (following := next(remaining, None)) is not None:
                waiting.append((following[0], pool.submit(read, following[1])))
            if not waiting:
                return
            name, reading = waiting.popleft()
            try:
                image = reading.result()
            except (OSError, ValueError) as error:
                failures[name] = str(error)
            else:
                yield name, image
    finally:
        pool.shutdown(cancel_futures=True)


def _batches(images: Iterable[tuple[str, np.ndarray]]) -> Iterator[dict[str, np.ndarray]]:
    """Images gathered until they fill a batch of the network, so that memory stays bounded for photos of any size."""
    from ripe.inference import MAX_PIXELS_PER_BATCH

    batch: dict[str, np.ndarray] = {}
    pixels = 0
    for name, image in images:
        size = image.shape[0] * image.shape[1]
        if batch and pixels + size > MAX_PIXELS_PER_BATCH:
            yield batch
            batch, pixels = {}, 0
        batch[name] = image
        pixels += size
    if batch:
        yield batch


def _process(
    model: RIPE,
    batch: dict[str, np.ndarray],
    store: FeatureFile,
    failures: dict[str, str],
    settings: dict[str, Any],
) -> None:
    extracted: dict[str, Features] = {}
    try:
        extracted = dict(zip(batch, model.extract(list(batch.values()), **settings), strict=True))
    except ValueError:  # one image that is too thin once it is resized must not cost the others
        for name, image in batch.items():
            try:
                [extracted[name]] = model.extract(image, **settings)
            except ValueError as error:
                failures[name] = str(error)
    if extracted:
        store.add(extracted, {name: _uncertainty(f, settings["resize"]) for name, f in extracted.items()})


def _uncertainty(features: Features, resize: int | None) -> float:
    """One pixel of the image that the network saw, in pixels of the original."""
    return 1.0 if resize is None else max(features.image_size) / resize
