"""A run: what is saved, resumed and survived, what many batches and processes add up to, and that it learns."""

import csv
import logging
import multiprocessing
import os
import pickle
import random
import resource
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import skimage.data
import torch
from safetensors.torch import load_file

import ripe
from ripe.data.feed import Feed, RunStoppedError, pair_numbers
from ripe.evaluation.measures import Rival
from ripe.model import RIPE
from ripe.recipe.config import DataConfig, ObjectiveConfig, OptimizerConfig, TrainConfig, WarpConfig
from ripe.training import engine as engine_module
from ripe.training import loop
from ripe.training.checkpoint import CheckpointFolder, load_checkpoint, save_checkpoint
from ripe.training.command import run_training
from ripe.training.engine import Engine, layout, resolve_precision
from ripe.training.extractor import ExtractorTrainer
from ripe.training.loggers import FIGURES
from ripe.training.loop import train
from ripe.training.presets import compose
from ripe.training.progress import Progress

pytest.importorskip("lightning_fabric")


def small_run(scenes: Path, output: Path, **settings: object) -> TrainConfig:
    """Few small pairs of every kind, every step saved."""
    data = DataConfig(scenes=scenes, size=64, pairs_per_step=2, self_share=0.5, negative_share=0.25, hold_back=0.0)
    config = TrainConfig(
        output=output,
        steps=4,
        accelerator="cpu",
        precision="32-true",
        checkpoint_interval=1,
        keep_checkpoints=10,
        log_interval=1,
        val_interval=0,
        data=replace(data, workers=0),
        objective=ObjectiveConfig(min_keypoints=4, border=8),
        optimizer=OptimizerConfig(warmup_steps=2),
    )
    return replace(config, **settings)


def command(config: TrainConfig, *settings: str) -> list[str]:
    """`ripe train` with the settings of `small_run`."""
    words = [f"data.{name}={getattr(config.data, name)}" for name in ("scenes", "size", "pairs_per_step", "self_share")]
    words += ["data.negative_share=0.25", "data.hold_back=0", "data.workers=0"]
    words += ["objective.min_keypoints=4", "objective.border=8", f"output={config.output}", f"steps={config.steps}"]
    words += ["optimizer.warmup_steps=2", "checkpoint_interval=1", "keep_checkpoints=10", "log_interval=1"]
    words += ["val_interval=0", "accelerator=cpu", "precision=32-true", *settings]
    return ["-m", "ripe.cli", "train", *words]


def log_rows(output: Path) -> list[dict[str, str]]:
    """What was logged, without times."""
    with (output / "log.csv").open(newline="") as file:
        return [
            {k: v for k, v in row.items() if "time/" not in k and "second" not in k} for row in csv.DictReader(file)
        ]


def assert_same_run(first: TrainConfig, second: TrainConfig) -> None:
    """Equal weights, optimizer states and figures, bit for bit."""
    states = [CheckpointFolder(config.folder / "checkpoints", 10).newest() for config in (first, second)]
    assert states[0] is not None
    assert states[1] is not None
    assert states[0]["step"] == states[1]["step"]
    for part in ("model", "average"):
        assert all(torch.equal(value, states[1][part][key]) for key, value in states[0][part].items())
    for key, state in states[0]["optimizer"]["state"].items():
        assert all(torch.equal(value, states[1]["optimizer"]["state"][key][name]) for name, value in state.items())
    assert log_rows(first.folder) == log_rows(second.folder)
    weights = [load_file(config.folder / "weights.safetensors") for config in (first, second)]
    assert all(torch.equal(value, weights[1][key]) for key, value in weights[0].items())


@pytest.fixture(scope="module")
def whole(scenes: Path, tmp_path_factory: pytest.TempPathFactory) -> TrainConfig:
    """A run that nobody disturbed."""
    config = small_run(scenes, tmp_path_factory.mktemp("whole") / "run")
    train(config)
    return config


