"""Files that are whole or absent, and JSON that every reader takes."""

import json
import math
from pathlib import Path

import pytest

from ripe.files import write_json


def test_json_holds_no_numbers_that_json_does_not_have(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_json(path, {"a": [1.5, math.nan, (math.inf, -math.inf)], "b": {"c": math.nan, "d": "NaN", "e": None, "f": 3}})

    def never(word: str) -> None:
        raise AssertionError(word)

    content = json.loads(path.read_text(), parse_constant=never)
    assert content == {"a": [1.5, None, [None, None]], "b": {"c": None, "d": "NaN", "e": None, "f": 3}}


def test_what_json_cannot_hold_leaves_no_file(tmp_path: Path) -> None:
    with pytest.raises(TypeError):
        write_json(tmp_path / "a.json", {"a": object()})
    assert list(tmp_path.iterdir()) == []
