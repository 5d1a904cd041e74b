"""Lists of pairs, as several tools and people write them."""

from pathlib import Path

import pytest

from ripe.pair_lists import read_pair_list

LINES = {
    "hloc": ("db/1.jpg query/2.jpg", ("db/1.jpg", "query/2.jpg")),
    "a third column with a score": ("a.jpg b.jpg 0.31", ("a.jpg", "b.jpg")),
    "SuperGlue's, with rotations and cameras": ("a.jpg b.jpg 0 0 525.0 0. 3e2", ("a.jpg", "b.jpg")),
    "tabs between names with blanks": ("my photo 1.jpg\tmy photo 2.jpg\t0.5", ("my photo 1.jpg", "my photo 2.jpg")),
    "quoted names with blanks": ('"my photo.jpg" b.jpg', ("my photo.jpg", "b.jpg")),
    "a quoted name with a tab": ('"a\tb.jpg" c.jpg', ("a\tb.jpg", "c.jpg")),
    "quotes within quotes": ('"5"" lens.jpg" b.jpg', ('5" lens.jpg', "b.jpg")),
    "quotes and tabs": ('"a ""b"".jpg"\tc d.jpg', ('a "b".jpg', "c d.jpg")),
    "quotes within a name": ("it's.jpg 5\"lens.jpg", ("it's.jpg", '5"lens.jpg')),
    "a name that begins with #": ('"#1.jpg" b.jpg', ("#1.jpg", "b.jpg")),
    "the shell's ./": ("./a.png ./sub//b.png", ("a.png", "sub/b.png")),
    "blanks around": ("  a.jpg   b.jpg ", ("a.jpg", "b.jpg")),
    "macOS's narrow space": ("at\u202f3.png b.png", ("at\u202f3.png", "b.png")),
}


@pytest.mark.parametrize("kind", LINES)
def test_a_line_is_two_names(tmp_path: Path, kind: str) -> None:
    line, pair = LINES[kind]
    (tmp_path / "pairs.txt").write_text(f"# comment\n\n{line}\n", encoding="utf-8")
    assert read_pair_list(tmp_path / "pairs.txt") == [pair]


def test_what_editors_on_windows_write(tmp_path: Path) -> None:
    (tmp_path / "pairs.txt").write_bytes(b"\xef\xbb\xbfa.jpg b.jpg\r\nc.jpg d.jpg\r\n")
    assert read_pair_list(tmp_path / "pairs.txt") == [("a.jpg", "b.jpg"), ("c.jpg", "d.jpg")]


def test_a_pair_counts_once(tmp_path: Path) -> None:
    (tmp_path / "pairs.txt").write_text("a b\nb a\na b\na c\n")
    assert read_pair_list(tmp_path / "pairs.txt") == [("a", "b"), ("a", "c")]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"a.jpg\n", "pairs.txt, line 1: give two different names"),
        (b"a b\na a\n", "pairs.txt, line 2: give two different names"),
        (b"a ./a\n", "pairs.txt, line 1: give two different names"),
        (b"a b\n\nmy photo.jpg b.jpg\n", "pairs.txt, line 3: more than two names; .* double quotes"),
        (b"\n# only a comment\n", "pairs.txt: holds no pair"),
        (b"\xff\xfe", "pairs.txt: not a text file"),
    ],
)
def test_lists_that_are_none(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "pairs.txt").write_bytes(content)
    with pytest.raises(ValueError, match=message):
        read_pair_list(tmp_path / "pairs.txt")
