"""What a run shows and notes: the progress display, CSV, TensorBoard and Weights & Biases."""

import csv
import io
import sys
from pathlib import Path

import numpy as np
import pytest

from ripe.recipe.config import TrainConfig
from ripe.training.loggers import FIGURES, CsvLogger, TensorBoardLogger, WandbLogger, open_loggers
from ripe.training.progress import Progress

FIGURES_OF_A_STEP = {"loss/total": 1.5, "keypoints": 120.0, "inlier_ratio/real": 0.25, "pairs_per_second": 7.0}


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_elsewhere_than_on_a_terminal_progress_is_plain_lines() -> None:
    stream = io.StringIO()
    progress = Progress(TrainConfig(steps=5, log_interval=2), stream)
    for step in range(1, 6):
        progress(step, FIGURES_OF_A_STEP)
    progress.note("a remark")
    progress.close()
    lines = stream.getvalue().splitlines()
    assert [line.split()[1] for line in lines[:-1]] == ["2/5", "4/5", "5/5"]
    assert "loss 1.5  kpts 120  in.real 0.25  pairs/s 7" in lines[1]
    assert lines[-2].endswith("left 0:00:00")
    assert lines[-1] == "a remark"


def test_on_a_terminal_progress_is_one_bar() -> None:
    stream = Terminal()
    progress = Progress(TrainConfig(steps=5), stream)
    for step in range(1, 6):
        progress(step, FIGURES_OF_A_STEP)
    progress.close()
    assert "5/5" in stream.getvalue()
    assert "loss=1.5" in stream.getvalue()
    assert stream.getvalue().count("\n") == 1


def test_the_log_grows_by_rows_and_columns(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    logger = CsvLogger(path, 0)
    logger.log(1, {"loss/total": 0.5})
    logger.log(2, {"loss/total": 0.25})
    logger.log(2, {"val/score": 40.0})
    logger.log(3, {"loss/total": float("nan")})
    found = rows(path)
    assert list(found[0]) == ["step", *FIGURES, "val/score"]
    assert [(row["step"], row["loss/total"], row["val/score"]) for row in found] == [
        ("1", "0.5", ""),
        ("2", "0.25", "40"),
        ("3", "nan", ""),
    ]


def test_the_log_of_a_run_that_goes_on_loses_what_is_done_again(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    logger = CsvLogger(path, 0)
    for step in (1, 2, 3):
        logger.log(step, {"loss/total": float(step), "val/score": 1.0})
    with path.open("a") as file:
        file.write("4,1")  # the process died while it was writing
    logger = CsvLogger(path, 2)
    logger.log(3, {"loss/total": 9.0, "val/score": 2.0})
    assert [(row["step"], row["loss/total"], row["val/score"]) for row in rows(path)] == [
        ("1", "1", "1"),
        ("2", "2", "1"),
        ("3", "9", "2"),
    ]


def test_tensorboard_reads_what_was_noted(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    config = TrainConfig(tensorboard=True)
    _, logger = open_loggers(config, tmp_path, 0)
    logger.log(5, {"loss/total": 0.5})
    logger.picture(5, np.zeros((8, 8, 3), np.uint8), tmp_path / "a.png")
    logger.close()
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [(event.step, event.value) for event in events.Scalars("loss/total")] == [(5, 0.5)]
    assert len(events.Images("matches")) == 1


@pytest.mark.slow
def test_weights_and_biases_writes_a_run_offline_and_goes_on_under_its_id(tmp_path: Path) -> None:
    pytest.importorskip("wandb")
    config = TrainConfig(wandb_mode="offline")
    for step in (1, 2):
        logger = WandbLogger(config, tmp_path)
        logger.log(step, {"loss/total": 0.5})
        logger.picture(step, np.zeros((8, 8, 3), np.uint8), tmp_path / "a.png")
        logger.close()
    identity = (tmp_path / "wandb_id.txt").read_text().strip()
    files = list((tmp_path / "wandb").glob(f"offline-run-*/run-{identity}.wandb"))
    assert files
    assert all(file.stat().st_size > 0 for file in files)


def test_a_logger_that_is_not_installed_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(ValueError, match="wandb_mode=online needs W&B: pip install wandb, or set wandb_mode=disabled"):
        WandbLogger(TrainConfig(wandb_mode="online"), tmp_path)
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(ValueError, match="tensorboard=true needs TensorBoard"):
        TensorBoardLogger(tmp_path, 0)
