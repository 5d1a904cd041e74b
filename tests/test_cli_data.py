"""`ripe data`: inventories, and downloads from a server that breaks off, lies and loses files."""

import hashlib
import http.server
import io
import re
import subprocess
import sys
import tarfile
import tempfile
import threading
import zipfile
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path, PurePosixPath

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from made_sets import write_acdc, write_disk, write_hpatches, write_imw, write_megadepth, write_own, write_tokyo

from ripe import download
from ripe.cli import main
from ripe.data import archives, catalogue, downloads, inventory

CONTENT = bytes(range(256)) * 4000


class Server(http.server.ThreadingHTTPServer):
    """Serves `files`, with byte ranges; a path in `cut` is broken off after so many bytes, once for each number."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.files: dict[str, bytes] = {}
        self.cut: dict[str, list[int]] = {}
        self.ranges = True
        self.tagged = True
        self.requests: list[tuple[str, str | None]] = []

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that hangs up is no news."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Handler(http.server.BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        asked = self.headers.get("Range")
        self.server.requests.append((self.path, asked))
        content = self.server.files.get(self.path)
        if content is None:
            self.send_error(404)
            return
        tag = f'"{hashlib.sha1(content).hexdigest()}"'
        start = 0
        if asked and self.server.ranges and self.headers.get("If-Range") == tag:
            start = int(asked.removeprefix("bytes=").removesuffix("-"))
            if start >= len(content):
                self.send_response(416)
                self.send_header("Content-Range", f"bytes */{len(content)}")
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        else:
            self.send_response(200)
        if self.server.tagged:
            self.send_header("ETag", tag)
        self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        cuts = self.server.cut.get(self.path)
        end = start + cuts.pop(0) if cuts else len(content)
        self.wfile.write(content[start:end])

    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    with Server() as running:
        thread = threading.Thread(target=running.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        yield running
        running.shutdown()
        thread.join()


def zipped(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as file:
        for name, content in files.items():
            file.writestr(name, content)
    return buffer.getvalue()


def tarred(files: dict[str, bytes], mode: str = "w") -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode) as file:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            file.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def packed_disk(tmp_path: Path, server: Server) -> None:
    """DISK's site as its download script expects it: an index, sums, and an archive of each scene."""
    folder = write_disk(tmp_path / "made", scenes=("0000", "0015", "0101"))
    files = {"megadepth/dataset.json": (folder / "dataset.json").read_bytes()}
    for scene in ("0000", "0015", "0101"):
        photos = {
            f"disk-data/megadepth/scenes/{path.relative_to(folder / 'scenes').as_posix()}": path.read_bytes()
            for path in sorted((folder / "scenes" / scene).rglob("*.jpg"))
        }
        files[f"megadepth/scenes/{scene}.tar"] = tarred(photos)
    files["imw2020-val/dataset.json"] = b"{}"
    links = "".join(f'<li><a href="{name}">{name}</a></li>' for name in files)
    sums = "".join(f"{hashlib.md5(content).hexdigest()}  ./{name}\n" for name, content in files.items())
    outside = (
        '<a href="https://example.org/x.tar">x</a><a href="/x.tar"></a><a href="%2e%2e/y.tar"></a><a name="z"></a>'
    )
    server.files = {f"/disk-data/{name}": content for name, content in files.items()}
    server.files["/disk-data/index.html"] = f"<html>{outside}<ul>{links}</ul></html>".encode()
    server.files["/disk-data/md5sum.txt"] = sums.encode()


