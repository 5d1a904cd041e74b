"""Learned matchers for users: by name and file, in `ripe.match`, on the command line, and trained by `ripe train`."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import h5py
import pytest
import torch
from test_training_run import two_processes
from torch.nn.functional import normalize

import ripe
from ripe.cli import main
from ripe.features import Features
from ripe.filters import MatchFilter
from ripe.matchers import MATCHERS, RELATED, Matcher, as_points, save_matcher
from ripe.matching import check_usable, matching_settings
from ripe.networks.lightglue import LightGlue, normalised
from ripe.pretrained import build, weights_hash
from ripe.recipe.config import DataConfig, MatcherConfig, OptimizerConfig, TrainConfig
from ripe.storage import FeatureFile
from ripe.training.checkpoint import CheckpointFolder
from ripe.training.loop import train


def features(count: int, seed: int, dim: int = 128) -> Features:
    generator = torch.Generator().manual_seed(seed)
    descriptors = normalize(torch.randn(count, dim, generator=generator), dim=-1)
    keypoints = torch.rand(count, 2, generator=generator) * 200
    return Features(keypoints, torch.zeros(count), descriptors, (320, 240))


def test_the_shipped_matcher_serves_both_shipped_models(photos: list[Path]) -> None:
    robust = ripe.load("robust", device="cpu")
    first, second = robust.extract(photos, max_keypoints=512)
    check_usable(MatchFilter(method="lightglue"), weights_hash(robust))
    learned = ripe.match(first, second, method="lightglue")
    plain = ripe.match(first, second)
    geometries = [
        ripe.estimate_geometry("fundamental", *found.points(first, second), max_error=1.0) for found in (learned, plain)
    ]
    assert geometries[0].num_inliers > 0.9 * geometries[1].num_inliers > 100
    with pytest.raises(ValueError, match="trained for the features of the model compact, not of these"):
        check_usable(MatchFilter(method="lightglue"), weights_hash(build("robust")))


def test_features_of_both_shipped_models_match(photos: list[Path]) -> None:
    first, second = (
        ripe.load(name, device="cpu").extract(photo, max_keypoints=1024)[0]
        for name, photo in zip(("compact", "robust"), photos, strict=True)
    )
    points = ripe.match(first, second).points(first, second)
    geometry = ripe.estimate_geometry("fundamental", *points, max_error=1.0)
    assert bool(ripe.judge(geometry, *points))
    assert geometry.num_inliers > 150


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_a_saved_matcher_is_the_same(random_matcher: Matcher, tmp_path: Path, dtype: torch.dtype) -> None:
    path = tmp_path / "matcher.safetensors"
    save_matcher(random_matcher, path, dtype=dtype)
    again = ripe.load_matcher(path, device="cpu")
    first, second = features(60, 0), features(50, 1)
    found, expected = again(first, second, min_score=0), random_matcher(first, second, min_score=0)
    assert again.extractor == "a hash"
    if dtype == torch.float32:
        assert torch.equal(found.indices, expected.indices)
        assert torch.equal(found.scores, expected.scores)
    assert len(found) > 5


def test_match_takes_it_by_its_file(random_matcher: Matcher, tmp_path: Path) -> None:
    path = tmp_path / "matcher.safetensors"
    save_matcher(random_matcher, path)
    first, second = features(60, 0), features(50, 1)
    found = ripe.match(first, second, method="lightglue", matcher=path, min_score=0.01)
    expected = random_matcher(first, second, min_score=0.01)
    assert torch.equal(found.indices, expected.indices)
    assert found.scores.min() >= 0.01
    assert 0 < len(found) < len(random_matcher(first, second, min_score=0))
    settings = matching_settings(MatchFilter("lightglue", matcher=str(path)))
    assert settings["matcher"] == f"LightGlue ({path}), probability at least 0.1"
    assert len(settings["matcher_weights"]) == 64


def test_what_is_no_matcher_is_refused(random_matcher: Matcher, random_weights: Path, tmp_path: Path) -> None:
    save_matcher(random_matcher, tmp_path / "m.safetensors")
    with pytest.raises(
        ValueError, match=r"unknown matcher 'compcat'; give compact, robust or the path of a weights file"
    ):
        ripe.load_matcher("compcat")
    with pytest.raises(FileNotFoundError, match=r"nothing\.safetensors: no such weights file"):
        ripe.load_matcher(tmp_path / "nothing.safetensors")
    with pytest.raises(ValueError, match="not the weights of a matcher"):
        ripe.load_matcher(random_weights)
    (tmp_path / "text.safetensors").write_text("nothing of the kind")
    with pytest.raises(ValueError, match="not the weights of a matcher"):
        ripe.load_matcher(tmp_path / "text.safetensors")
    with pytest.raises(ValueError, match="features1: the matcher is for descriptors of 128 numbers, these have 64"):
        random_matcher(features(3, 0), features(3, 0, dim=64))
    how = MatchFilter("lightglue", matcher=str(tmp_path / "m.safetensors"))
    check_usable(how, "a hash")
    with pytest.raises(ValueError, match="was trained for the features of other weights than these"):
        check_usable(how, "another")


def test_settings_go_with_their_method() -> None:
    for wrong in ({"ratio": 0.8}, {"min_similarity": 0.5}, {"min_score": 1.5}):
        with pytest.raises(ValueError, match="min_score"):
            MatchFilter("lightglue", **wrong)  # type: ignore[arg-type]
    for wrong in ({"matcher": "compact"}, {"min_score": 0.5}):
        with pytest.raises(ValueError, match="go with the method lightglue alone"):
            MatchFilter("mutual", **wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize("counts", [(0, 5), (5, 0), (0, 0), (1, 1)])
def test_any_number_of_keypoints(random_matcher: Matcher, counts: tuple[int, int]) -> None:
    found = random_matcher(features(counts[0], 0), features(counts[1], 1), min_score=0)
    assert len(found) == min(1, *counts)


def test_unequal_images_are_filled_up() -> None:
    sides = [features(3, 0), features(5, 1)]
    batch = as_points(sides, torch.device("cpu"))
    assert batch.present is not None
    assert batch.present.sum(dim=1).tolist() == [3, 5]
    assert torch.equal(batch.descriptors[0, :3], sides[0].descriptors)
    assert as_points(sides[:1], torch.device("cpu")).present is None


def test_positions_are_relative_to_the_longer_side() -> None:
    corners = torch.tensor([[-0.5, -0.5], [319.5, 239.5], [159.5, 119.5]])
    assert torch.allclose(normalised(corners, (320, 240)), torch.tensor([[-1, -0.75], [1, 0.75], [0.0, 0]]))


def test_the_shipped_matcher_knows_the_shipped_features(photos: list[Path]) -> None:
    matcher = ripe.load_matcher("compact", device="cpu")
    model = ripe.load("compact", device="cpu")
    assert {matcher.extractor, weights_hash(model)} <= set(RELATED.values())
    assert set(MATCHERS) == set(RELATED) == {"compact", "robust"}
    assert ripe.load_matcher("robust", device="cpu").settings() == matcher.settings()
    first, second = model.extract(photos, max_keypoints=1024)
    found, nearest = ripe.match(first, second, method="lightglue"), ripe.match(first, second)
    shares = []
    for matches in (found, nearest):
        points = matches.points(first, second)
        # Rectified photos: a right match stays in its row, moving left.
        moved = points[0] - points[1]
        shares.append(float(((moved[:, 1].abs() < 1.5) & (moved[:, 0] > 0)).float().mean()))
    assert 1 - shares[0] < 0.7 * (1 - shares[1])
    assert shares[0] > 0.9


def ripe_command(*words: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "ripe.cli", *map(str, words)], capture_output=True, text=True)


def test_the_command_line_takes_it(photos: list[Path], random_matcher: Matcher, tmp_path: Path) -> None:
    result = ripe_command("match", *photos, "--matcher", "lightglue", "--max-keypoints", 512)
    assert result.returncode == 0, result.stderr
    assert "verdict    matched" in result.stdout
    save_matcher(random_matcher, tmp_path / "other.safetensors")
    result = ripe_command("match", *photos, "--matcher", tmp_path / "other.safetensors")
    assert result.returncode != 0
    assert "was trained for the features of other weights than these" in result.stderr
    assert len(result.stderr.splitlines()) == 1
    result = ripe_command("match", *photos, "--matcher", "lightgleu")
    assert "--matcher lightgleu: give one of mutual, fginn, adalam, lightglue, or a weights file" in result.stderr


def test_files_hold_probabilities_as_hloc_has_them(
    random_matcher: Matcher, matcher_weights: Path, tmp_path: Path
) -> None:
    """In 0..1 as they are; cosine similarities have to be brought there."""
    images = {"a.jpg": features(60, 0), "b.jpg": features(50, 1)}
    with FeatureFile(tmp_path / "f.h5", {"model": "compact", "weights": random_matcher.extractor}) as store:
        store.add(images, dict.fromkeys(images, 1.0))
    (tmp_path / "pairs.txt").write_text("a.jpg b.jpg\n")
    words = ["--features", tmp_path / "f.h5", "-o", tmp_path / "m.h5", "--matcher", matcher_weights]
    assert main(["match", "--pairs", *map(str, [tmp_path / "pairs.txt", *words]), "--min-score", "0"]) == 0
    expected = random_matcher(*images.values(), min_score=0)
    with h5py.File(tmp_path / "m.h5") as file:
        found = file["a.jpg/b.jpg/matching_scores0"][()]
        assert file["a.jpg/b.jpg/matches0"][()][expected.indices[:, 0]].tolist() == expected.indices[:, 1].tolist()
    assert found[expected.indices[:, 0]] == pytest.approx(expected.scores.numpy(), rel=1e-3)


def small_run(scenes: Path, output: Path) -> TrainConfig:
    """Few small pairs of every kind."""
    data = DataConfig(scenes=scenes, size=128, pairs_per_step=4, self_share=0.5, negative_share=0.25, hold_back=0.0)
    return TrainConfig(
        output=output,
        steps=4,
        accelerator="cpu",
        precision="32-true",
        checkpoint_interval=2,
        log_interval=1,
        val_interval=0,
        learns="matcher",
        matcher=MatcherConfig(layers=2, width=32, keypoints=64),
        data=replace(data, workers=0, warp_ramp=0.0),
        optimizer=OptimizerConfig(warmup_steps=1, lr=1e-3),
    )


def test_a_run_leaves_a_matcher_and_goes_on_where_it_was(scenes: Path, tmp_path: Path) -> None:
    whole = small_run(scenes, tmp_path / "whole")
    result = train(whole)
    matcher = ripe.load_matcher(result.weights, device="cpu")
    assert matcher.network.options() == {"descriptor_dim": 128, "width": 32, "layers": 2, "heads": 2}
    assert matcher.extractor == weights_hash(ripe.load("compact"))
    parts = replace(whole, output=tmp_path / "parts", resume="auto")
    assert train(replace(parts, max_minutes=1e-9)).step == 1
    train(parts)
    states = [CheckpointFolder(run.folder / "checkpoints", 3).newest() for run in (whole, parts)]
    assert states[0] is not None
    assert states[1] is not None
    assert all(torch.equal(value, states[1]["model"][key]) for key, value in states[0]["model"].items())
    changed = [
        key for key, value in LightGlue(128, 32, layers=2).state_dict().items() if "layers.3" in key and value.any()
    ]
    assert changed == []
    assert all(value.any() for key, value in states[0]["model"].items() if "layers.3" in key)


def test_training_raises_the_probability_of_what_is_right(scenes: Path, tmp_path: Path) -> None:
    """Twenty-five steps on the same four pairs halve the loss."""
    config = small_run(scenes, tmp_path / "run")
    run = replace(
        config, steps=25, overfit_pairs=4, optimizer=OptimizerConfig(warmup_steps=1, lr=2e-3, decay_share=0.3)
    )
    train(run)
    rows = (run.folder / "log.csv").read_text().splitlines()
    column = rows[0].split(",").index("loss/total")
    losses = [float(row.split(",")[column]) for row in rows[1:]]
    assert sum(losses[-3:]) < 0.6 * sum(losses[:3])


def test_a_start_that_does_not_fit_is_refused(random_matcher: Matcher, scenes: Path, tmp_path: Path) -> None:
    save_matcher(random_matcher, tmp_path / "m.safetensors")
    config = small_run(scenes, tmp_path / "run")
    with pytest.raises(ValueError, match=r"matcher\.start=.*m\.safetensors: a matcher of "):
        train(replace(config, matcher=replace(config.matcher, start=str(tmp_path / "m.safetensors"))))


@pytest.mark.slow
def test_two_processes_train_what_one_does(scenes: Path, tmp_path: Path) -> None:
    """Each has half of a step's pairs, of which one without a keypoint must not make the other wait."""
    alone = small_run(scenes, tmp_path / "alone")
    train(alone)
    results = two_processes(replace(alone, output=tmp_path / "runs"), "train(config)", tmp_path)
    assert [status for status, *_ in results] == [0, 0], results
    losses = []
    for folder in (alone.folder, tmp_path / "runs" / "rank0"):
        rows = (folder / "log.csv").read_text().splitlines()
        column = rows[0].split(",").index("loss/total")
        losses.append([float(row.split(",")[column]) for row in rows[1:]])
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)
