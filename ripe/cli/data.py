"""`ripe data`: what is there of the public data sets, and how to get the rest."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ripe.cli import options

if TYPE_CHECKING:
    from ripe.data.inventory import Inventory

EXAMPLES = """  ripe data check
  ripe data check disk-megadepth my_photos/
  ripe data download disk-megadepth
  ripe data mine my_photos/ -o pairs.json
  ripe data download acdc --from rgb_anon_trainvaltest.zip

Data sets are kept in $DATA_DIR, or in the folder data. docs/datasets.md says how each is laid out.
"""


def add_parser(commands: Any) -> None:
    """Declare the command."""
    from ripe.data.catalogue import SOURCES

    parser = options.add_command(commands, "data", "Check and download the public data sets.", EXAMPLES)
    chosen = parser.add_subparsers(required=True, metavar="ACTION")
    names = ", ".join(SOURCES)

    check = chosen.add_parser("check", help="say what is found, what is missing, and where to get it")
    check.add_argument("names", nargs="*", metavar="NAME|FOLDER", help=f"{names} (all), or a folder of photos")
    check.set_defaults(run=run_check)

    download = chosen.add_parser("download", help="fetch what is missing, verify and unpack it; run again to go on")
    download.add_argument("name", metavar="NAME", help=names)
    download.add_argument("--from", dest="archive", type=Path, metavar="FILE", help="archive fetched by other means")
    download.set_defaults(run=run_download)

    mine = chosen.add_parser("mine", help="find which photos of each scene's folder overlap, to train on these pairs")
    mine.add_argument("folder", type=Path, metavar="FOLDER", help="folder of folders of photos, one for each scene")
    mine.add_argument("-o", "--output", type=Path, required=True, metavar="FILE", help="for data.pairs=FILE")
    mine.add_argument(
        "--most", type=options.positive, default=30, metavar="N", help="pairs of a scene at most, hard ones first (30)"
    )
    mine.add_argument("--all", action="store_true", help="write all pairs of photos that were compared, unchosen")
    options.add_model_options(mine)
    mine.set_defaults(run=run_mine)

    for action in (check, download):
        action.add_argument("--dir", type=Path, metavar="FOLDER", help="of the data sets ($DATA_DIR, or data)")


def run_check(arguments: argparse.Namespace) -> int:
    """Print an inventory of each set; 1 if one that was named is not complete."""
    from ripe.data.catalogue import ALIASES, SOURCES, how_to_get, resolve
    from ripe.data.inventory import take, take_own

    complete = True
    for name in arguments.names or SOURCES:
        if name not in SOURCES and name not in ALIASES and Path(name).is_dir():
            inventory = take_own(Path(name))
            _print_inventory(name, "your own photos", inventory, "")
        else:
            key = resolve(name)
            inventory = take(key, arguments.dir)
            _print_inventory(name, SOURCES[key].title, inventory, how_to_get(key, arguments.dir))
        complete = complete and inventory.complete
    return 0 if complete or not arguments.names else 1


def run_download(arguments: argparse.Namespace) -> int:
    """Bring a data set to its place; 1 if an item failed."""
    from ripe.data.catalogue import place, resolve
    from ripe.data.downloads import download

    key = resolve(arguments.name)
    outcome = download(key, arguments.dir, arguments.archive, say=lambda line: print(line, flush=True))
    if outcome.failed:
        total = len(outcome.done) + len(outcome.failed)
        raise OSError(f"{len(outcome.failed)} of {total} items failed (see above); run the same again to fetch them")
    print(f"{place(key, arguments.dir)}: complete, {len(outcome.done)} item{'s' if len(outcome.done) > 1 else ''}")
    return 0


def run_mine(arguments: argparse.Namespace) -> int:
    """Compare all photos of each scene and write the pairs that overlap."""
    from tqdm.auto import tqdm

    from ripe.data.mining import choose, mine
    from ripe.data.own import read_scenes
    from ripe.data.photo_pairs import write_pairs
    from ripe.files import check_writable

    check_writable(arguments.output)
    scenes = read_scenes(arguments.folder)
    model = options.load_model(arguments)
    compared = mine(tqdm(scenes, unit="scene", disable=None), model, say=tqdm.write)
    pairs = compared if arguments.all else choose(compared, arguments.most)
    write_pairs(arguments.output, pairs)
    joined = sum(pair.homography is not None for pair in pairs)
    print(
        f"{arguments.output}: {len(pairs)} of {len(compared)} pairs of photos of {len(scenes)} scenes, {joined} joined "
        f"by a homography; train on them by data.pairs={arguments.output}"
    )
    return 0


def _print_inventory(name: str, title: str, inventory: Inventory, remedy: str) -> None:
    state = "complete" if inventory.complete else ("incomplete" if inventory.counts else "missing")
    print(f"{name}: {state}: {title}")
    print(
        f"  {inventory.folder}"
        + (f": {inventory.problem.removeprefix(f'{inventory.folder}: ')}" if inventory.problem else "")
    )
    for count in inventory.counts:
        print(f"  {count}")
    if not inventory.complete and remedy:
        print(f"  {remedy}")