@pytest.fixture
def disk(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Server:
    packed_disk(tmp_path, server)
    source = replace(catalogue.SOURCES["megadepth"], url=f"{server.url}/disk-data/index.html")
    monkeypatch.setitem(catalogue.SOURCES, "megadepth", source)
    return server


def leftovers(folder: Path) -> list[str]:
    return [path.name for path in folder.rglob("*") if ".tmp" in path.name or path.name.endswith((".part", ".etag"))]


@settings(deadline=None, max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.integers(0, len(CONTENT) - 1), max_size=4), st.booleans(), st.booleans())
def test_a_broken_download_goes_on_where_it_was(
    server: Server, tmp_path: Path, cuts: list[int], ranges: bool, tagged: bool
) -> None:
    server.files, server.cut, server.ranges, server.tagged = {"/a.zip": CONTENT}, {"/a.zip": list(cuts)}, ranges, tagged
    server.requests.clear()
    download.fetch_resumable(f"{server.url}/a.zip", tmp_path / "a.zip", md5=hashlib.md5(CONTENT).hexdigest())
    assert (tmp_path / "a.zip").read_bytes() == CONTENT
    assert leftovers(tmp_path) == []
    if ranges and tagged and not server.cut["/a.zip"]:
        starts = [int(asked[6:-1]) for _, asked in server.requests[1:] if asked]
        assert starts == [start for start in [sum(cuts[:n]) for n in range(1, len(server.requests))] if start]


def test_a_later_run_goes_on_as_well(server: Server, tmp_path: Path) -> None:
    server.files, server.cut = {"/a.zip": CONTENT}, {"/a.zip": [1000, 2000]}
    with pytest.raises(OSError, match="run the same again to go on"):
        download.fetch_resumable(f"{server.url}/a.zip", tmp_path / "a.zip", attempts=2)
    assert (tmp_path / "a.zip.part").read_bytes() == CONTENT[:3000]
    download.fetch_resumable(f"{server.url}/a.zip", tmp_path / "a.zip")
    assert server.requests[-1] == ("/a.zip", "bytes=3000-")
    assert (tmp_path / "a.zip").read_bytes() == CONTENT


def test_a_file_that_had_arrived_whole_is_not_fetched_again(server: Server, tmp_path: Path) -> None:
    server.files, server.cut = {"/a.zip": CONTENT}, {"/a.zip": [1000]}
    with pytest.raises(OSError, match="cannot download"):
        download.fetch_resumable(f"{server.url}/a.zip", tmp_path / "a.zip", attempts=1)
    (tmp_path / "a.zip.part").write_bytes(CONTENT)  # as if stopped just before the file got its name
    download.fetch_resumable(f"{server.url}/a.zip", tmp_path / "a.zip")
    assert (tmp_path / "a.zip").read_bytes() == CONTENT


def test_a_file_that_changed_on_the_server_is_fetched_anew(server: Server, tmp_path: Path) -> None:
    server.files, server.cut = {"/a.zip": CONTENT}, {"/a.zip": [1000]}
    with pytest.raises(OSError, match="cannot download"):
        download.fetch_resumable(f"{server.url}/a.zip", tmp_path / "a.zip", attempts=1)
    server.files["/a.zip"] = CONTENT[::-1]
    download.fetch_resumable(f"{server.url}/a.zip", tmp_path / "a.zip")
    assert (tmp_path / "a.zip").read_bytes() == CONTENT[::-1]


def test_a_file_with_another_sum_is_deleted(server: Server, tmp_path: Path) -> None:
    server.files = {"/a.zip": CONTENT}
    with pytest.raises(ValueError, match="arrived damaged"):
        download.fetch_resumable(f"{server.url}/a.zip", tmp_path / "a.zip", md5="0" * 32)
    assert not (tmp_path / "a.zip").exists()
    assert not (tmp_path / "a.zip.part").exists()


