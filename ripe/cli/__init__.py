"""The command line `ripe`: one module for each command.

A command's module imports what is slow inside its `run`, so that help and usage errors come at once.
"""

import argparse
import sys
from collections.abc import Sequence

from ripe.cli import extract, info, match

COMMANDS = (match, extract, info)
DESCRIPTION = "Keypoints and descriptors learnt from unlabeled image pairs."
EPILOG = """examples:
  ripe match left.jpg right.jpg -o matches.png
  ripe extract photos/ -o features.h5
  ripe COMMAND --help    says more about each command
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command and return the exit status: 0, 1 after an error, 2 for wrong usage, 130 after Ctrl-C."""
    arguments = _parser().parse_args(argv)
    try:
        return arguments.run(arguments)
    except KeyboardInterrupt:
        return _fail("interrupted", 130)
    except (OSError, ValueError, TypeError) as error:
        return _fail(f"error: {error}", 1)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="ripe", description=DESCRIPTION, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    for command in COMMANDS:
        command.add_parser(commands)
    return parser


def _fail(message: str, status: int) -> int:
    print("ripe:", " ".join(message.split()), file=sys.stderr)
    return status
