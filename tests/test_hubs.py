"""Models go to hubs and come back: a folder, a server that speaks as the Hugging Face Hub does, and torch.hub."""

import hashlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch

import ripe
from ripe.pretrained import weights_hash

pytest.importorskip("huggingface_hub")
from ripe.integrations.huggingface import HubModel

ROOT = Path(__file__).parents[1]
REPOSITORY = "someone/keypoints"
COMMIT = "0" * 40


@pytest.fixture
def folder(model: ripe.RIPE, tmp_path: Path) -> Path:
    HubModel(model, license="mit").save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def test_a_folder_holds_weights_configuration_and_card_and_is_read_back(folder: Path, model: ripe.RIPE) -> None:
    assert {path.name for path in folder.iterdir()} == {"README.md", "config.json", "model.safetensors"}
    config = json.loads((folder / "config.json").read_text())
    assert config["architecture"] == "compact"
    assert config["detection"]["threshold"] == model.detection.threshold
    card = (folder / "README.md").read_text()
    assert "license: mit" in card
    assert "pipeline_tag: keypoint-detection" in card
    loaded = HubModel.from_pretrained(folder)
    assert loaded.license == "mit"
    assert weights_hash(loaded.model) == config["weights_sha256"] == weights_hash(model)
    assert loaded.model.detection == model.detection


@pytest.fixture
def server(folder: Path) -> Iterator[str]:
    """The files of a folder under the addresses and with the headers of the hub."""

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self._answer(with_body=False)

        def do_GET(self) -> None:
            self._answer(with_body=True)

        def _answer(self, with_body: bool) -> None:
            prefix = f"/{REPOSITORY}/resolve/"
            path = folder / self.path.removeprefix(prefix).partition("/")[2]
            if not self.path.startswith(prefix) or not path.is_file():
                self.send_error(404)
                return
            content = path.read_bytes()
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
            self.send_header("X-Repo-Commit", COMMIT)
            self.end_headers()
            if with_body:
                self.wfile.write(content)

        def log_message(self, *arguments: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_a_repository_is_fetched_from_a_server(server: str, model: ripe.RIPE, tmp_path: Path) -> None:
    code = (
        "import sys; from ripe.integrations.huggingface import HubModel; from ripe.pretrained import weights_hash;"
        "print(weights_hash(HubModel.from_pretrained(sys.argv[1]).model))"
    )
    environment = {**os.environ, "HF_ENDPOINT": server, "HF_HOME": str(tmp_path / "cache"), "no_proxy": "127.0.0.1"}
    command = [sys.executable, "-c", code, REPOSITORY]
    result = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert result.stdout.split() == [weights_hash(model)]


def test_torch_hub_finds_the_models() -> None:
    model = torch.hub.load(str(ROOT), "compact", source="local", device="cpu")
    assert weights_hash(model) == weights_hash(ripe.load(device="cpu"))
