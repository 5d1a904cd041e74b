"""`ripe pairs`: photos or their features in, a list of the pairs to match out."""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ripe.cli import options
from ripe.cli.extract import extract_to, name_images
from ripe.cli.match_list import turned_features
from ripe.cli.progress import progress_bar
from ripe.pairing.choice import METHODS, PairChoice

if TYPE_CHECKING:
    from ripe.storage import FeatureReader

EXAMPLES = """  ripe pairs photos/ -o pairs.txt
  ripe pairs features.h5 -o pairs.txt --photos photos/
  ripe pairs features.h5 -o pairs.txt --neighbours 10
  ripe pairs video_frames/ -o pairs.txt --method sequential retrieval
  ripe pairs photos/ -o pairs.txt --method spatial --max-distance 50

retrieval: the photos that look most alike, by one descriptor a photo that is made of its features; exhaustive: every
pair; sequential: the photos that follow in the order of their names; spatial: those taken nearest, by the position in
EXIF. Of several methods the pairs are joined. `ripe match --pairs` and `ripe reconstruct --pairs` read the list.

A folder's features are extracted for retrieval and not kept: of many photos, extract them first (`ripe extract`) and
give the feature file, which is used again by `ripe match`. Turned photos are found if the photos are at hand: from a
feature file with --photos.
"""


def add_parser(commands: Any) -> None:
    """Declare the command."""
    parser = options.add_command(commands, "pairs", "Choose which pairs of many photos to match.", EXAMPLES)
    parser.add_argument("input", metavar="FOLDER|H5", type=Path, help="a folder of photos, or a feature file")
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="TXT", help="list, two names a line")
    parser.add_argument(
        "--method",
        nargs="+",
        choices=METHODS,
        default=["retrieval"],
        help="how pairs are chosen; of several, what any of them gives (retrieval)",
    )
    options.add_pairing_options(parser)
    parser.add_argument(
        "--photos", type=Path, metavar="FOLDER", help="that the names of a feature file are relative to; for spatial"
        " pairs, and to find turned photos by retrieval"
    )  # fmt: skip
    parser.add_argument(
        "--rotations",
        choices=("auto", "none"),
        default="auto",
        help="none: look for no turned photos by retrieval (%(default)s)",
    )
    options.add_model_options(parser)
    options.add_memory_option(options.add_extraction_options(parser))
    parser.set_defaults(run=run, refuse=parser.error, backend="torch")


def run(arguments: argparse.Namespace) -> int:
    """Carry the command out; 1 if photos were left out, as they or their features cannot be used."""
    from ripe import files
    from ripe.pair_lists import write_pair_list
    from ripe.pairing.choose import choose_pairs

    files.check_writable(arguments.output)
    choice = PairChoice(arguments.method, arguments.neighbours, arguments.max_distance)
    problems: dict[str, str] = {}
    with _features(arguments, problems) as (names, features):
        described = features if "retrieval" in arguments.method else None
        turned = None if described is None else turned_features(arguments, described)
        with progress_bar("describe", 0 if described is None else len(names), unit="photo", leave=False) as progress:
            pairs = choose_pairs(
                choice,
                names,
                read=None if described is None else described.read,
                turned=turned,
                folder=arguments.photos,
                failed=lambda name, error: problems.setdefault(name, str(error)),
                progress=progress,
            )
    write_pair_list(arguments.output, pairs)
    print(f"{len(pairs)} pairs of {len(names)} photos in {arguments.output}")
    for name, reason in problems.items():
        print(f"ripe: left out: {name}: {reason}", file=sys.stderr)
    return 1 if problems else 0


@contextmanager
def _features(
    arguments: argparse.Namespace, problems: dict[str, str]
) -> Iterator[tuple[list[str], FeatureReader | None]]:
    """Names of the photos, and their features where they are needed.

    Those of a folder are extracted for this; photos that cannot be read go to `problems`.
    """
    from ripe.storage import FeatureReader

    if not arguments.input.is_dir():
        with FeatureReader(arguments.input) as features:
            yield features.names(), features
        return
    if arguments.photos is not None:
        arguments.refuse("--photos goes with a feature file; of a folder the photos are known")
    arguments.photos = arguments.input
    named = name_images([arguments.input])
    if "retrieval" not in arguments.method:
        yield list(named), None
        return
    with tempfile.TemporaryDirectory(dir=arguments.output.parent, prefix=".pairs-") as scratch:
        path = Path(scratch) / "features.h5"
        problems.update(extract_to(path, named, arguments))
        with FeatureReader(path) as features:
            yield features.names(), features
