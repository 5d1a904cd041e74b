"""The parser of the command line: every command answers for its own options, and names what was probably meant."""

import argparse
import re
from collections.abc import Sequence
from difflib import get_close_matches
from typing import Any, NoReturn


class CommandParser(argparse.ArgumentParser):
    """A parser of `ripe` or of one of its commands; sub-parsers are of the same class."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        # SUPPRESS, as a command's default would take back what was said before the command.
        self.add_argument(
            "--debug", action="store_true", default=argparse.SUPPRESS, help="show where in the code an error arises"
        )

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """As argparse's, but an option that is not known is the command's own mistake to report, with its usage."""
        parsed, unknown = super().parse_known_args(args, namespace)
        if unknown:
            self.error(f"unrecognized arguments: {' '.join(unknown)}")
        return parsed, unknown

    def error(self, message: str) -> NoReturn:
        """Usage, the message and what was probably meant; exit status 2."""
        super().error(message + _suggestion(message, re.findall(r"--[\w-]+", self.format_usage())))


def _suggestion(message: str, options: Sequence[str]) -> str:
    """ "; did you mean …?" if a word of argparse's message is nearly one of the choices that it names, or an option."""
    words: Sequence[str]
    known: Sequence[str]
    refused = re.search(r"invalid choice: '(.*?)' \(choose from (.*)\)", message)
    if refused:
        words, known = [refused[1]], re.findall(r"[\w.-]+", refused[2])
    else:
        words, known = [word.partition("=")[0] for word in message.split() if word.startswith("--")], options
    near = [match for word in words for match in get_close_matches(word, known, n=1)]
    return f"; did you mean {near[0]}?" if near else ""
