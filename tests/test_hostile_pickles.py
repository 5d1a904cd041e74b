"""No file that anybody hands in is unpickled: by no function of the library, and by no option of a command."""

import argparse
import ast
import io
import os
import pickle
import shutil
import zipfile
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch

import ripe
from ripe import runtime
from ripe.cli import COMMANDS, _parser, main
from ripe.data.photo_pairs import read_pairs
from ripe.evaluation.baselines import baseline
from ripe.evaluation.benchmarks import annotated, hpatches, imw2020, megadepth1500
from ripe.pair_lists import read_pair_list
from ripe.pretrained import build
from ripe.storage import FeatureFile, FeatureReader, MatchFile, read_features, read_matches
from ripe.training.checkpoint import CheckpointFolder, load_checkpoint
from ripe.training.initial import load_imagenet_encoder, load_initial
from ripe.training.presets import compose


class Malicious:
    """Whoever unpickles it has made a folder."""

    def __reduce__(self) -> tuple:
        return os.mkdir, ("owned",)


def saved(write: Callable) -> bytes:
    buffer = io.BytesIO()
    write({"weight": Malicious()}, buffer)
    return buffer.getvalue()


def npz(value: object, file: io.BytesIO) -> None:
    names = ("keypoints", "scores", "descriptors", "image_size", "scales")
    np.savez(file, **{name: np.array([value], dtype=object) for name in names})


PICKLES = {
    "plain": saved(pickle.dump),
    "protocol 2": saved(lambda value, file: pickle.dump(value, file, protocol=2)),
    "PyTorch": saved(torch.save),
    "old PyTorch": saved(lambda value, file: torch.save(value, file, _use_new_zipfile_serialization=False)),
    "npy": saved(lambda value, file: np.save(file, np.array([value], dtype=object))),
    "npz": saved(npz),
}
SETTINGS = {"model": "compact"}


@cache
def a_model(name: str = "compact") -> ripe.RIPE:
    return build(name)


# What reads a file, or a folder, that a caller names. The folder holds the file under each name that is looked for.
READERS: dict[str, Callable[[Path, Path], object]] = {
    "load": lambda file, folder: ripe.load(file, device="cpu"),
    "vgg_hyper": lambda file, folder: ripe.vgg_hyper(file),
    "load_matcher": lambda file, folder: ripe.load_matcher(file, device="cpu"),
    "load_features": lambda file, folder: ripe.load_features(file),
    "a photo": lambda file, folder: a_model().extract(file),
    "a mask": lambda file, folder: a_model().extract(np.zeros((20, 20, 3), np.uint8), masks=[file]),
    "align": lambda file, folder: ripe.align(file, file),
    "stitch": lambda file, folder: ripe.stitch([file, file]),
    "match_photos": lambda file, folder: ripe.match_photos(file, file),
    "runtime.load": lambda file, folder: runtime.load(file),
    "runtime.load_matcher": lambda file, folder: runtime.load_matcher(file),
    "FeatureReader": lambda file, folder: FeatureReader(file),
    "FeatureFile": lambda file, folder: FeatureFile(file, SETTINGS),
    "MatchFile": lambda file, folder: MatchFile(file, {"matcher": "mutual"}),
    "read_features": lambda file, folder: read_features(file),
    "read_matches": lambda file, folder: list(read_matches(file, [("a", "b")])),
    "read_pair_list": lambda file, folder: read_pair_list(file),
    "mined pairs": lambda file, folder: read_pairs(file),
    "annotated pairs": lambda file, folder: annotated.read(folder),
    "hpatches": lambda file, folder: hpatches.read(folder),
    "imw2020": lambda file, folder: imw2020.read(folder),
    "megadepth1500": lambda file, folder: megadepth1500.read(folder),
    "load_checkpoint": lambda file, folder: load_checkpoint(file),
    "the newest checkpoint": lambda file, folder: CheckpointFolder(folder, 3).newest(),
    "initial weights": lambda file, folder: load_initial(a_model(), file),
    "an encoder": lambda file, folder: load_imagenet_encoder(a_model("vgg_hyper"), file),
    "a preset": lambda file, folder: compose("own", config_dir=folder),
    "disk": lambda file, folder: baseline(f"disk={file}", 10),
    "aliked": lambda file, folder: baseline(f"aliked={file}", 10),
    "xfeat": lambda file, folder: baseline(f"xfeat={file}", 10),
}
NAMES = (
    *("pairs.json", "dataset.json", "own.yaml", "step-00000001.pt", "a.jpg", "b.jpg", "pairs.txt", "views.txt"),
    *(
        "pairs_calibrated.txt",
        "model.safetensors",
        "config.json",
        "motorcycle_left.jpg.png",
        "v_one/H_1_2",
        "v_one/1.ppm",
    ),
    *("one/a.jpg", "one/b.jpg"),
)
# Every command with every option that takes what is read.
LINES = (
    "match evil evil",
    "match left.jpg right.jpg --model evil",
    "match left.jpg right.jpg --model evil --backend onnx",
    "match left.jpg right.jpg --method evil.safetensors",
    "match left.jpg right.jpg --resize 64 --masks folder",
    "match --pairs evil --features evil -o matches.h5",
    "match --pairs pairs.txt --features evil -o matches.h5 --geometry homography --photos folder",
    "align left.jpg evil -o aligned.png",
    "align left.jpg right.jpg -o aligned.png --model evil",
    "stitch evil left.jpg -o panorama.png",
    "stitch folder -o panorama.png --model evil",
    "extract folder -o features.h5",
    "extract left.jpg -o features.h5 --model evil",
    "extract left.jpg -o features.h5 --model evil.onnx --backend onnx",
    "extract left.jpg -o features.h5 --resize 64 --masks folder",
    "extract left.jpg -o evil",
    "convert evil -o features.h5",
    "convert evil --features evil --photos folder -o database.db",
    "pairs evil -o chosen.txt",
    "pairs folder -o chosen.txt --model evil",
    "pairs evil -o chosen.txt --photos folder",
    "reconstruct folder -o scene",
    "reconstruct folder -o scene --pairs evil",
    "reconstruct folder -o scene --features evil --matches evil",
    "reconstruct folder -o scene --model evil",
    "reconstruct folder -o scene --masks folder",
    "reconstruct folder -o scene --method evil.safetensors",
    "eval pairs folder",
    "eval pairs folder --model evil",
    "eval pairs folder --baseline disk=evil",
    "eval pairs folder --method evil.safetensors",
    "eval hpatches folder",
    "eval imw2020 folder",
    "eval megadepth1500 folder",
    "train --config-name own --config-dir folder",
    "train resume=evil data.root=folder",
    "train model.start=evil data.root=folder",
    "train data.root=folder data.pairs=evil",
    "train --config-name matcher matcher.extractor=evil data.root=folder",
    "data check folder",
    "data check --dir folder",
    "data download acdc --from evil --dir folder",
    "data mine folder -o mined.json --model evil",
    "export evil -o out.onnx",
    "demo --model evil",
)
WRITTEN = {"output", "json", "mask"}
AS_EXTRACT = {"int8"}  # a folder of photos, which is read as that of `ripe extract`, after a minute


