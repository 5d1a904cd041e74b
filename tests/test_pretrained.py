"""Weights: saved, loaded, fetched from a server that stands in for the publisher's, and never trusted blindly."""

import http.server
import json
import os
import pickle
import re
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import ripe
from ripe import download, pretrained
from ripe.pretrained import build
from ripe.stored_weights import read_weights, write_weights

CONTENT = bytes(range(256)) * 5000


class Server(http.server.ThreadingHTTPServer):
    """Serves `content` for every path, announcing `announced` bytes, and counts the requests."""

    content = CONTENT
    announced: int | None = None
    status = 200
    requests = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/RIPE/ripe_weights.pth"


class Handler(http.server.BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        self.server.requests += 1
        self.send_response(self.server.status)
        self.send_header("Content-Length", str(self.server.announced or len(self.server.content)))
        self.end_headers()
        self.wfile.write(self.server.content)

    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with Server(("127.0.0.1", 0), Handler) as running:
        thread = threading.Thread(target=running.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        yield running
        running.shutdown()
        thread.join()


@pytest.fixture
def released(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The place of the fetched weights; the server offers random ones of the published network."""
    torch.save(build("vgg_hyper").state_dict(), tmp_path / "released.pth")
    server.content = (tmp_path / "released.pth").read_bytes()
    monkeypatch.setenv("RIPE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(pretrained, "RELEASE_URL", server.url)
    monkeypatch.setitem(pretrained.MODELS, "vgg_hyper", replace(pretrained.MODELS["vgg_hyper"], url=server.url))
    return tmp_path / "cache" / "ripe_weights.pth"


def same_weights(first: ripe.RIPE, second: ripe.RIPE) -> bool:
    return pretrained.weights_hash(first) == pretrained.weights_hash(second)


def test_saved_weights_come_back_whole(tmp_path: Path) -> None:
    model = build("compact")
    model.detection = replace(model.detection, threshold=1.25, nms_radius=3)
    ripe.save_weights(model, tmp_path / "a.safetensors")
    loaded = ripe.load(tmp_path / "a.safetensors", device="cpu")
    assert same_weights(model, loaded)
    assert loaded.detection == model.detection
    assert loaded.name == "compact"
    assert not loaded.training


def test_half_precision_halves_the_file(tmp_path: Path) -> None:
    model = build("compact")
    for name, dtype in (("full", torch.float32), ("half", torch.float16)):
        ripe.save_weights(model, tmp_path / name, dtype=dtype)
    assert (tmp_path / "half").stat().st_size < 0.52 * (tmp_path / "full").stat().st_size
    loaded = ripe.load(tmp_path / "half", device="cpu")
    for key, value in model.state_dict().items():
        torch.testing.assert_close(loaded.state_dict()[key], value, rtol=1e-3, atol=1e-4)


def test_equal_weights_are_equal_files(tmp_path: Path) -> None:
    model = build("compact")
    files = [tmp_path / f"{number}.safetensors" for number in range(10)]
    for file in files:
        ripe.save_weights(model, file)
    assert len({file.read_bytes() for file in files}) == 1


def test_what_a_file_says_of_itself_may_hold_any_character(tmp_path: Path) -> None:
    metadata = {"b": '\u00fc \u4e16 \U0001f600 \x07 \\ " \n', "a": "", "c": "{}"}
    for width in range(9):
        write_weights({"x" * (width + 1): torch.arange(3.0)}, tmp_path / "a.safetensors", metadata)
        state, found = read_weights(tmp_path / "a.safetensors")
        assert found == metadata
        torch.testing.assert_close(state, {"x" * (width + 1): torch.arange(3.0)})


def test_options_of_the_architecture_are_kept(tmp_path: Path) -> None:
    options = {"desc_shares": [64, 64, 64, 64]}
    model = build("vgg_hyper", **options)
    ripe.save_weights(model, tmp_path / "a.safetensors", options=options)
    assert same_weights(ripe.load(tmp_path / "a.safetensors", device="cpu"), model)


def test_broken_weights_are_not_saved(tmp_path: Path) -> None:
    model = build("compact")
    with torch.no_grad():
        next(model.parameters()).fill_(1e6)
    with pytest.raises(ValueError, match="beyond the range"):
        ripe.save_weights(model, tmp_path / "a.safetensors", dtype=torch.float16)
    assert list(tmp_path.iterdir()) == []


def test_compact_is_the_default_and_its_weights_are_those_of_this_version() -> None:
    assert same_weights(ripe.load(device="cpu"), ripe.load("compact", device="cpu"))


def test_other_compact_weights_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ripe.save_weights(build("compact"), tmp_path / "compact.safetensors")
    monkeypatch.setattr(pretrained.Pretrained, "path", lambda self: tmp_path / "compact.safetensors")
    with pytest.raises(ValueError, match="install the package again"):
        ripe.load("compact")


def test_an_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(ValueError, match="compact, robust, vgg_hyper"):
        ripe.load("tiny")


def test_a_missing_file_is_named() -> None:
    with pytest.raises(FileNotFoundError, match=r"no/such\.safetensors"):
        ripe.load("no/such.safetensors")


def test_an_unknown_dtype_is_refused() -> None:
    with pytest.raises(ValueError, match=r"torch\.float64"):
        ripe.load(dtype=torch.float64)


@pytest.mark.parametrize("content", [b"", b"text", b"PK\x03\x04broken", b"\x80\x02broken", b"\x10" + 7 * b"\0" + b"{"])
def test_a_damaged_file_is_refused_by_name(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "bad.pth").write_bytes(content)
    with pytest.raises(ValueError, match=r"bad\.pth"):
        ripe.load(tmp_path / "bad.pth")


def test_weights_of_another_architecture_are_refused(tmp_path: Path) -> None:
    torch.save(build("compact").state_dict(), tmp_path / "other.pth")
    with pytest.raises(ValueError, match="do not fit"):
        ripe.vgg_hyper(tmp_path / "other.pth")


class Malicious:
    def __reduce__(self) -> tuple:
        return os.mkdir, ("owned",)


@pytest.mark.parametrize("writer", [torch.save, lambda value, path: path.write_bytes(pickle.dumps(value, protocol=2))])
def test_a_weights_file_cannot_run_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, writer: object) -> None:
    monkeypatch.chdir(tmp_path)
    writer({"weight": Malicious()}, tmp_path / "evil.pth")  # type: ignore[operator]
    with pytest.raises(ValueError, match=r"evil\.pth"):
        ripe.load(tmp_path / "evil.pth")
    assert not (tmp_path / "owned").exists()


def test_released_weights_are_fetched_once_and_recorded(
    released: Path, server: Server, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    model = ripe.vgg_hyper()
    assert "non-commercial" in caplog.text
    assert "ripe_weights.pth" in capfd.readouterr().err
    assert same_weights(model, ripe.load("vgg_hyper", device="cpu"))
    assert server.requests == 1
    record = json.loads(released.with_name("ripe_weights.pth.json").read_text())
    assert record["size"] == released.stat().st_size
    assert record["url"] == server.url
    assert sorted(path.name for path in released.parent.iterdir()) == ["ripe_weights.pth", "ripe_weights.pth.json"]


def test_changed_weights_are_refused_until_they_are_deleted(released: Path, server: Server) -> None:
    ripe.vgg_hyper()
    content = bytearray(released.read_bytes())
    content[-1000] ^= 1
    released.write_bytes(content)
    with pytest.raises(ValueError, match="delete it"):
        ripe.vgg_hyper()
    released.unlink()
    released.with_name(released.name + ".json").unlink()
    ripe.vgg_hyper()
    assert server.requests == 2


def test_weights_put_there_by_hand_are_taken_and_recorded(released: Path, server: Server) -> None:
    released.parent.mkdir()
    released.write_bytes(server.content)
    ripe.vgg_hyper()
    assert server.requests == 0
    released.write_bytes(server.content[:-1])
    with pytest.raises(ValueError, match="delete it"):
        ripe.vgg_hyper()


def test_offline_it_says_where_the_file_belongs(released: Path, server: Server) -> None:
    server.shutdown()
    server.server_close()
    with pytest.raises(OSError, match=re.escape(str(released))):
        ripe.vgg_hyper()
    assert list(released.parent.iterdir()) == []


@pytest.mark.parametrize("fault", [{"announced": len(CONTENT) + 1000}, {"status": 404}, {"status": 500}])
def test_a_failed_download_leaves_nothing(server: Server, tmp_path: Path, fault: dict) -> None:
    vars(server).update(fault)
    with pytest.raises(OSError, match="by other means"):
        download.fetch(server.url, tmp_path / "a.pth")
    assert [path.name for path in tmp_path.iterdir() if path.suffix != ".json"] == []


def test_a_download_has_the_served_content(server: Server, tmp_path: Path) -> None:
    download.fetch(server.url, tmp_path / "new" / "a.pth")
    assert (tmp_path / "new" / "a.pth").read_bytes() == CONTENT
    download.verify(tmp_path / "new" / "a.pth")


def test_a_damaged_record_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.pth").write_bytes(CONTENT)
    (tmp_path / "a.pth.json").write_text("{")
    with pytest.raises(ValueError, match="damaged record"):
        download.verify(tmp_path / "a.pth")


def test_desc_shares_do_not_fit_the_released_weights() -> None:
    with pytest.raises(ValueError, match="model_path"):
        ripe.vgg_hyper(desc_shares=[64, 64, 64, 64])


@pytest.mark.parametrize("name", ["gpu", "mps", "meta", "cuda:99", torch.device("cuda", 99)])
def test_a_device_that_is_not_there_is_one_line_with_those_that_are(name: str | torch.device) -> None:
    with pytest.raises(ValueError, match=f"device {name} cannot be used here; there are: cpu") as caught:
        ripe.load(device=name)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.skipif(torch.cuda.is_available(), reason="has CUDA")
def test_cuda_where_there_is_none_is_no_assertion_error() -> None:
    with pytest.raises(ValueError, match="device cuda cannot be used here"):
        ripe.load(device="cuda")


def test_the_hash_of_bfloat16_weights_can_be_had() -> None:
    model = build("compact")
    assert pretrained.weights_hash(model) != pretrained.weights_hash(model.bfloat16())