def test_a_resumed_run_equals_an_uninterrupted_one_bit_for_bit(whole: TrainConfig, tmp_path: Path) -> None:
    parts = replace(whole, output=tmp_path / "parts", resume="auto")
    assert train(replace(parts, max_minutes=1e-9)).step == 1
    with pytest.raises(FileExistsError, match="holds a run already; resume=auto goes on"):
        train(replace(parts, resume="never"))
    assert train(replace(parts, max_minutes=1e-9)).step == 2
    left = parts.folder / "checkpoints" / ".step-00000001.pt.tmp"
    left.mkdir()  # by a process that was killed, at a step that nobody makes again
    left.with_suffix(".lock").touch()
    result = train(parts)
    assert not left.exists()
    assert not left.with_suffix(".lock").exists()
    assert_same_run(parts, whole)
    kept = sorted(left.parent.glob("*.pt"))
    # As a process leaves them that is killed before it removes the old ones.
    assert train(replace(parts, keep_checkpoints=1)).reason == "all steps were done already"
    assert len(kept) > 1
    assert list(left.parent.glob("*.pt")) == kept[-1:]
    assert len(ripe.load(result.weights).extract(skimage.data.astronaut(), threshold=-20.0)[0]) > 0
    assert set(log_rows(whole.folder)[0]) <= {"step", *FIGURES}
    with pytest.raises(FileNotFoundError, match=r"nothing\.pt: no such checkpoint"):
        train(replace(parts, resume=str(tmp_path / "nothing.pt")))


@pytest.mark.parametrize("seed", [20250101, 2**64 - 1])
def test_any_seed_trains_and_is_resumed(seed: int, scenes: Path, tmp_path: Path) -> None:
    config = small_run(scenes, tmp_path, seed=seed, steps=1)
    assert train(config).step == 1
    assert train(replace(config, steps=2, resume="auto")).step == 2


def test_the_policys_draws_depend_on_the_seed(scenes: Path, tmp_path: Path) -> None:
    draws = {
        float(
            torch.rand((), generator=ExtractorTrainer(small_run(scenes, tmp_path, seed=seed))._generator(number, view))
        )
        for seed in (0, 1, 2**24, 2**64 - 1)
        for number, view in ((0, 0), (0, 1), (1, 0))
    }
    assert len(draws) == 12


@pytest.mark.slow
def test_a_run_killed_at_random_moments_loses_nothing(whole: TrainConfig, tmp_path: Path) -> None:
    """Killed by SIGKILL twice and by SIGTERM once, each at a random moment, and resumed each time."""
    seed = int(os.environ.get("RIPE_TEST_SEED", random.randrange(10**6)))
    sys.stdout.write(f"moments by RIPE_TEST_SEED={seed}\n")  # pytest shows it where the test fails
    moments = random.Random(seed)
    config = replace(whole, output=tmp_path / "killed")
    line = [sys.executable, *command(config, "resume=auto")]
    folder = CheckpointFolder(config.folder / "checkpoints", 10)
    for number in (signal.SIGKILL, signal.SIGTERM, signal.SIGKILL):
        before = len(folder.steps())
        process = subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        deadline = time.monotonic() + 120
        while len(folder.steps()) == before and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.002)
        time.sleep(moments.uniform(0, 0.3))
        process.send_signal(number)
        text = process.communicate(timeout=60)[0]
        assert process.returncode in (0, -number), text
        if number == signal.SIGTERM:
            # Once all steps are done, the signal may meet Python on its way out, when nobody handles it any more.
            assert process.returncode == 0 or "all steps are done" in text, text
            assert "Traceback" not in text
    subprocess.run(line, check=True, timeout=120, capture_output=True)
    assert_same_run(config, whole)


HOLDER = """
import sys
from pathlib import Path
from ripe.files import locked
with locked(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.readline()
"""


