"""The plain objective of `benchmarks/`: the same loss and gradient as ours, so that the comparison is an honest one."""

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from ripe.data.batch import PairBatch
from ripe.data.pairs import ScenePairs, collate
from ripe.objective.inliers import fit_epipolar
from ripe.objective.loss import compute_loss
from ripe.objective.sampling import Policy, PolicyOutput
from ripe.pretrained import build
from ripe.recipe import schedule
from ripe.recipe.config import TrainConfig

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
import plain_objective
import training as benchmark


@pytest.fixture(scope="module")
def batch(tmp_path_factory: pytest.TempPathFactory) -> PairBatch:
    """Letterboxed photos, so that there is padding; positive and negative pairs."""
    root = tmp_path_factory.mktemp("photos")
    benchmark.write_photos(root)
    case = benchmark.Case("compact", "letterbox", 192, 4)
    pairs = ScenePairs(benchmark.data_config(case, root), seed=2, num_pairs=4)
    batch = collate([pairs[index] for index in range(4)])
    assert 0 < batch.positive.sum() < 4
    assert not batch.valid.all()
    return batch


@pytest.fixture(scope="module")
def output(batch: PairBatch) -> PolicyOutput:
    torch.manual_seed(0)
    policy = Policy(build("compact"), border=16)
    generator = torch.Generator().manual_seed(0)
    return policy(batch.images.float() / 255, batch.valid, batch.H_0to1, generator)


def gradients(loss: Tensor, output: PolicyOutput) -> list[Tensor]:
    return list(torch.autograd.grad(loss, [output.samples.log_probs, *output.descriptors], retain_graph=True))


def test_it_gives_our_loss_and_gradient_for_the_same_inliers(batch: PairBatch, output: PolicyOutput) -> None:
    """Ours judges by RANSAC; the plain objective is told its verdicts, as seeds and limits differ."""
    objective = replace(benchmark.published_objective(), miss_penalty=-1e-3, keypoint_penalty=-1e-2)
    now = schedule.at(1, TrainConfig(steps=2, objective=objective))
    with ThreadPoolExecutor(1) as executor:
        ours = compute_loss(output, batch, objective, now, seeds=range(4), executor=executor).total
    first, second = benchmark.views(output)
    verdicts = []
    with ThreadPoolExecutor(1) as executor:
        for index, (view0, view1) in enumerate(zip(first, second, strict=True)):
            matches = plain_objective.match(view0, view1)
            points = view0.keypoints[matches[:, 0]], view1.keypoints[matches[:, 1]]
            fit = fit_epipolar(executor, *points, max_error=1.0, seed=index, max_iterations=objective.ransac_iterations)
            verdicts.append(fit.result().inliers)
    assert all(verdict.any() for verdict in verdicts)
    answers = iter(verdicts)
    weights = plain_objective.Weights(fp_penalty=-1e-3, kp_penalty=-1e-2)
    plain = plain_objective.loss(first, second, batch.positive.tolist(), lambda *_: next(answers), weights)
    torch.testing.assert_close(plain, ours, rtol=1e-4, atol=1e-6)
    for one, other in zip(gradients(plain, output), gradients(ours, output), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-6)


def test_its_ransac_is_poselibs_with_its_own_limits(output: PolicyOutput) -> None:
    """Right matches of a plane-free scene are found; too few matches have no inliers."""
    generator = torch.Generator().manual_seed(0)
    points = torch.rand(60, 3, generator=generator, dtype=torch.float64) * 4 + torch.tensor([-2, -2, 4])
    first = 500 * points[:, :2] / points[:, 2:]
    moved = points + torch.tensor([0.5, 0.1, 0.2])
    second = 500 * moved[:, :2] / moved[:, 2:]
    judge = plain_objective.ransac(1.0)
    assert judge(first, second).all()
    assert not judge(first[:7], second[:7]).any()


def test_a_batch_without_self_pairs_is_described_at_its_proposals_alone(batch: PairBatch, output: PolicyOutput) -> None:
    """The short cut gives what a batch gives that has a self-pair among others."""
    policy = Policy(build("compact"), border=16)
    torch.manual_seed(0)
    policy.model.load_state_dict(build("compact").state_dict())
    warps = batch.H_0to1.clone()
    warps[3] = torch.eye(3)
    generator = torch.Generator().manual_seed(0)
    other = policy(batch.images.float() / 255, batch.valid, warps, generator)
    assert other.visible.any()
    assert not output.visible.any()
    assert output.warped.isnan().all()
    for one, two in zip(output.descriptors, other.descriptors, strict=True):
        torch.testing.assert_close(one, two, rtol=0, atol=1e-5)


def test_the_benchmark_that_compares_both_runs() -> None:
    options = ["--case", "compact", "--size", "128", "--pairs", "2", "--repeats", "1", "--threads", "1"]
    command = [sys.executable, Path(__file__).parents[1] / "benchmarks" / "training.py", *options]
    result = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
    assert result.returncode == 0, result.stderr
    rows = [line.split("|")[1].strip() for line in result.stdout.splitlines() if line.startswith("|")]
    assert rows.count("plain") == rows.count("ours") == 2  # whole steps, and their loss parts
