"""`ripe convert`: tables to hloc's HDF5 files and back, and to COLMAP's database."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ripe.cli import options
from ripe.cli.progress import progress_bar

if TYPE_CHECKING:
    from ripe.scale.feature_tables import FeatureTable

HDF5 = (".h5", ".hdf5")
EXAMPLES = """  ripe convert features/ -o features.h5
  ripe convert features.h5 -o s3://bucket/features
  ripe convert matches/ --features features/ -o matches.h5
  ripe convert matches/ --features features/ --photos photos/ -o database.db

Tables are what ripe extract and ripe match --pairs write to an address, or by --engine ray. The database has the
matches' two-view geometries, too, so that COLMAP's mappers can start from it; it needs pip install
'ripe-keypoints[colmap]'.
"""


def add_parser(commands: Any) -> None:
    """Declare the command."""
    summary = "Convert tables to HDF5 files and back, and to COLMAP's database."
    parser = options.add_command(commands, "convert", summary, EXAMPLES)
    parser.add_argument("source", metavar="TABLE|H5", type=options.address, help="table, or feature file")
    parser.add_argument(
        "-o",
        "--output",
        type=options.address,
        required=True,
        metavar="H5|DB|TABLE",
        help="its suffix says what it is: .h5, .db, or else a table",
    )
    parser.add_argument(
        "--features",
        type=options.address,
        metavar="TABLE",
        help="that was matched, if the source is a table of matches",
    )
    parser.add_argument("--photos", type=Path, metavar="FOLDER", help="that the names are relative to, for a database")
    options.add_overwrite_option(parser, "write a table")
    parser.set_defaults(run=run, refuse=parser.error)


def run(arguments: argparse.Namespace) -> int:
    """Carry the command out; 1 if COLMAP cannot read a photo."""
    from ripe import files
    from ripe.scale import conversion
    from ripe.scale.feature_tables import FeatureTable

    output = arguments.output
    is_file = isinstance(output, Path) and output.suffix in (*HDF5, ".db")
    if is_file:
        files.check_writable(output)
    if isinstance(arguments.source, Path) and arguments.source.suffix in HDF5:
        if is_file:
            arguments.refuse("a feature file becomes a table: name a folder or an address for -o")
        with progress_bar("convert", 0, unit="image") as progress:
            count = conversion.features_to_table(
                arguments.source, str(output), overwrite=arguments.overwrite, progress=progress
            )
        print(f"{count} images in {output}")
        return 0
    if not is_file:
        arguments.refuse("a table becomes a file: name FILE.h5 or FILE.db for -o")
    if arguments.features is not None:
        return _convert_matches(arguments, FeatureTable(str(arguments.features)))
    if output.suffix == ".db":
        arguments.refuse("a database is made of matches: name their table, and --features and --photos")
    table = FeatureTable(str(arguments.source))
    with progress_bar("convert", len(table.names()), unit="image") as progress:
        count = conversion.features_to_hdf5(table, output, progress=progress)
    print(f"{count} images in {output}")
    return 0


def _convert_matches(arguments: argparse.Namespace, features: FeatureTable) -> int:
    from ripe.reconstruction.verification import verify
    from ripe.scale import conversion
    from ripe.scale.match_tables import MatchTable
    from ripe.storage import ABSENT

    matches = MatchTable(str(arguments.source))
    if arguments.output.suffix != ".db":
        with progress_bar("convert", len(matches.rows), unit="pair") as progress:
            count = conversion.matches_to_hdf5(matches, features, arguments.output, progress=progress)
        print(f"{count} pairs in {arguments.output}")
        return 0
    if arguments.photos is None:
        arguments.refuse("a database needs --photos, whose EXIF tells their cameras")
    left_out = conversion.matches_to_colmap(matches, features, arguments.photos, arguments.output)
    side = features.settings.get("max_side", ABSENT)
    verified = verify(arguments.output, seen_side=None if side == ABSENT else int(side))
    print(f"{len(features.names()) - len(left_out)} images, {verified} pairs with a geometry in {arguments.output}")
    for name in left_out:
        print(f"ripe: left out: {name}: COLMAP cannot read this file", file=sys.stderr)
    return 1 if left_out else 0