def test_a_second_run_into_a_folder_waits_for_the_first(
    whole: TrainConfig, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = replace(whole, output=tmp_path / "run", steps=1)
    config.folder.parent.mkdir(parents=True, exist_ok=True)
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", HOLDER, config.folder], text=True, **pipes) as first:
        assert first.stdout.readline() == "held\n"
        told = logging.Handler()
        told.emit = lambda record: first.stdin.close()
        logging.getLogger("ripe.files").addHandler(told)
        assert train(config).step == 1
        logging.getLogger("ripe.files").removeHandler(told)
    assert f"{config.folder}: process {first.pid} on " in caplog.text
    assert not list(tmp_path.rglob("*.lock"))


def test_a_damaged_newest_checkpoint_is_reported_and_the_one_before_taken(
    whole: TrainConfig, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = replace(whole, output=tmp_path / "damaged", resume="auto")
    train(replace(config, max_minutes=1e-9))
    train(replace(config, max_minutes=1e-9))
    path = config.folder / "checkpoints" / "step-00000002.pt"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    train(config)
    assert "step-00000002.pt: not a whole checkpoint" in caplog.text
    assert "taking the one before" in caplog.text
    assert_same_run(config, whole)


@pytest.mark.parametrize("content", [b"", b"half a checkpoint"])
def test_a_file_that_is_no_checkpoint_is_named(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "checkpoint.pt"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"checkpoint\.pt: not a whole checkpoint"):
        load_checkpoint(path)


def test_the_newest_checkpoints_and_the_best_are_kept(tmp_path: Path) -> None:
    folder = CheckpointFolder(tmp_path, keep=2)
    for step in range(1, 7):
        folder.save({"step": step}, step, best=2 if step >= 2 else None)
    assert folder.steps() == [2, 5, 6]
    newest = folder.newest()
    assert newest is not None
    assert newest["step"] == 6


def test_a_full_disk_ends_the_run_with_one_line_and_leaves_whole_files(whole: TrainConfig, tmp_path: Path) -> None:
    """A limit on the size of files stands in for the disk."""
    config = replace(whole, output=tmp_path / "full")
    line = [sys.executable, *command(config)]

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, 1_000_000))

    result = subprocess.run(line, preexec_fn=limit, capture_output=True, text=True, timeout=120, check=False)
    assert result.returncode == 1, result.stderr
    assert result.stderr.splitlines()[-1].endswith(f"File too large: '{config.folder}/weights.safetensors'")
    assert "Traceback" not in result.stderr
    assert [path.name for path in config.folder.iterdir()] == ["log.csv"]


def test_on_a_full_disk_old_checkpoints_make_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = CheckpointFolder(tmp_path, keep=5)
    for step in range(1, 5):
        folder.save({"step": step}, step, best=1)

    def save(state: dict, path: Path) -> None:
        if len(folder.steps()) > 2:
            raise OSError(28, "No space left on device", str(path))
        save_checkpoint(state, path)

    monkeypatch.setattr("ripe.training.checkpoint.save_checkpoint", save)
    folder.save({"step": 5}, 5, best=1)
    assert folder.steps() == [1, 4, 5]


def test_a_loss_that_is_not_finite_changes_nothing(whole: TrainConfig, tmp_path: Path) -> None:
    broken = replace(whole, objective=replace(whole.objective, entropy_weight=1e300))
    trainer = ExtractorTrainer(broken)
    before = {key: value.clone() for key, value in trainer.model.state_dict().items()}
    with ThreadPoolExecutor(1) as executor:
        trainer.update([Feed(broken, 0).next()], executor)
    assert (trainer.step, trainer.bad_steps) == (1, 1)
    after = trainer.model.state_dict()
    assert all(torch.equal(value, after[key]) for key, value in before.items())  # batch normalisation's, too


def test_too_many_in_a_row_end_the_run_with_the_batch_saved(whole: TrainConfig, tmp_path: Path) -> None:
    broken = replace(whole.objective, entropy_weight=1e300)
    config = replace(whole, output=tmp_path / "nan", objective=broken, max_bad_steps=3)
    with pytest.raises(
        RunStoppedError, match=r"step 3: .* not finite 3 times in a row; the last batch is in .*bad_batch"
    ):
        train(config)
    saved = load_checkpoint(config.folder / "bad_batch.pt")
    assert torch.equal(saved["batches"][0]["images"], Feed(config, 2).next().images)
    assert CheckpointFolder(config.folder / "checkpoints", 9).steps() == [1, 2]


