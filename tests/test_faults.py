"""Faults of the system and of servers: some moments of `tests/faults.py`, and each fault that it has found."""

import http.server
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from ripe import download
from ripe.data.archives import strip, unpack
from ripe.files import replacing, write_json

SCRIPT = Path(__file__).parent / "faults.py"
CONTENT = bytes(range(256)) * 40
MOMENTS = {"kill": 2, "fill": 1, "lose": 0, "hide": 1, "cut": 1, "turn-back": 0, "twice": 1, "forbid": 0}


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="it forks")
def test_faults_at_random_moments_change_nothing() -> None:
    words = [sys.executable, str(SCRIPT), "--jobs", "extract", "match"]
    words += [word for name, count in MOMENTS.items() for word in (f"--{name}s", str(count))]
    ended = subprocess.run(words, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert ended.returncode == 0, ended.stdout + ended.stderr


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


KILLED = """
import os, signal, sys
from ripe.files import replacing
with replacing(sys.argv[1]) as temporary:
    temporary.write_text("half")
    temporary.with_name("a.json-journal").write_text("of a database")
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.skipif(os.name != "posix", reason="the signal is POSIX'")
def test_what_a_killed_process_leaves_goes_with_the_next_one(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text("old")
    assert subprocess.run([sys.executable, "-c", KILLED, path]).returncode == -signal.SIGKILL
    assert path.read_text() == "old"
    assert names(tmp_path) == [".a.json.lock", ".a.json.tmp", "a.json"]
    write_json(path, [1])
    assert path.read_text() == "[1]\n"
    assert names(tmp_path) == ["a.json"]


def test_those_who_write_one_file_at_once_wait_for_each_other(tmp_path: Path) -> None:
    path, inside = tmp_path / "a", []

    def write(number: int) -> None:
        with replacing(path) as temporary:
            inside.append(number)
            assert not temporary.exists()
            temporary.write_text(str(number))
            time.sleep(0.02)
            assert inside[-1] == number
            assert temporary.read_text() == str(number)

    with ThreadPoolExecutor(8) as executor:
        list(executor.map(write, range(16)))
    assert path.read_text() == str(inside[-1])
    assert names(tmp_path) == ["a"]


def test_what_is_left_of_an_archive_that_was_being_unpacked_goes(tmp_path: Path) -> None:
    (tmp_path / "data" / ".unpacked.tmp").mkdir(parents=True)
    (tmp_path / "data" / ".unpacked.tmp" / "half.jpg").write_bytes(b"half")
    (tmp_path / "made").mkdir()
    (tmp_path / "made" / "a.jpg").write_bytes(b"whole")
    subprocess.run(["tar", "cf", tmp_path / "a.tar", "-C", tmp_path, "made/a.jpg"], check=True)
    assert unpack(tmp_path / "a.tar", tmp_path / "data", strip(1)) == ["a.jpg"]
    assert names(tmp_path / "data") == ["a.jpg"]


class Broken(http.server.BaseHTTPRequestHandler):
    """A server that does to a file what the address says."""

    released = threading.Event()

    def do_GET(self) -> None:
        match self.path:
            case "/loop":
                self.send_response(302)
                self.send_header("Location", "/loop")
                self.end_headers()
            case "/stall":
                self._send(CONTENT[:100], len(CONTENT))
                self.released.wait(30)
            case "/half":
                self._send(CONTENT[: len(CONTENT) // 2], len(CONTENT))
            case "/endless":
                self._send(bytes(20_000), None)
            case _:
                self._send(CONTENT, len(CONTENT))

    def _send(self, content: bytes, length: int | None) -> None:
        self.send_response(200)
        if length is not None:
            self.send_header("Content-Length", str(length))
        self.end_headers()
        self.wfile.write(content)
        self.wfile.flush()

    def log_message(self, *words: object) -> None:
        pass


@pytest.fixture
def broken(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Its address."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(download, "TIMEOUT_SECONDS", 0.3)
    monkeypatch.setattr(download, "PAGE_BYTES", 15_000)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Broken) as server:
        Broken.released.clear()
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        Broken.released.set()
        server.shutdown()


FAULTS = {
    "loop": "302",
    "stall": "timed out",
    "half": f"{len(CONTENT) // 2} of {len(CONTENT)} bytes arrived",
}
WAYS: dict[str, Callable[[str, Path], object]] = {
    "fetch": download.fetch,
    "resumable": lambda url, path: download.fetch_resumable(url, path, attempts=2, wait_seconds=0),
    "text": lambda url, path: download.fetch_text(url),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("fault", FAULTS)
def test_faults_of_a_server_are_one_line_and_leave_nothing_that_is_not_whole(
    broken: str, tmp_path: Path, fault: str, way: str
) -> None:
    url = f"{broken}/{fault}"
    with pytest.raises(OSError, match=FAULTS[fault]) as refusal:
        WAYS[way](url, tmp_path / "a.pth")
    assert url in str(refusal.value)
    assert "\n" not in str(refusal.value)
    assert set(names(tmp_path)) <= ({"a.pth.part"} if way == "resumable" else set())


def test_a_page_without_end_is_refused(broken: str) -> None:
    with pytest.raises(OSError, match="more than 15000 bytes"):
        download.fetch_text(f"{broken}/endless")


def test_the_wrong_file_is_not_kept(broken: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not the right file"):
        download.fetch(f"{broken}/wrong", tmp_path / "a.pth", sha256="0123")
    assert names(tmp_path) == []


def test_of_two_that_fetch_a_file_one_does(broken: str, tmp_path: Path) -> None:
    with ThreadPoolExecutor(2) as executor:
        list(executor.map(lambda number: download.fetch(f"{broken}/{number}", tmp_path / "a.pth"), range(2)))
    assert (tmp_path / "a.pth").read_bytes() == CONTENT
    assert names(tmp_path) == ["a.pth", "a.pth.json"]
    download.verify(tmp_path / "a.pth")
    download.fetch(f"{broken}/half", tmp_path / "a.pth")  # it is there
