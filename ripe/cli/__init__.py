"""The command line `ripe`: one module for each command, imported only when that command is asked for.

A command's module has `add_parser(subparsers)`, which sets `run` as a default, and `run(arguments) -> exit status`.
"""

import argparse
import os
import re
import sys
import traceback
from collections.abc import Iterable, Sequence
from importlib import import_module

import ripe
from ripe.cli.parser import CommandParser

COMMANDS = {
    "match": ("ripe.cli.match", "match two photos and fit their geometry"),
    "align": ("ripe.cli.align", "warp one photo into the frame of another"),
    "stitch": ("ripe.cli.stitch", "join overlapping photos into a panorama"),
    "extract": ("ripe.cli.extract", "extract the features of many photos to an HDF5 file or a table"),
    "convert": ("ripe.cli.convert", "convert tables of features or matches to HDF5 files and back, and for COLMAP"),
    "pairs": ("ripe.cli.pairs", "choose which pairs of many photos to match"),
    "reconstruct": ("ripe.cli.reconstruct", "reconstruct a scene from a folder of photos with COLMAP"),
    "eval": ("ripe.cli.evaluate", "measure accuracy on annotated image pairs"),
    "train": ("ripe.cli.train", "train a network on a folder of photos"),
    "data": ("ripe.cli.data", "check and download the public data sets"),
    "export": ("ripe.cli.export", "write a network as an ONNX file, for what runs without PyTorch"),
    "demo": ("ripe.cli.demo", "serve a web page that matches two photos"),
    "info": ("ripe.cli.info", "show versions, models and matchers with licence and size, and the device"),
}
DESCRIPTION = "Keypoints and descriptors learnt from unlabeled image pairs."
SPINS = "10000"
"""No slower on an idle machine than GNU's default, 300 000 and more (docs/benchmarks.md, Threads)."""
FAULT = 70  # EX_SOFTWARE of sysexits.h
EPILOG = """examples:
  ripe match left.jpg right.jpg -o matches.png
  ripe extract photos/ -o features.h5
  ripe COMMAND --help    says more about each command
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command and return the exit status.

    It is 0, 1 after an error of the input, 3 where photos have nothing in common, 70 after a fault of ours, 130 after
    Ctrl-C; wrong usage exits with 2.
    """
    _let_threads_rest()
    words = sys.argv[1:] if argv is None else list(argv)
    command = next((word for word in words if not word.startswith("-")), None)
    arguments = _parser(command).parse_args(words)
    try:
        return arguments.run(arguments)
    except KeyboardInterrupt:
        return _fail("interrupted", 130)
    except Exception as error:
        debug = getattr(arguments, "debug", False)
        if debug:
            traceback.print_exc()
        message, status = _explained(error, debug)
        return _fail(_with_options(message, vars(arguments)), status)


def _let_threads_rest() -> None:
    """Have PyTorch's threads on Linux wait for work a moment, not long; before PyTorch is imported, or not at all.

    By its own default GNU's OpenMP spins so long that beside one busy process each photo takes five times as long.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", SPINS)


def _explained(error: Exception, debug: bool) -> tuple[str, int]:
    """What an error is to the user, and the exit status."""
    if isinstance(error, OSError | ValueError):
        return f"error: {error}", 1
    if isinstance(error, ModuleNotFoundError) and error.name and not error.name.startswith("ripe"):
        advice = "pip install ripe-keypoints brings all; ripe extract --backend onnx does without PyTorch"
        if error.name in ("fsspec", "pyarrow"):
            advice = "pip install 'ripe-keypoints[scale]'"
        return f"error: this needs {error.name}, which is not installed ({advice})", 1
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":  # Python's, and PyTorch's
        return f"error: out of memory: {error}", 1
    asked = "the lines above" if debug else "what the same line prints with --debug"
    kind = type(error).__name__
    return f"fault: {kind}: {error} (this should not happen, whatever the input is; please report {asked})", FAULT


def _with_options(message: str, names: Iterable[str]) -> str:
    """A message of the library, which names its arguments, with the command's options in their place.

    That is where a name is the subject, as in "ratio is 2; …", or cannot be an ordinary word.
    """
    for name in names:
        option = f"--{name.replace('_', '-')}"
        anywhere = rf"|(?<![\w/.-]){name}(?![\w/.-])" if "_" in name and option not in message else ""
        message = re.sub(rf"(?<=^error: ){name}(?= is ){anywhere}", option, message)
    return message


def _parser(chosen: str | None) -> argparse.ArgumentParser:
    parser = CommandParser(
        prog="ripe", description=DESCRIPTION, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    version = f"%(prog)s {ripe.__version__}"
    parser.add_argument("-V", "--version", action="version", version=version, help="show the version and exit")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    for name, (module, summary) in COMMANDS.items():
        if name == chosen:
            import_module(module).add_parser(commands)
        else:
            commands.add_parser(name, help=summary)
    return parser


def _fail(message: str, status: int) -> int:
    print("ripe:", " ".join(message.splitlines()), file=sys.stderr)
    return status
