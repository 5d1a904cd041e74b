"""What a teacher teaches: closed forms, and a run that comes nearer to its teacher."""

import csv
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from batches import pair_batches
from torch.distributions import Bernoulli, Categorical, kl_divergence

import ripe
from ripe.data.batch import PairBatch
from ripe.model import RIPE
from ripe.objective.distillation import Lesson, descriptor_distance, lesson, score_divergence
from ripe.objective.loss import compute_loss
from ripe.objective.sampling import Policy, PolicyOutput
from ripe.pretrained import build, save_weights
from ripe.recipe import schedule
from ripe.recipe.config import DataConfig, ObjectiveConfig, OptimizerConfig, TrainConfig

SIDE = 128


@pytest.fixture(scope="module")
def batch(scenes: Path) -> PairBatch:
    """Pairs of one photo, whose warps are known, and of two."""
    data = DataConfig(scenes=scenes, size=SIDE, pairs_per_step=4, self_share=0.7, hold_back=0.0, workers=0)
    batch = next(iter(pair_batches(data, seed=1, first_step=0, last_step=1)))
    assert 0 < batch.by_warp.sum() < 4
    return batch


def drawn(model: RIPE, batch: PairBatch) -> PolicyOutput:
    """What the policy of a model draws, the same whichever model."""
    generator = torch.Generator().manual_seed(0)
    return Policy(model, border=16)(batch.images.float() / 255, batch.valid, batch.H_0to1, generator)


def taught(model: RIPE, batch: PairBatch, output: PolicyOutput) -> Lesson:
    return lesson(model, batch.images.float() / 255, output)


@pytest.fixture(scope="module")
def pupil() -> RIPE:
    torch.manual_seed(0)
    return build("compact").eval()


@pytest.fixture(scope="module")
def teacher() -> RIPE:
    return ripe.load("robust", device="cpu")


def test_a_teacher_agrees_with_itself_but_for_what_two_views_differ_by(pupil: RIPE, batch: PairBatch) -> None:
    output = drawn(pupil, batch)
    said = taught(pupil, batch, output)
    assert float(score_divergence(output, said).detach()) == pytest.approx(0.0, abs=1e-2)
    alone = output._replace(visible=torch.zeros_like(output.visible))
    assert float(descriptor_distance(alone, taught(pupil, batch, alone)).detach()) == pytest.approx(0.0, abs=1e-2)
    assert float(descriptor_distance(output, said).detach()) > 1


