"""Files that are whole or absent, and JSON that every reader takes."""

import json
import math
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from ripe.files import scratch, sweep, write_json


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


KILLED = """
import os, pathlib, signal
from ripe.files import scratch
with scratch(pathlib.Path("sub/model.pt")) as folder:
    (folder / "model.pt").write_text("half of it")
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_what_a_killed_process_left_is_swept_and_what_is_being_made_stays(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    ended = subprocess.run([sys.executable, "-c", KILLED], cwd=tmp_path, check=False)
    assert ended.returncode == -signal.SIGKILL
    assert {path.name for path in (tmp_path / "sub").iterdir()} == {".model.pt.tmp", ".model.pt.lock"}
    (tmp_path / ".mine").write_text("kept")
    with scratch(tmp_path / "other.pt") as folder:
        (folder / "other.pt").write_text("half of it")
        sweep(tmp_path)
        assert (folder / "other.pt").read_text() == "half of it"
        (folder / "other.pt").replace(tmp_path / "other.pt")
    assert sorted(path.name for path in tmp_path.rglob("*")) == [".mine", "other.pt", "sub"]