class Killer:
    """A display that kills the processes that read photos."""

    def __init__(self, kills: Callable[[int], bool]) -> None:
        self.kills = kills

    def __call__(self, step: int, figures: dict[str, float]) -> None:
        if self.kills(step):
            for child in multiprocessing.active_children():
                os.kill(child.pid or 0, signal.SIGKILL)
                child.join()

    def note(self, text: str) -> None:
        raise AssertionError(text)


def test_a_worker_that_dies_is_replaced_and_nothing_changes(
    whole: TrainConfig, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = replace(whole, output=tmp_path / "crash", steps=8, checkpoint_interval=99)
    config = replace(config, data=replace(whole.data, workers=1))
    undisturbed = replace(config, output=tmp_path / "calm")
    train(undisturbed)
    train(config, display=Killer(lambda step: step == 1))
    assert "starting the workers again" in caplog.text
    assert_same_run(config, undisturbed)


def test_photos_that_cannot_be_read_at_all_end_the_run(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "bad.jpg").write_text("no photo")
    config = small_run(tmp_path, tmp_path / "run")
    data = replace(config.data, scenes=None, singles=tmp_path / "photos", self_share=1.0, negative_share=0.0)
    with pytest.raises(RunStoppedError, match=r"could not be read; the last: .*bad\.jpg"):
        train(replace(config, data=data))


def test_accumulated_gradients_equal_the_large_batch(scenes: Path) -> None:
    """With frozen batch statistics, and without the two costs that are functions of one batch's mean.

    Padding differs from pair to pair, so each batch has another number of cells.
    """

    def gradients(batches: int, objective: ObjectiveConfig) -> tuple[list[torch.Tensor], dict[str, float]]:
        config = small_run(scenes, Path(), steps=batches)
        objective = replace(
            objective, keypoint_share_weight=0.0, repeatability_weight=0.0, localisation_weight=0.0,
            penalty_ramp=0.0, miss_penalty=-1e-3, keypoint_penalty=-1e-3,
            entropy_weight=0.1, warp_threshold_end=3.0, min_keypoints=4, border=8,
        )  # fmt: skip
        optimizer = OptimizerConfig(warmup_steps=0, decay_share=0.0, max_grad_norm=None, accumulate=batches)
        data = replace(config.data, pairs_per_step=4 // batches)
        trainer = ExtractorTrainer(replace(config, data=data, objective=objective, optimizer=optimizer))
        trainer.model.train = lambda mode=True: RIPE.train(trainer.model, False)  # type: ignore[method-assign, assignment]
        feed = Feed(trainer.config, 0)
        with ThreadPoolExecutor(1) as executor:
            tally = trainer.update([feed.next() for _ in range(batches)], executor)
        found = [parameter.grad for parameter in trainer.model.parameters() if parameter.grad is not None]
        return found, tally.figures()

    for objective in (ObjectiveConfig(), ObjectiveConfig(descriptor_loss="margin", padding_mode="punish")):
        (large, figures), (parts, of_parts) = gradients(1, objective), gradients(2, objective)
        scale = max(float(gradient.abs().max()) for gradient in large)
        assert len(large) == len(parts) > 20
        for one, other in zip(large, parts, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6 * scale)
        for name, value in figures.items():
            if not name.startswith("time/"):
                assert of_parts[name] == pytest.approx(value, rel=1e-4, abs=1e-6), name


def test_an_update_comes_at_the_end_of_each_group_and_the_last_group_may_be_short(scenes: Path, tmp_path: Path) -> None:
    config = small_run(scenes, tmp_path / "run", steps=5, optimizer=OptimizerConfig(accumulate=2))
    train(config)
    assert [row["step"] for row in log_rows(config.folder)] == ["2", "4", "5"]
    state = load_checkpoint(config.folder / "checkpoints" / "step-00000005.pt")
    assert float(state["optimizer"]["state"][0]["step"]) == 3


def test_two_processes_equal_one_with_the_same_global_batch(scenes: Path, tmp_path: Path) -> None:
    """Real processes by torchrun, with gloo; weights and figures agree up to rounding, batch normalisation included."""
    one = small_run(scenes, tmp_path / "one", steps=3)
    extra = ["optimizer.lr=1e-5", "optimizer.ema_decay=0", "optimizer.max_grad_norm=null"]
    two = replace(one, output=tmp_path / "two")
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    result = subprocess.run(
        [*torchrun, *command(two, *extra)], capture_output=True, text=True, timeout=240, check=False
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("weights ") == 1  # only the main process speaks
    optimizer = OptimizerConfig(warmup_steps=2, lr=1e-5, ema_decay=0.0, max_grad_norm=None)
    train(replace(one, optimizer=optimizer))
    first, second = (load_file(config.folder / "weights.safetensors") for config in (one, two))
    for key, value in first.items():
        # AdamW moves a weight by the learning rate even where its gradient is nothing but rounding.
        difference = (value.double() - second[key].double()).abs()
        assert difference.mean() < 2e-6, key
        assert difference.max() < 5e-5, key
    for row, other in zip(log_rows(one.folder), log_rows(two.folder), strict=True):
        for name, value in row.items():
            assert (value == "") == (other[name] == ""), name
            tolerance = 0.05 if name == "gradient_norm" else 1e-3
            assert float(other[name] or 0) == pytest.approx(float(value or 0), rel=tolerance, abs=1e-5), name


def test_processes_share_the_pairs_of_a_step(scenes: Path) -> None:
    config = small_run(scenes, Path(), data=DataConfig(scenes=scenes, pairs_per_step=6))
    numbers = [list(pair_numbers(config, 2, rank, 3)) for rank in range(3)]
    assert numbers == [[12, 13], [14, 15], [16, 17]]


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, (2, 1)),
        ({"TORCHELASTIC_RUN_ID": "x", "LOCAL_WORLD_SIZE": "4", "WORLD_SIZE": "8"}, (4, 2)),
        ({"SLURM_NTASKS": "8", "SLURM_NNODES": "2", "SLURM_PROCID": "3"}, (4, 2)),
        ({"SLURM_NTASKS": "1", "SLURM_NNODES": "1", "SLURM_PROCID": "0"}, (2, 1)),
    ],
)
def test_torchrun_and_slurm_decide_on_the_processes(environment: dict[str, str], expected: tuple[int, int]) -> None:
    assert layout(TrainConfig(devices=2), environment) == expected


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"precision": "16-mixed"}, "precision=16-mixed: needs a GPU"),
        ({"accelerator": "cuda", "devices": 99}, "this machine has . GPUs"),
    ],
)
def test_devices_that_are_not_there_are_named(scenes: Path, settings: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ExtractorTrainer(small_run(scenes, Path(), **settings))


class Rising:
    """A validator whose figure rises until step 4, and a watch that ends the run when it has fallen."""

    main = "auc"

    def __init__(self) -> None:
        self.seen: list[float] = []

    def __call__(self, rival: Rival, step: int) -> dict[str, float]:
        assert rival(8, None).name == "network"
        return {"auc": float(-abs(step - 4))}

    def picture(self, rival: Rival) -> np.ndarray:
        return np.zeros((8, 8, 3), np.uint8)


class Falling(Rising):
    def __call__(self, step: int, validation: dict[str, float], training: dict[str, float]) -> str | None:  # type: ignore[override]
        assert "loss/total" in training
        self.seen.append(validation["auc"])
        return "it falls" if len(self.seen) > 1 and self.seen[-1] < self.seen[-2] else None

    def state_dict(self) -> dict:
        return {"seen": self.seen}

    def load_state_dict(self, state: dict) -> None:
        self.seen = state["seen"]


def test_validation_keeps_the_best_draws_matches_and_may_end_the_run(scenes: Path, tmp_path: Path) -> None:
    config = small_run(scenes, tmp_path / "run", steps=20, val_interval=2, checkpoint_interval=100, keep_checkpoints=1)
    assert train(replace(config, max_minutes=1e-9), validator=Rising(), watch=Falling()).best is None
    config = replace(config, resume="auto")
    result = train(config, validator=Rising(), watch=Falling())
    assert (result.step, result.reason, result.finished) == (6, "it falls", True)
    assert CheckpointFolder(config.folder / "checkpoints", 1).steps() == [4, 6]
    best = load_checkpoint(config.folder / "checkpoints" / "step-00000004.pt")
    assert result.best is not None
    weights = load_file(result.best)
    assert all(torch.equal(value, best["average"][f"module.{key}"]) for key, value in weights.items())
    assert [row["val/auc"] for row in log_rows(config.folder)] == ["", "-2", "", "0", "", "-2"]
    assert [path.name for path in sorted((config.folder / "matches").iterdir())] == [
        f"step-0000000{step}.png" for step in (2, 4, 6)
    ]


def test_a_few_steps_on_one_pair_teach_it_to_match(scenes: Path, tmp_path: Path) -> None:
    """The smoke alarm of reinforcement learning: the number of right matches must rise."""
    config = small_run(scenes, tmp_path, steps=10_000)  # so that the schedules stand still
    mild = WarpConfig(rotation_deg=10, any_rotation_share=0, perspective=0.05, max_scale_ratio=1.2, photometric=0)
    data = replace(config.data, self_share=1.0, negative_share=0.0, size=96, pairs_per_step=1, warp=mild)
    trainer = ExtractorTrainer(replace(config, data=data, objective=replace(config.objective, warp_threshold_end=3.0)))
    batch = Feed(trainer.config, 0).next()
    with ThreadPoolExecutor(1) as executor:
        figures = [trainer.update([batch], executor).figures() for _ in range(40)]
    right = [row["matches"] * row.get("inlier_ratio/self", 0.0) for row in figures]
    assert np.mean(right[-5:]) > 2 * np.mean(right[:5]) + 2


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below a folder."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_an_older_checkpoint_is_gone_on_from_elsewhere_and_no_later_step_is_lost(
    whole: TrainConfig, tmp_path: Path
) -> None:
    old = tmp_path / "old"
    shutil.copytree(whole.folder, old)
    before = contents(old)
    second = str(old / "checkpoints" / "step-00000002.pt")
    with pytest.raises(FileExistsError, match="has come to step 4, and going on from step 2 would overwrite it"):
        train(replace(whole, output=old, resume=second))
    fork = replace(whole, output=tmp_path / "fork", resume=second)
    assert train(fork).step == 4
    with pytest.raises(FileExistsError, match="has come to step 4"):
        train(fork)
    assert contents(old) == before
    assert [row["step"] for row in log_rows(fork.folder)] == ["3", "4"]
    for name, value in load_file(fork.folder / "weights.safetensors").items():
        assert torch.equal(value, load_file(whole.folder / "weights.safetensors")[name])
    last = str(old / "checkpoints" / "step-00000004.pt")
    assert train(replace(whole, output=old, resume=last)).reason == "all steps were done already"