def test_scores_diverge_as_the_distributions_of_both_draws(pupil: RIPE, teacher: RIPE, batch: PairBatch) -> None:
    """Cell by cell, with PyTorch's distributions, and the mean over the teacher's positions written out."""
    output = drawn(pupil, batch)
    said = taught(teacher, batch, output)
    expected = 0.0
    for view in range(len(said.logits)):
        for cell in output.samples.inside[view].nonzero()[:, 0].tolist():
            top, left = 8 * (cell // (SIDE // 8)), 8 * (cell % (SIDE // 8))
            ours, theirs = (
                maps[view, top : top + 8, left : left + 8].flatten().double().detach()
                for maps in (output.logits, said.logits)
            )
            there = Categorical(logits=theirs)
            acceptance = kl_divergence(Bernoulli(logits=theirs), Bernoulli(logits=ours))
            expected += float(kl_divergence(there, Categorical(logits=ours)) + (there.probs * acceptance).sum())
    assert float(score_divergence(output, said).detach()) == pytest.approx(expected, rel=1e-4)


def test_descriptors_are_led_to_the_mean_of_both_views_where_both_show_the_point(
    pupil: RIPE, teacher: RIPE, batch: PairBatch
) -> None:
    output = drawn(pupil, batch)
    said = taught(teacher, batch, output)
    maps = teacher(batch.images.float() / 255)
    pairs, expected, both = len(batch), 0.0, 0
    for view in range(2 * pairs):
        other = (view + pairs) % (2 * pairs)
        for cell in output.samples.inside[view].nonzero()[:, 0].tolist():
            place, there = output.samples.keypoints[view, cell], output.warped[view, cell]
            target = teacher.describe(maps.image(view), place[None, None])[0, 0]
            if output.visible[view, cell]:
                target = target + teacher.describe(maps.image(other), there[None, None])[0, 0]
                both += 1
            target = target / target.norm()
            torch.testing.assert_close(said.descriptors[view, cell], target, rtol=0, atol=1e-4)
            distances = [1 - output.descriptors[view][cell] @ target]
            if output.visible[view, cell]:
                distances.append(1 - output.counterparts[view][cell] @ target)
            expected += float(torch.stack(distances).mean().detach())
    assert both > 50
    assert float(descriptor_distance(output, said).detach()) == pytest.approx(expected, rel=1e-3)


def test_a_teachers_parts_are_weighted_means_over_the_cells_inside(
    pupil: RIPE, teacher: RIPE, batch: PairBatch
) -> None:
    config = ObjectiveConfig(min_keypoints=4, teacher="robust", teacher_descriptor_weight=3.0, teacher_score_weight=0.7)
    now = schedule.at(1, TrainConfig(steps=2, objective=config))
    output = drawn(pupil, batch)
    said = taught(teacher, batch, output)
    assert not said.logits.requires_grad
    assert not said.descriptors.requires_grad
    with ThreadPoolExecutor(1) as executor:
        alone, besides = (
            compute_loss(output, batch, config, now, seeds=range(4), executor=executor, taught=each)
            for each in (None, said)
        )
    cells = float(output.samples.inside.sum())
    distance, divergence = descriptor_distance(output, said) / cells, score_divergence(output, said) / cells
    torch.testing.assert_close(besides.total - alone.total, 3 * distance + 0.7 * divergence, rtol=1e-3, atol=1e-3)
    figures = besides.tally.figures()
    assert figures["loss/teacher_descriptor"] == pytest.approx(3 * float(distance.detach()))
    assert figures["loss/teacher_score"] == pytest.approx(0.7 * float(divergence.detach()))
    assert "loss/teacher_score" not in alone.tally.figures()


def small_run(scenes: Path, output: Path, objective: ObjectiveConfig) -> TrainConfig:
    """Few small pairs that hardly differ, for a network that knows nothing."""
    data = DataConfig(scenes=scenes, size=SIDE, pairs_per_step=2, self_share=1.0, negative_share=0.0, hold_back=0.0)
    return TrainConfig(
        output=output,
        steps=30,
        accelerator="cpu",
        precision="32-true",
        val_interval=0,
        log_interval=1,
        data=replace(data, workers=0, warp_ramp=1.0),
        objective=objective,
        optimizer=OptimizerConfig(warmup_steps=2, ema_decay=0.0),
    )


def test_a_pupil_comes_nearer_to_its_teacher(scenes: Path, tmp_path: Path) -> None:
    """And a run is refused whose teacher has descriptors of another length, or is not there."""
    pytest.importorskip("lightning_fabric")
    from ripe.training.extractor import ExtractorTrainer
    from ripe.training.loop import train

    taught = small_run(scenes, tmp_path / "taught", ObjectiveConfig(min_keypoints=4, teacher="robust"))
    train(taught)
    with (taught.folder / "log.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    for name, share in (("loss/teacher_descriptor", 0.8), ("loss/teacher_score", 0.9)):
        curve = [float(row[name]) for row in rows]
        assert sum(curve[-5:]) < share * sum(curve[:5]), name

    other = tmp_path / "other.safetensors"
    save_weights(build("vgg_hyper", descriptor_dim=64), other, options={"descriptor_dim": 64})
    for name, message in ((other, "have 64 numbers, and those of the compact network 128"), ("nobody", "nobody")):
        with pytest.raises((ValueError, OSError), match=message):
            ExtractorTrainer(small_run(scenes, tmp_path / "no", ObjectiveConfig(teacher=str(name))))
