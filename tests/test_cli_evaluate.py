"""`ripe eval`: tables, files, resumption and refusal."""

import csv
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import h5py
import numpy as np
import pytest
from made_sets import WARPS, wall_in_second_view, write_annotated, write_hpatches, write_imw, write_megadepth
from PIL import Image

import ripe
from ripe import runtime
from ripe.cli import main
from ripe.evaluation import baselines


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """All data sets as they lie in $DATA_DIR. Do not change them."""
    root = tmp_path_factory.mktemp("sets")
    write_annotated(root / "annotated")
    write_hpatches(root)
    write_megadepth(root, packaged=True)
    write_imw(root)
    return root


@pytest.fixture
def annotated(root, tmp_path):
    return shutil.copytree(root / "annotated", tmp_path / "annotated")


ORB = ("--model", "none", "--baseline", "orb")


def table_rows(text: str) -> list[list[str]]:
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line[:1] == "|"]


def results(output: Path):
    return json.loads((output / "results.json").read_text())


def test_tables_files_and_pictures(annotated, tmp_path, random_weights, capsys):
    output = tmp_path / "out"
    words = ["--model", str(random_weights), "--baseline", "sift", "orb", "--max-keypoints", "300", "--repeats", "2"]
    words += ["--resize", "256", "--device", "cpu", "--detector", "--gallery", "1", "-o", str(output)]
    assert main(["eval", "pairs", str(annotated), *words]) == 0
    printed = capsys.readouterr().out
    assert "### homography: 3 pairs" in printed
    assert "### pose: 1 pairs" in printed
    assert "Long side at most 256 px, at most 300 keypoints, mutual nearest neighbours, PoseLib homography" in printed
    assert re.search(r"2 seeds; AUC .*threads: PyTorch \d+, OpenCV \d+", printed)
    assert (output / "report.md").read_text().strip() == printed.strip()
    rows = table_rows(printed)
    assert {len(row) for row in rows} == {8, 9}
    assert [row[0] for row in rows if row[0] in ("random", "sift", "orb")] == ["random", "sift", "orb"] * 3
    record = results(output)
    assert record["versions"]["torch"]
    assert record["settings"]["benchmark"] == "pairs"
    assert [entry["name"] for entry in record["sets"]] == ["homography", "pose"]
    model, sift, _ = record["sets"][0]["results"]
    threshold = ripe.load(random_weights, device="cpu").detection.threshold
    assert (model["extractor_settings"]["model"], model["extractor_settings"]["threshold"]) == ("compact", threshold)
    assert len(sift["pairs"]["shift"]["errors"]) == 2
    assert sift["auc"][2] > 80
    assert sift["protocol"].startswith("long side at most 256 px")
    assert sift["detector"]["repeatability"][2] > 0.4
    assert record["sets"][1]["results"][0]["detector"] is None
    [pose] = record["sets"][1]["results"][1]["pairs"].values()
    assert pose["errors"] == list(map(max, pose["rotation_errors"], pose["translation_errors"]))
    assert len(set(pose["errors"] + pose["rotation_errors"])) > 2
    with (output / "pairs.csv").open(newline="", encoding="utf-8") as file:
        table = {(row["set"], row["extractor"], row["pair"]): row for row in csv.DictReader(file)}
    assert len(table) == 3 * (3 + 1)
    turned = float(table["pose", "sift", "wall"]["rotation (°)"])
    assert turned == pytest.approx(np.mean(pose["rotation_errors"]), abs=1e-3)
    shift = table["homography", "sift", "shift"]
    assert float(shift["error"]) == pytest.approx(np.mean(sift["pairs"]["shift"]["errors"]), abs=1e-3)
    assert (shift["unit"], shift["rotation (°)"]) == ("px", "")
    page = (output / "gallery.html").read_text()
    pictures = re.findall(r"<img src='([^']+)'", page)
    assert len(pictures) == 2 * 3 + 1 * 3  # worst and best of three pairs, and the only pair, of three extractors
    for picture in (*pictures, "recall-homography.png", "recall-pose.png"):
        with Image.open(output / picture) as image:
            assert image.width > 100
    assert "tilt: error" in page or "turn: error" in page


