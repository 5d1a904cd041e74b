"""The trainer: views and labels of pairs, bad files, resume, clean stops, and that it learns."""

import json
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import skimage.data
import torch
from safetensors.torch import load_file

import ripe
from ripe.training.checkpoint import load_checkpoint
from ripe.training.config import DataConfig, ObjectiveConfig, OptimizerConfig, TrainConfig, WarpConfig
from ripe.training.loop import Trainer, learning_rate, train
from ripe.training.pairs import ScenePairs, collate, pair_batches
from ripe.training.warps import photometric, render, self_pair, similarity


@pytest.fixture(scope="session")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two scenes of real photos: crops of a face and of a cup of coffee."""
    root = tmp_path_factory.mktemp("photos")
    for scene, photo in (("astronaut", skimage.data.astronaut()), ("coffee", skimage.data.coffee())):
        (root / scene).mkdir()
        for index, (y, x) in enumerate(((0, 0), (20, 40), (60, 10))):
            cv2.imwrite(str(root / scene / f"{index}.png"), photo[y : y + 300, x : x + 320, ::-1])
    return root


def small_run(scenes: Path, output: Path, **settings: object) -> TrainConfig:
    """Few small pairs of every kind, every step saved."""
    data = DataConfig(scenes=scenes, size=96, pairs_per_step=3, self_share=0.5, negative_share=0.25, workers=0)
    config = TrainConfig(
        output=output,
        steps=4,
        checkpoint_interval=1,
        log_interval=1,
        data=data,
        objective=ObjectiveConfig(min_keypoints=4, border=8),
        optimizer=OptimizerConfig(warmup_steps=2),
    )
    return replace(config, **settings)


def log_rows(output: Path) -> list[dict]:
    rows = [json.loads(line) for line in (output / "log.jsonl").read_text().splitlines()]
    return [{key: value for key, value in row.items() if key != "seconds"} for row in rows]


def assert_same_weights(output0: Path, output1: Path) -> None:
    first, second = (load_file(output / "weights.safetensors") for output in (output0, output1))
    assert first.keys() == second.keys()
    assert all(torch.equal(value, second[key]) for key, value in first.items())


def test_a_view_shows_each_point_of_the_photo_where_its_homography_says() -> None:
    y, x = np.mgrid[0:240, 0:320]
    ramp = np.stack([x * 0.7, y, np.full_like(x, 128)], axis=-1).astype(np.uint8)
    rng = np.random.default_rng(0)
    for scale in (0.5, 1.0, 1.7):
        view = render(ramp, similarity(96, np.array([160.0, 120.0]), scale, 30.0), 96)
        for target in rng.uniform(20, 76, (20, 2)).round():
            source = np.linalg.inv(view.homography) @ [*target, 1.0]
            source = source[:2] / source[2]
            if not (5 <= source[0] < 315 and 5 <= source[1] < 235):
                continue
            seen = view.image[int(target[1]), int(target[0])].astype(float)
            assert seen[0] == pytest.approx(source[0] * 0.7, abs=1.5)
            assert seen[1] == pytest.approx(source[1], abs=1.5)


def test_pixels_beyond_the_photo_are_not_valid() -> None:
    photo = np.full((50, 60, 3), 200, np.uint8)
    view = render(photo, similarity(96, np.array([29.5, 24.5]), 1.0, 0.0), 96)
    assert view.valid.sum() == pytest.approx(50 * 60, rel=0.05)
    assert view.valid[48, 48]
    assert not view.valid[2, 2]


def test_views_of_a_self_pair_overlap_and_are_seeded() -> None:
    photo = skimage.data.astronaut()
    for seed in range(10):
        first, second = self_pair(photo, 128, WarpConfig(), np.random.default_rng(seed))
        relative = second.homography @ np.linalg.inv(first.homography)
        aligned = cv2.warpPerspective(first.image, relative, (128, 128)).astype(float)
        both = cv2.warpPerspective(first.valid.astype(np.uint8), relative, (128, 128), flags=cv2.INTER_NEAREST) > 0
        both &= second.valid
        assert both.mean() > 0.25
        assert np.abs(aligned - second.image)[both].mean() < 20
    again = self_pair(photo, 128, WarpConfig(), np.random.default_rng(9))
    assert np.array_equal(again[1].image, second.image)


def test_photometric_changes_keep_shape_and_type() -> None:
    image = skimage.data.astronaut()[:64, :64]
    for seed in range(20):
        changed = photometric(image, 1.0, np.random.default_rng(seed))
        assert changed.shape == image.shape
        assert changed.dtype == np.uint8
    assert np.array_equal(photometric(image, 0.0, np.random.default_rng(0)), image)


def test_pairs_depend_on_seed_and_number_alone(scenes: Path) -> None:
    config = small_run(scenes, Path()).data
    straight = list(pair_batches(config, 5, 0, 3))
    late = list(pair_batches(replace(config, workers=1), 5, 2, 3))
    assert len(straight) == 3
    assert len(late) == 1
    assert torch.equal(straight[2].images, late[0].images)
    assert torch.equal(straight[2].positive, late[0].positive)
    assert not torch.equal(straight[1].images, straight[2].images)


def test_labels_and_shares_of_pairs(scenes: Path) -> None:
    pairs = ScenePairs(DataConfig(scenes=scenes, size=32, self_share=0.5, negative_share=0.25), 0, 200)
    batch = collate([pairs[index] for index in range(200)])
    warped = batch.H_0to1.isfinite().all(dim=-1).all(dim=-1)
    assert batch.positive[warped].all()
    assert warped.float().mean().item() == pytest.approx(0.5, abs=0.1)
    assert (~batch.positive).float().mean().item() == pytest.approx(0.25, abs=0.1)


def test_an_unreadable_photo_costs_itself_and_is_named(scenes: Path, tmp_path: Path) -> None:
    scene = tmp_path / "scene"
    scene.mkdir()
    (scene / "good.png").write_bytes((scenes / "coffee" / "0.png").read_bytes())
    (scene / "bad.jpg").write_text("no photo")
    pairs = ScenePairs(DataConfig(singles=scene, size=64, self_share=1, negative_share=0), 0, 20)
    skipped = [message for index in range(20) for message in pairs[index][1]]
    assert skipped
    assert all("bad.jpg" in message for message in skipped)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"scenes": Path("nowhere")}, "nowhere: no such folder"),
        ({}, "no photo found"),
    ],
)
def test_missing_photos_are_named(settings: dict, message: str) -> None:
    with pytest.raises((FileNotFoundError, ValueError), match=message):
        ScenePairs(DataConfig(**settings), 0, 1)


def test_one_scene_has_no_negative_pairs(scenes: Path, tmp_path: Path) -> None:
    (tmp_path / "only").symlink_to(scenes / "coffee")
    with pytest.raises(ValueError, match="negative_share=0"):
        ScenePairs(DataConfig(scenes=tmp_path), 0, 1)


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("optimizer.learning_rate=1", "optimizer.learning_rate: no such setting; there are: lr"),
        ("steps=many", "steps=many: expected int"),
        ("objective.reward_type=gold", "one of inlier, inlier_ratio"),
        ("data=x", "data: name a setting inside this group"),
        ("steps.x=1", "steps.x: not a group"),
        ("steps", "written key=value"),
    ],
)
def test_wrong_settings_are_named(assignment: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TrainConfig().override([assignment])


def test_settings_are_read_by_type() -> None:
    config = TrainConfig().override(
        ["max_minutes=none", "data.scenes=a/b", "objective.selected_only=true", "optimizer.lr=1e-4", "steps=7"]
    )
    assert config.max_minutes is None
    assert config.data.scenes == Path("a/b")
    assert config.objective.selected_only is True
    assert config.optimizer.lr == 1e-4
    assert config.steps == 7


def test_learning_rate_warms_up_holds_and_decays_to_zero() -> None:
    config = OptimizerConfig(lr=1.0, warmup_steps=10, decay_share=0.5)
    rates = [learning_rate(step, 100, config) for step in range(101)]
    assert rates[0] == pytest.approx(0.1)
    assert rates[10:50] == [1.0] * 40
    assert rates[75] == pytest.approx(0.5)
    assert rates[100] == 0


def test_a_resumed_run_equals_an_uninterrupted_one_bit_for_bit(scenes: Path, tmp_path: Path) -> None:
    whole, parts = small_run(scenes, tmp_path / "whole"), small_run(scenes, tmp_path / "parts")
    train(whole)
    with pytest.raises(FileNotFoundError):
        train(parts, resume=True)
    train(replace(parts, max_minutes=0.0))
    assert load_checkpoint(parts.output / "checkpoint.pt")["step"] == 1
    with pytest.raises(FileExistsError, match="holds a run already"):
        train(parts)
    weights = train(parts, resume=True)
    assert_same_weights(parts.output, whole.output)
    assert log_rows(parts.output) == log_rows(whole.output)
    first, second = (load_checkpoint(run.output / "checkpoint.pt") for run in (whole, parts))
    for key, value in first["model"].items():
        assert torch.equal(value, second["model"][key]), key
    for key, state in first["optimizer"]["state"].items():
        for name, value in state.items():
            assert torch.equal(value, second["optimizer"]["state"][key][name]), (key, name)
    assert len(ripe.load(weights).extract(skimage.data.astronaut(), threshold=-20.0)[0]) > 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_stopped_process_loses_nothing(scenes: Path, tmp_path: Path, number: signal.Signals) -> None:
    """A real `ripe train`, stopped midway by a signal and resumed, ends like one that was left alone."""
    config = small_run(scenes, tmp_path / "whole")
    train(config)
    output = tmp_path / "stopped"
    data = [f"data.{key}={value}" for key, value in vars(config.data).items() if key not in ("sets", "warp")]
    command = [sys.executable, "-m", "ripe.cli", "train", *data, f"output={output}", "steps=4"]
    command += ["checkpoint_interval=1", "log_interval=1", "objective.min_keypoints=4", "objective.border=8"]
    command += ["optimizer.warmup_steps=2"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    deadline = time.monotonic() + 120
    while not (output / "checkpoint.pt").exists() and time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.005)
    os.kill(process.pid, number)
    text = process.communicate(timeout=60)[0]
    assert process.returncode == (0 if number != signal.SIGKILL else -signal.SIGKILL), text
    if load_checkpoint(output / "checkpoint.pt")["step"] < 4:
        subprocess.run([*command, "--resume"], check=True, timeout=120)
    assert_same_weights(output, config.output)


def test_a_damaged_checkpoint_is_named(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.pt"
    path.write_bytes(b"half a checkpoint")
    with pytest.raises(ValueError, match=r"checkpoint\.pt: not a whole checkpoint"):
        load_checkpoint(path)


def test_a_gradient_that_is_not_finite_changes_nothing(scenes: Path, tmp_path: Path) -> None:
    config = small_run(scenes, tmp_path)
    trainer = Trainer(replace(config, objective=replace(config.objective, entropy_weight=float("nan"))))
    before = {key: value.clone() for key, value in trainer.model.named_parameters()}
    with ThreadPoolExecutor(1) as executor:
        trainer.train_step(next(iter(pair_batches(config.data, 0, 0, 1))), executor)
    assert trainer.step == 1
    assert all(torch.equal(value, before[key]) for key, value in trainer.model.named_parameters())


def test_sixty_steps_on_a_few_pairs_teach_it_to_match(scenes: Path, tmp_path: Path) -> None:
    """The smoke alarm of reinforcement learning: the number of right matches must rise."""
    config = small_run(scenes, tmp_path, steps=60)
    config = replace(
        config,
        data=replace(config.data, self_share=1.0, negative_share=0.0, warp=WarpConfig(rotation_deg=10, photometric=0)),
        objective=replace(config.objective, warp_threshold_end=3.0),
    )
    trainer = Trainer(config)
    batch = next(iter(pair_batches(config.data, 0, 0, 1)))
    with ThreadPoolExecutor(1) as executor:
        figures = [trainer.train_step(batch, executor) for _ in range(60)]
    right = [row["matches"] * row.get("inlier_ratio/self", 0.0) for row in figures]
    assert np.mean(right[-5:]) > 3 * np.mean(right[:5]) + 1