def test_disk_is_downloaded_resumed_and_complete(
    disk: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    disk.cut = {"/disk-data/megadepth/scenes/0000.tar": [700, 2000]}
    root = tmp_path / "data"
    assert main(["data", "download", "disk-megadepth", "--dir", str(root)]) == 0
    shown = capsys.readouterr()
    assert "[4/4] scenes/0101.tar: fetched and unpacked" in shown.out
    assert "0000.tar" in shown.err  # the progress bar
    folder = root / "disk-data" / "megadepth"
    made = tmp_path / "made" / "disk-data" / "megadepth"
    photos = sorted(path.relative_to(made) for path in made.rglob("*.jpg"))
    assert sorted(path.relative_to(folder) for path in folder.rglob("*.jpg")) == photos
    assert all((folder / path).read_bytes() == (made / path).read_bytes() for path in photos)
    assert sorted(path.name for path in (folder / "scenes").iterdir()) == ["0000", "0015", "0101"]
    assert leftovers(root) == []
    assert main(["data", "check", "disk-megadepth", "--dir", str(root)]) == 0
    requests = len(disk.requests)
    assert main(["data", "download", "megadepth", "--dir", str(root)]) == 0
    assert len(disk.requests) == requests + 2  # the index and the sums
    assert [path for path in tmp_path.rglob("y.tar")] == []


@pytest.mark.parametrize("fault", ["lost", "damaged", "truncated"])
def test_a_bad_item_is_reported_and_the_others_are_fetched(
    disk: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str], fault: str
) -> None:
    address = "/disk-data/megadepth/scenes/0000.tar"
    whole = disk.files[address]
    match fault:
        case "lost":
            del disk.files[address]
        case "damaged":
            disk.files[address] = whole[:3000] + b"x" + whole[3001:]
        case "truncated":
            disk.files[address] = whole[:3000]
            disk.files["/disk-data/md5sum.txt"] = b""
    command = ["data", "download", "megadepth", "--dir", str(tmp_path / "data")]
    assert main(command) == 1
    shown = capsys.readouterr()
    assert re.search(r"\[2/4\] scenes/0000\.tar: failed: .*(404|MD5|damaged archive)", shown.out)
    assert "ripe: error: 1 of 4 items failed" in shown.err
    scenes = tmp_path / "data" / "disk-data" / "megadepth" / "scenes"
    assert sorted(path.name for path in scenes.iterdir()) == ["0015", "0101"]
    assert main(["data", "check", "megadepth", "--dir", str(tmp_path / "data")]) == 1
    assert "2 of 3 scenes, missing\n  8 of 12 photos, missing" in capsys.readouterr().out
    disk.files[address] = whole
    assert main(command) == 0
    assert (scenes / "0000" / "images").is_dir()


def test_an_index_that_is_gone_or_empty_is_named(disk: Server, tmp_path: Path) -> None:
    disk.files["/disk-data/index.html"], disk.files["/disk-data/md5sum.txt"] = b"<html>moved</html>", b""
    with pytest.raises(ValueError, match="lists no file in megadepth/"):
        downloads.download("megadepth", tmp_path / "data")
    disk.files.clear()
    with pytest.raises(OSError, match=r"cannot read .*index\.html"):
        downloads.download("megadepth", tmp_path / "data")


def test_pages_below_the_index_are_followed(disk: Server) -> None:
    scenes = re.findall(rb"<li><a href=.megadepth.*?</li>", disk.files["/disk-data/index.html"])
    disk.files["/disk-data/md5sum.txt"] = b""
    disk.files["/disk-data/index.html"] = b'<a href="megadepth/">m</a><a href="index.html">here</a>'
    disk.files["/disk-data/megadepth/"] = b"".join(scenes).replace(b'href="megadepth/', b'href="')
    items = downloads.read_index(f"{disk.url}/disk-data/index.html", "megadepth/")
    assert [item.path for item in items] == [
        "dataset.json",
        *(f"scenes/{name}.tar" for name in ("0000", "0015", "0101")),
    ]
    assert all(item.md5 is None for item in items)