def test_a_damaged_later_checkpoint_displaces_no_whole_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = CheckpointFolder(tmp_path, keep=1)
    folder.save({"step": 3}, 3, best=None)
    folder.path(9).write_bytes(b"half")
    folder.save({"step": 4}, 4, best=None)
    assert folder.steps() == [4, 9]
    assert (folder.newest() or {})["step"] == 4

    def refuse(state: dict, path: Path) -> None:
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr("ripe.training.checkpoint.save_checkpoint", refuse)
    with pytest.raises(OSError, match="No space left"):
        folder.save({"step": 5}, 5, best=None)
    assert (folder.newest() or {})["step"] == 4


@pytest.mark.parametrize("left", ["checkpoints/step-00000001.pt", "weights.safetensors"])
def test_a_run_that_is_refused_has_written_nothing(tmp_path: Path, left: str) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    for index in range(12):
        shutil.copy(Path(ripe.__file__).parent / "assets" / "motorcycle_left.jpg", photos / f"{index}.jpg")
    data = DataConfig(singles=photos, size=64, self_share=1.0, negative_share=0.0, workers=0)
    config = small_run(tmp_path, tmp_path / "run", data=data, val_interval=1)
    for name in (left, "held_back/pairs.json"):
        (config.folder / name).parent.mkdir(parents=True, exist_ok=True)
        (config.folder / name).write_text("of the run before")
    before = contents(config.folder)
    with pytest.raises(FileExistsError, match="holds a run already"):
        run_training(config, Progress(config))
    assert contents(config.folder) == before


