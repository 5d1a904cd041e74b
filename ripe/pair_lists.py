"""Lists of image pairs in text files, as hloc, COLMAP and Glue Factory write them and as one writes them by hand."""

import re
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath

from ripe.files import replacing
from ripe.storage import Pair

QUOTED = r'"(?:[^"]|"")*"'
# Other kinds of space, such as the narrow one in the names of macOS's screenshots, belong to the name.
BY_BLANKS = re.compile(rf"{QUOTED}(?=[ \t]|$)|[^ \t]+")
BY_TABS = re.compile(rf"{QUOTED}(?=[ ]*(?:\t|$))|[^\t]+")


def read_pair_list(path: str | Path) -> list[Pair]:
    """The pairs of a text file (see `pair_lines`); one that comes again, in either order, counts once.

    Raises:
        FileNotFoundError, ValueError: there is no such file, it holds no pair, or a line is none; the message names it.
    """
    pairs: dict[frozenset[str], Pair] = {}
    for _, pair in pair_lines(path):
        pairs.setdefault(frozenset(pair), pair)
    if not pairs:
        raise ValueError(f"{path}: holds no pair")
    return list(pairs.values())


def write_pair_list(path: str | Path, pairs: Iterable[Pair]) -> None:
    """Write pairs to a text file as `read_pair_list` and hloc read them: two names a line, a blank between them.

    Names that hold blanks or quotes, or begin with #, stand in double quotes, which hloc takes for a part of the name.

    Raises:
        ValueError: a name holds a line break.
        OSError: the file cannot be written.
    """
    lines = [f"{_quoted(name0)} {_quoted(name1)}\n" for name0, name1 in pairs]
    with replacing(path) as temporary:
        temporary.write_text("".join(lines), encoding="utf-8", newline="\n")


def pair_lines(path: str | Path) -> Iterator[tuple[str, Pair]]:
    """Each pair of a text file in UTF-8, two names a line, and where it is, in words.

    Names are separated by blanks, or by tabs where a line has one; a name that holds blanks, tabs or a leading # stands
    in double quotes, and double quotes within these are doubled, as in CSV. What follows the names must be numbers
    (scores, or cameras as in SuperGlue's lists) and is passed over, and so are empty lines and those that begin with #.
    A leading `./` is dropped.

    Raises:
        FileNotFoundError, ValueError: there is no such file, or a line is no pair; the message names the line.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not a text file in UTF-8") from error
    for number, line in enumerate(lines, start=1):
        words = [] if line.startswith("#") else _words(line)
        if words:
            yield f"{path}, line {number}", _pair(words, f"{path}, line {number}")


def _quoted(name: str) -> str:
    if set(name) & set("\r\n"):
        raise ValueError(f"{name!r}: a list of pairs cannot hold a name with a line break; rename the photo")
    doubled = name.replace('"', '""')
    return f'"{doubled}"' if re.search(r'[ \t"]|^#', name) else name


def _words(line: str) -> list[str]:
    pattern = BY_TABS if "\t" in re.sub(QUOTED, "name", line).strip() else BY_BLANKS
    words = [word.strip(" \t\r") for word in pattern.findall(line)]
    return [word[1:-1].replace('""', '"') if re.fullmatch(QUOTED, word) else word for word in words if word]


def _pair(words: list[str], place: str) -> Pair:
    name0, name1 = (PurePosixPath(word).as_posix() for word in (words * 2)[:2])
    if len(words) < 2 or name0 == name1:
        raise ValueError(f"{place}: give two different names, separated by a blank")
    if not all(map(_is_number, words[2:])):
        raise ValueError(f"{place}: more than two names; names that hold blanks must stand in double quotes")
    return name0, name1


def _is_number(word: str) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return True