@pytest.mark.parametrize("name", ["hpatches", "megadepth1500"])
def test_zips_are_downloaded_to_their_place(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    made = write_hpatches(tmp_path) if name == "hpatches" else write_megadepth(tmp_path, packaged=True)
    files = {path.relative_to(tmp_path).as_posix(): path.read_bytes() for path in made.rglob("*") if path.is_file()}
    source = replace(catalogue.SOURCES[name], url=f"{server.url}/{name}.zip")
    monkeypatch.setitem(catalogue.SOURCES, name, replace(source, holds="v_astronaut") if name == "hpatches" else source)
    root = tmp_path / "data"
    server.files[f"/{name}.zip"] = zipped(files)[:-500]
    assert downloads.download(name, root).failed
    assert not any(path.is_file() for path in root.rglob("*"))
    server.files[f"/{name}.zip"] = zipped(files)
    assert downloads.download(name, root).failed == []
    assert {path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file()} == set(files)
    requests = len(server.requests)
    assert downloads.download(name, root).failed == []
    assert len(server.requests) == requests


@pytest.mark.parametrize("prefix", ["", "ACDC/", "a/b/"])
@pytest.mark.parametrize("kind", ["zip", "tar", "tar.gz"])
def test_an_archive_fetched_by_hand_is_put_in_its_place(
    tmp_path: Path, prefix: str, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    files = {f"{prefix}rgb_anon/fog/train/GOPR0475/x_rgb_anon.png": b"photo", "License.pdf": b"terms"}
    archive = tmp_path / f"given.{kind}"
    archive.write_bytes(zipped(files) if kind == "zip" else tarred(files, "w:gz" if kind == "tar.gz" else "w"))
    root = tmp_path / "data"
    assert main(["data", "download", "acdc", "--dir", str(root), "--from", str(archive)]) == 0
    assert (root / "ACDC/rgb_anon/fog/train/GOPR0475/x_rgb_anon.png").read_bytes() == b"photo"
    assert archive.exists()
    assert main(["data", "download", "tokyo", "--dir", str(root), "--from", str(archive)]) == 1
    assert "holds no 00001.jpg" in capsys.readouterr().err


@pytest.mark.parametrize(("name", "page"), [("tokyo", "torii"), ("acdc", "acdc.vision.ee.ethz.ch")])
def test_sets_that_people_hand_out_are_not_pretended_to_be_downloadable(
    name: str, page: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["data", "download", name]) == 1
    shown = capsys.readouterr().err
    assert "cannot be downloaded by a program" in shown
    assert page in shown


def test_archives_cannot_write_outside_their_folder(tmp_path: Path) -> None:
    for name in ("../evil", "/evil", "a/../../evil"):
        (tmp_path / "a.zip").write_bytes(zipped({name: b"x", "good": b"y"}))
        with pytest.raises(ValueError, match="must not reach outside") if ".." in name else nullcontext():
            archives.unpack(tmp_path / "a.zip", tmp_path / "in", lambda path: path)
        assert not (tmp_path / "evil").exists()
        assert not Path("/evil").exists()
    assert leftovers(tmp_path) == []


def test_links_in_archives_are_left_out(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as file:
        link = tarfile.TarInfo("link")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc"
        file.addfile(link)
        member = tarfile.TarInfo("photo")
        file.addfile(member, io.BytesIO())
    assert archives.unpack(tmp_path / "a.tar", tmp_path / "in", lambda path: path) == ["photo"]


@settings(max_examples=30, deadline=None)
@given(kind=st.sampled_from(["zip", "w", "w:gz"]), share=st.floats(0.0, 0.99))
def test_a_truncated_archive_changes_nothing(kind: str, share: float) -> None:
    files = {f"set/{index}.jpg": bytes(range(256)) * 8 for index in range(4)}
    whole = zipped(files) if kind == "zip" else tarred(files, kind)
    # A plain tar archive ends in zeros that nobody misses.
    length = int(share * (4 * (512 + 2048) if kind == "w" else len(whole)))
    with tempfile.TemporaryDirectory() as root:
        archive, folder = Path(root) / "archive", Path(root) / "in"
        archive.write_bytes(whole[:length])
        folder.mkdir()
        (folder / "0.jpg").write_bytes(b"old")
        with pytest.raises(ValueError, match=r"archive: damaged archive|holds nothing"):
            archives.unpack(archive, folder, archives.strip(1))
        assert [(path.name, path.read_bytes()) for path in folder.iterdir()] == [("0.jpg", b"old")]


def test_a_name_is_stripped_like_tar_does() -> None:
    rename = archives.strip(3)
    assert rename(PurePosixPath("a/b/c/0000/images/x.jpg")) == PurePosixPath("0000/images/x.jpg")
    assert rename(PurePosixPath("a/b/c")) is None


def test_check_lists_every_set_and_does_not_fail_by_itself(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATA_DIR", str(tmp_path))
    assert main(["data", "check"]) == 0
    shown = capsys.readouterr().out
    assert all(f"{name}: missing" in shown for name in catalogue.SOURCES)
    assert main(["data", "check", "tokyo"]) == 1
    assert main(["data", "check", "nonsense"]) == 1
    assert "there are: acdc" in capsys.readouterr().err


def test_check_counts_what_is_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_disk(tmp_path)
    write_tokyo(tmp_path, places=1)
    write_acdc(tmp_path, frames=1)
    imw = write_imw(tmp_path)
    write_hpatches(tmp_path)
    write_megadepth(tmp_path, packaged=True)
    assert main(["data", "check", "--dir", str(tmp_path)]) == 0
    shown = capsys.readouterr().out
    for line in (
        "megadepth: complete",
        "5 of 5 scenes",
        "20 of 20 photos",
        "20 tuples",
        "3 scenes of benchmarks, never trained on",
        "imw2020: complete",
        "2 of 2 calibrations",
        "tokyo: incomplete",
        "9 of 1125 photos, missing",
        "9 of 1125 csv files, missing, not needed",
        "1 of 1 pairs of fog, train",
        "0 pairs of snow, train",
        "3 of 116 sequences, missing",
        "1 of 1500 pairs, missing",
        "2 of 2 photos",
    ):
        assert line in shown, line
    next(imw.rglob("*.h5")).unlink()
    assert main(["data", "check", "disk-imw2020", "--dir", str(tmp_path)]) == 1
    assert "1 of 2 calibrations, missing" in capsys.readouterr().out
    (imw / "dataset.json").write_text("{")
    assert "not valid JSON" in inventory.take("imw2020", tmp_path).problem


VILLAGE = """
from ripe.data.dataset import Count, DataSet
from ripe.data.own import read_scenes

SET = DataSet("village", "A village", "https://example.org", "village", "archive", "church",
    count=lambda folder: [Count("scenes", len(read_scenes(folder)), 2)],
    scenes=lambda folder, config, seed: read_scenes(folder))
"""


def test_a_data_set_is_one_module(tmp_path: Path) -> None:
    """Checked and trained on by its name, without a line about it elsewhere."""
    (tmp_path / "modules").mkdir()
    (tmp_path / "modules" / "village.py").write_text(VILLAGE)
    write_own(tmp_path / "data" / "village", {"church": 2, "mill": 2})
    code = f"""
import ripe.data.sets
ripe.data.sets.__path__.append({str(tmp_path / "modules")!r})
from ripe.cli import main
assert main(["data", "check", "village", "--dir", {str(tmp_path / "data")!r}]) == 0
from ripe.data.pairs import read_sets
from ripe.training.presets import compose
config = compose("train", ["data=megadepth+village"]).data
assert config.sets == {{"megadepth": 0.8, "village": 0.2}} and config.view == "letterbox"
alone = compose("train", ["data=village", "data.dir={tmp_path / "data"}"])
print([scene.name for scene in read_sets(alone.data, alone.seed)["village"]])
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path)
    assert "village: complete: A village" in result.stdout
    assert result.stdout.endswith("['church', 'mill']\n")


def test_check_looks_at_ones_own_photos(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_own(tmp_path / "mine", {"church": 3, "tower": 1}, singles=2)
    assert main(["data", "check", str(tmp_path / "mine")]) == 0
    shown = capsys.readouterr().out
    assert "6 photos\n  2 scenes\n  1 of them with two photos or more\n  2 photos without a scene" in shown
    (tmp_path / "empty").mkdir()
    assert main(["data", "check", str(tmp_path / "empty")]) == 1


def test_help_has_examples(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["data", "--help"])
    assert "examples:\n  ripe data check" in capsys.readouterr().out