def changed_copy(config: TrainConfig, output: Path, change: Callable[[dict], None]) -> TrainConfig:
    """A run that has come to step 2, with something else in its checkpoint."""
    state = load_checkpoint(config.folder / "checkpoints" / "step-00000002.pt")
    change(state)
    save_checkpoint(state, output / "checkpoints" / "step-00000002.pt")
    return replace(config, output=output, resume="auto")


def test_minutes_count_from_each_start(whole: TrainConfig, tmp_path: Path) -> None:
    config = changed_copy(whole, tmp_path, lambda state: state.update(seconds=3600.0))
    assert train(replace(config, max_minutes=30)).reason == "all steps are done"
    config = changed_copy(whole, tmp_path / "short", lambda state: state.update(seconds=3600.0))
    reason = train(replace(config, max_minutes=1e-9)).reason
    assert reason.startswith("its minutes are over (0.")
    assert "of this start, 60." in reason


def test_a_checkpoint_of_another_release_is_read_as_far_as_it_can_be(
    whole: TrainConfig, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def age(state: dict) -> None:
        state["release"] = "0.0.7"
        objective = state["config"]["objective"]
        objective |= {"gone": 3, "edge": objective.pop("border")}
        state["config"]["max_minutes"] = 0.0  # was in range then

    monkeypatch.setitem(loop.RENAMED, "objective.edge", "objective.border")
    assert train(changed_copy(whole, tmp_path, age)).step == 4
    assert "the checkpoint is of release 0.0.7" in caplog.text
    assert "leaves out: objective.gone 3" in caplog.text
    assert "border" not in caplog.text
    with pytest.raises(ValueError, match=r"a checkpoint of release 0\.0\.7 that does not fit .*average"):
        train(changed_copy(whole, tmp_path / "other", lambda state: (age(state), state.pop("average"))[0]))


def test_automatic_precision_is_what_the_machine_has(
    scenes: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    assert compose("compact").precision == compose("cpu").precision == "auto"
    assert compose("train").precision == "bf16-mixed"
    native = engine_module.bfloat16_is_native("cpu")
    trainer = ExtractorTrainer(small_run(scenes, Path(), precision="auto"))
    assert trainer.state_dict()["config"]["precision"] == ("bf16-mixed" if native else "32-true")
    for has_it, chosen in ((True, "bf16-mixed"), (False, "32-true")):
        monkeypatch.setattr(engine_module, "bfloat16_is_native", lambda accelerator, has_it=has_it: has_it)
        assert resolve_precision("auto", "cpu") == chosen
        caplog.clear()
        assert Engine(small_run(scenes, Path(), precision="bf16-mixed")).precision == "bf16-mixed"
        assert ("no instructions for bfloat16" in caplog.text) == (not has_it)


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed", "16-mixed"])
def test_a_step_moves_the_weights_by_a_finite_gradient(scenes: Path, device: torch.device, precision: str) -> None:
    if device.type == "cpu" and precision == "16-mixed":
        pytest.skip("needs a GPU")
    trainer = ExtractorTrainer(small_run(scenes, Path(), accelerator=device.type, precision=precision))
    before = [parameter.detach().clone() for parameter in trainer.model.parameters()]
    feed = Feed(trainer.config, 0, pin_memory=device.type == "cuda")
    with ThreadPoolExecutor(1) as executor:
        figures = [trainer.update([feed.next()], executor).figures() for _ in range(2)]
    assert all(np.isfinite(row["loss/total"]) for row in figures)
    assert trainer.bad_steps == 0
    moved = [not torch.equal(old, new) for old, new in zip(before, trainer.model.parameters(), strict=True)]
    assert sum(moved) > len(moved) / 2
    assert all(parameter.dtype == torch.float32 for parameter in trainer.model.parameters())


def test_batches_are_pinned_for_a_gpu_and_only_then(scenes: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    batch = Feed(small_run(scenes, Path()), 0).next()
    pinned: list[torch.Tensor] = []

    def pin(tensor: torch.Tensor) -> torch.Tensor:
        pinned.append(tensor)
        return tensor.clone()

    if torch.cuda.is_available():
        assert not batch.images.is_pinned()
        assert Feed(small_run(scenes, Path()), 0, pin_memory=True).next().images.is_pinned()
    monkeypatch.setattr(torch.Tensor, "pin_memory", pin)
    moved = batch.pin_memory()
    assert len(pinned) == 5
    assert torch.equal(moved.images, batch.images)
    assert moved.skipped == batch.skipped


def two_processes(config: TrainConfig, script: str, folder: Path) -> list[tuple[int, str, str]]:
    """Exit status, output and errors of two gloo processes that nobody ends but they themselves."""
    path = folder / "process.py"
    path.write_text(f"""
import os, pickle, sys
from dataclasses import replace
from pathlib import Path
sys.path.insert(0, {str(Path(__file__).parent)!r})
from test_training_run import Rising, train
rank = int(os.environ["RANK"])
config = pickle.loads(Path({str(folder / "config")!r}).read_bytes())
config = replace(config, output=config.output / f"rank{{rank}}", devices=2)
{script}
""")
    (folder / "config").write_bytes(pickle.dumps(config))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    world = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
    started = [
        subprocess.Popen(
            [sys.executable, str(path)],
            env=os.environ | world | {"RANK": rank, "LOCAL_RANK": rank, "TORCHELASTIC_RUN_ID": "test"},
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for rank in ("0", "1")
    ]  # fmt: skip
    try:
        outputs = [process.communicate(timeout=150) for process in started]
    finally:
        for process in started:
            process.kill()
    return [(process.returncode, *output) for process, output in zip(started, outputs, strict=True)]


@pytest.mark.slow
def test_processes_whose_folders_are_not_shared_go_on_from_one_step_and_validate(scenes: Path, tmp_path: Path) -> None:
    """The second process has an older checkpoint of another run in its folder, which must not count."""
    config = small_run(scenes, tmp_path / "runs", steps=3)
    for rank, steps in enumerate((2, 1)):
        train(replace(config, output=config.folder / f"rank{rank}", steps=steps, seed=rank))
    script = """
result = train(replace(config, resume="auto", val_interval=1), validator=Rising() if rank == 0 else None)
print(result.step, result.reason)
"""
    results = two_processes(config, script, tmp_path)
    for status, output, errors in results:
        assert status == 0, errors
        assert output.splitlines()[-1] == "3 all steps are done"
    folders = [CheckpointFolder(config.folder / f"rank{rank}" / "checkpoints", 9) for rank in (0, 1)]
    assert [folder.steps() for folder in folders] == [[1, 2, 3], [1]]
    assert [row["val/auc"] for row in log_rows(config.folder / "rank0")] == ["", "", "-1"]


@pytest.mark.slow
def test_an_error_of_the_main_process_ends_the_others(scenes: Path, tmp_path: Path) -> None:
    script = """
class Failing(Rising):
    def __call__(self, rival, step):
        raise OSError("the validation's disk is gone")
train(replace(config, val_interval=1), validator=Failing() if rank == 0 else None)
"""
    results = two_processes(small_run(scenes, tmp_path / "runs"), script, tmp_path)
    assert [status for status, *_ in results] == [1, 1]
    assert "OSError: the validation's disk is gone" in results[0][2]
    assert "RunStoppedError: another process of this run has failed, and says why" in results[1][2]