def test_pairs_with_a_matrix_and_with_clicked_points_of_a_scene_with_depth(tmp_path, capsys):
    """The same warp by H as by points; and two views of a folded wall by points that are projected to both."""
    folder = write_annotated(tmp_path / "set")
    content = json.loads((folder / "homography" / "pairs.json").read_text())
    for pair in content["pairs"]:
        del pair["points0"], pair["points1"]
        pair["H"] = WARPS[pair["name"]]
    (folder / "homography" / "pairs.json").write_text(json.dumps(content))
    points0 = np.random.default_rng(0).uniform((60, 60), (450, 300), (15, 2))
    points1 = wall_in_second_view(points0)
    pair = {"name": "wall", "image0": "a.png", "image1": "b.png", "points0": points0.tolist()}
    output = tmp_path / "out"
    words = ["--model", "none", "--baseline", "sift", "--repeats", "1", "--gallery", "1", "-o", str(output)]
    errors = []
    for clicked in (points1, points1 + np.array([0, 40])):
        described = {"model": "fundamental", "pairs": [{**pair, "points1": clicked.tolist()}]}
        (folder / "pose" / "pairs.json").write_text(json.dumps(described))
        assert main(["eval", "pairs", str(folder), *words]) == 0
        assert "PoseLib fundamental matrix 1 px" in capsys.readouterr().out
        by_matrix, by_points = (entry["results"][0] for entry in results(output)["sets"])
        errors += by_points["pairs"]["wall"]["errors"]
        assert (by_points["precision"] > 0.7) == (clicked is points1)
    assert errors[0] < 2
    assert errors[1] > 10
    assert max(pair["errors"][0] for pair in by_matrix["pairs"].values()) < 1
    assert by_matrix["precision"] > 0.7


@pytest.mark.parametrize("name", ["hpatches", "megadepth1500", "imw2020"])
def test_benchmarks_are_found_in_the_data_folder(root, tmp_path, monkeypatch, capsys, name):
    monkeypatch.setenv("DATA_DIR", str(root))
    monkeypatch.chdir(tmp_path)
    assert main(["eval", name, "--model", "none", "--baseline", "sift", "--repeats", "1", "--gallery", "0"]) == 0
    rows = table_rows(capsys.readouterr().out)
    limits = ["1 px", "3 px", "5 px"] if name == "hpatches" else ["5°", "10°", "20°"]
    assert rows[0][2:5] == [f"AUC@{limit}" for limit in limits]
    assert float(rows[2][4].split()[0]) > 85
    assert not (tmp_path / "outputs" / "eval" / name / "gallery.html").exists()
    assert results(tmp_path / "outputs" / "eval" / name)["sets"][0]["pairs"] == (10 if name == "hpatches" else 1)


def test_another_threshold_needs_no_extraction(root, tmp_path, monkeypatch):
    command = ["eval", "hpatches", str(root / "hpatches-sequences-release"), "-o", str(tmp_path), "--gallery", "0"]
    command += ["--model", "none", "--baseline", "orb", "--limit", "4"]
    assert main([*command, "--repeats", "1"]) == 0
    first = results(tmp_path)

    def never(max_keypoints):
        return lambda image: pytest.fail("extracted again")

    monkeypatch.setitem(baselines.BASELINES, "orb", never)
    assert main([*command, "--repeats", "2", "--estimator-threshold", "3"]) == 0
    second = results(tmp_path)
    assert "PoseLib homography 3 px" in second["sets"][0]["protocol"]["text"]
    assert first["sets"][0]["results"][0]["auc"] != second["sets"][0]["results"][0]["auc"]
    assert main([*command, "--repeats", "1"]) == 0
    assert results(tmp_path)["sets"] == first["sets"]


def test_a_baseline_stands_beside_compact(annotated, tmp_path, capsys):
    command = ["eval", "pairs", str(annotated / "homography"), "--baseline", "orb", "--limit", "1", "--gallery", "0"]
    command += ["--resize", "200", "--max-keypoints", "100", "--repeats", "1", "--method", "mutual", "--ratio", "0.95"]
    assert main([*command, "--device", "cpu", "-o", str(tmp_path / "out")]) == 0
    printed = capsys.readouterr().out
    assert [row[0].split()[0] for row in table_rows(printed)[2:]] == ["compact", "orb"]
    assert "mutual nearest neighbours, ratio at most 0.95, PoseLib" in printed
    assert main(["eval", "pairs", str(annotated), "--model", "none", "-o", str(tmp_path / "none")]) == 1
    assert "name a --baseline" in capsys.readouterr().err


def test_an_exported_file_is_as_accurate_as_its_weights(annotated, tmp_path):
    pytest.importorskip("onnxruntime")
    words = ["eval", "pairs", str(annotated), "--device", "cpu", "--repeats", "1", "--gallery", "0", "--resize", "256"]
    words += ["--model", "compact", str(runtime.COMPACT), "-o", str(tmp_path / "out")]
    assert main(words) == 0
    for each in results(tmp_path / "out")["sets"]:
        ours, exported = each["results"]
        assert ours["extractor_settings"] == {**exported["extractor_settings"], "scales": None}
        for name, pair in exported["pairs"].items():
            assert abs(pair["matches"] - ours["pairs"][name]["matches"]) <= 0.02 * pair["matches"]
    assert main([*words, "--scales", "1,0.5"]) == 1