@pytest.fixture
def place(tmp_path: Path, photos: list[Path], monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The current folder; whatever is unpickled leaves something there."""
    monkeypatch.chdir(tmp_path)
    for photo, name in zip(photos, ("left.jpg", "right.jpg"), strict=True):
        shutil.copy(photo, name)
    Path("pairs.txt").write_text("a.jpg b.jpg\n")
    yield tmp_path
    assert not Path("owned").exists()


def strew(content: bytes) -> None:
    """A hostile file under every name that is looked for."""
    for name in ("evil", "evil.safetensors", "evil.onnx", *(f"folder/{name}" for name in NAMES)):
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_bytes(content)


@pytest.mark.parametrize("kind", PICKLES)
def test_the_pickles_are_hostile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    monkeypatch.chdir(tmp_path)
    content = io.BytesIO(PICKLES[kind])
    if "PyTorch" in kind:
        torch.load(content, weights_only=False)
    elif kind == "npz":
        np.load(content, allow_pickle=True)["keypoints"]
    else:
        np.load(content, allow_pickle=True)
    assert Path("owned").is_dir()


@pytest.mark.parametrize("reader", READERS)
def test_no_function_runs_what_a_file_holds(place: Path, reader: str) -> None:
    for content in PICKLES.values():
        strew(content)
        with pytest.raises((OSError, ValueError), match=r"evil|folder|photos|own"):
            READERS[reader](place / "evil", place / "folder")


@pytest.mark.parametrize("line", LINES)
def test_no_command_runs_what_a_file_holds(place: Path, line: str, capfd: pytest.CaptureFixture[str]) -> None:
    strew(PICKLES["PyTorch"])
    assert main(line.split()) in (0, 1, 3), capfd.readouterr().err


def test_every_option_that_reads_is_in_the_lines() -> None:
    words = {word for line in LINES for word in line.split()}
    assert {line.split()[0] for line in LINES} == COMMANDS.keys() - {"info"}
    for command in COMMANDS:
        missing = {action.option_strings[-1] for action in reading(_parser(command))} - words
        assert not missing, (command, missing)


def reading(parser: argparse.ArgumentParser) -> Iterator[argparse.Action]:
    """The options of a command, and of its own commands, that name what is read."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for inner in action.choices.values():
                yield from reading(inner)
        elif action.option_strings and action.dest not in WRITTEN | AS_EXTRACT and names_a_file(action):
            yield action


def names_a_file(action: argparse.Action) -> bool:
    return action.type is Path or "FILE" in str(action.metavar) or "TXT" in str(action.metavar)


def test_nothing_in_the_package_could() -> None:
    """Weights go through `torch.load(weights_only=True)` in one place, and nothing else reads pickles or runs text."""
    loads = 0
    for path in Path(ripe.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import | ast.ImportFrom):
                names = {name.name.split(".")[0] for name in node.names} | {str(getattr(node, "module", ""))}
                own = {"pickle"} if path.name == "engines.py" else set()  # between its own processes, as Ray does
                assert not names & {"pickle", "joblib", "dill", "marshal", "shelve", "cloudpickle"} - own, path
            if isinstance(node, ast.Call):
                called = ast.unparse(node.func)
                options = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
                assert called not in {"eval", "exec", "yaml.load", "torch.jit.load", "torch.hub.load"}, path
                assert called != "np.load" or options["allow_pickle"] == "False", path
                if called == "torch.load":
                    loads += 1
                    assert options["weights_only"] == "True", path
    assert loads == 1


@pytest.mark.parametrize("reader", ["load", "load_checkpoint", "load_features"])
def test_a_small_file_does_not_become_a_large_one(place: Path, reader: str) -> None:
    """As a bomb: what is compressed in a zip file may be a thousand times as large."""
    stored = zipfile.ZipFile(io.BytesIO(PICKLES["npz" if reader == "load_features" else "PyTorch"]))
    with zipfile.ZipFile("bomb.pth", "w", zipfile.ZIP_DEFLATED) as bomb:
        for name in stored.namelist():
            bomb.writestr(name, stored.read(name) + bytes(10**6))
    with pytest.raises(ValueError, match=r"bomb\.pth") as caught:
        READERS[reader](place / "bomb.pth", place)
    causes = [str(caught.value), str(caught.value.__cause__)]
    assert any("compressed parts" in cause for cause in causes)