def test_other_settings_are_refused_until_overwritten(annotated, tmp_path, capsys):
    command = ["eval", "pairs", str(annotated / "homography"), "-o", str(tmp_path / "out"), *ORB]
    assert main([*command, "--max-keypoints", "200"]) == 0
    before = (tmp_path / "out" / "results.json").read_bytes()
    assert main([*command, "--max-keypoints", "100"]) == 1
    assert "was begun with other settings (--max-keypoints 200 there, 100 now" in capsys.readouterr().err
    assert main([*command, "--max-keypoints", "200", "--resize", "300"]) == 1
    assert "--resize long side at most 1024 px there, long side at most 300 px now" in capsys.readouterr().err
    assert (tmp_path / "out" / "results.json").read_bytes() == before
    assert main([*command, "--max-keypoints", "200", "--ratio", "0.9"]) == 1
    error = capsys.readouterr().err
    assert "mutual nearest neighbours there, mutual nearest neighbours, ratio at most 0.9 now" in error
    assert main([*command, "--max-keypoints", "100", "--overwrite"]) == 0
    assert results(tmp_path / "out")["sets"][0]["results"][0]["mean_keypoints"] <= 100


def test_a_killed_run_goes_on_where_it_was(root, tmp_path):
    command = ["eval", "hpatches", str(root / "hpatches-sequences-release"), "--model", "none", "--baseline", "sift"]
    command += ["--repeats", "1"]
    command += ["--gallery", "0", "-o"]
    parts = tmp_path / "killed" / "hpatches" / "sift" / "features.h5.parts"
    process = subprocess.Popen(
        [sys.executable, "-m", "ripe.cli", *command, str(tmp_path / "killed")],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 60
    while len(list(parts.glob("*.h5"))) < 2 and time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.005)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    done = {}
    for part in parts.glob("*.h5"):
        with h5py.File(part) as file:
            file.visititems(
                lambda name, item: done.setdefault(name, item.attrs["milliseconds"]) if item.attrs else None
            )
    assert 2 <= len(done) < 12
    assert main([*command, str(tmp_path / "killed")]) == 0
    assert not parts.exists()
    with h5py.File(tmp_path / "killed" / "hpatches" / "sift" / "features.h5") as file:
        assert {name: file[name].attrs["milliseconds"] for name in done} == done
    assert main([*command, str(tmp_path / "whole")]) == 0
    killed, whole = (results(tmp_path / name)["sets"][0]["results"][0] for name in ("killed", "whole"))
    assert killed["pairs"] == whole["pairs"]
    np.testing.assert_array_equal(killed["auc"], whole["auc"])


def test_unreadable_photos_are_named_at_the_end(annotated, tmp_path, capsys):
    broken = annotated / "homography" / "turn_1.png"
    broken.write_bytes(b"no photo")
    assert main(["eval", "pairs", str(annotated / "homography"), *ORB, "-o", str(tmp_path / "o")]) == 1
    streams = capsys.readouterr()
    assert "2 of 3 pairs" in streams.out
    assert streams.err.splitlines()[-1].startswith(f"ripe: left out, with its pairs: {broken}: not an image")


def test_the_limit_of_pixels_can_be_set(annotated, tmp_path, capsys):
    large = annotated / "homography" / "turn_1.png"
    Image.new("RGB", (1100, 1000)).save(large)
    command = ["eval", "pairs", str(annotated / "homography"), "--baseline", "orb", "-o", str(tmp_path / "o")]
    assert main([*command, "--max-megapixels", "1"]) == 1
    streams = capsys.readouterr()
    assert "2 of 3 pairs" in streams.out
    assert streams.err.splitlines()[-1].startswith(f"ripe: left out, with its pairs: {large}: 1100×1000 pixels")
    assert main(command) == 0


def test_failures_are_null_in_json(annotated, tmp_path):
    for name in ("shift_0.png", "shift_1.png"):
        Image.new("RGB", (64, 64)).save(annotated / "homography" / name)
    assert main(["eval", "pairs", str(annotated / "homography"), *ORB, "-o", str(tmp_path / "o")]) == 0
    [result] = results(tmp_path / "o")["sets"][0]["results"]
    assert result["pairs"]["shift"] == {"errors": [None] * 3, "matches": 0, "correct": 0}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["pairs", "nowhere"], "nowhere: no such folder"),
        (["hpatches"], "get the data set by: ripe data download hpatches"),
        (["pairs", "SET", "--baseline", "surf"], "no baseline 'surf'"),
        (["pairs", "SET", "--baseline", "disk=nowhere.pth"], "nowhere.pth: no such file"),
        (["pairs", "SET", "--model", "nothing"], "unknown model 'nothing'"),
    ],
)
def test_what_cannot_be_done_is_said_in_a_line(root, tmp_path, monkeypatch, capsys, words, message):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DATA_DIR", raising=False)
    assert main(["eval", *(str(root / "annotated") if word == "SET" else word for word in words)]) == 1
    streams = capsys.readouterr()
    assert message in streams.err
    assert streams.err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_numbers_below_one_are_refused(capsys):
    with pytest.raises(SystemExit):
        main(["eval", "pairs", "a", "--repeats", "0"])
    assert "0 is not 1 or more" in capsys.readouterr().err
