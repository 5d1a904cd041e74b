"""Time and memory of a training step, ours beside a plain implementation of the published objective, in one run.

    python benchmarks/training.py --case compact --repeats 7
    python benchmarks/training.py --case vgg_hyper --pairs 6 --loss-only
    python benchmarks/training.py --case vgg_hyper --pairs 6 --device cuda

Both take the same batch of real photos, the same network with the same random weights (hardly a match is right, as
early in training) and the same precision, and compute the published objective; ours in channels-last memory. The loss
part is matching, judging, the loss and its gradient by keypoints' log-probabilities and descriptors, which are stored
before. Both take turns, so that they meet the same machine; times are medians, ratios are medians of the ratios of each
round. Memory is the growth of a fresh process's resident memory (on a GPU, of PyTorch's allocations) over the loss
part. Prints Markdown.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import cv2
import plain_objective as plain
import skimage.data
import torch
from torch import Tensor

from ripe.data.batch import PairBatch
from ripe.data.pairs import ScenePairs, collate
from ripe.evaluation import environment
from ripe.model import RIPE
from ripe.objective.cells import CellSamples, sample_cells
from ripe.objective.loss import compute_loss
from ripe.objective.sampling import Policy, PolicyOutput
from ripe.pretrained import build
from ripe.recipe import schedule
from ripe.recipe.config import DataConfig, ObjectiveConfig, TrainConfig
from ripe.training.presets import compose

SEED = 10  # half of the pairs are positive


@dataclass(frozen=True)
class Case:
    """What is trained, and on views of which size."""

    model: str
    view: str
    size: int
    pairs: int


CASES = {
    "compact": Case("compact", "crop", 256, 8),
    "vgg_hyper": Case("vgg_hyper", "letterbox", 560, 1),
}
PHASES = ("forward", "judge", "loss", "backward", "update")
Clock = Callable[[str], None]
"""Ends the phase of this name."""


def write_photos(root: Path) -> None:
    """Three scenes of real photos, crops that overlap."""
    pictures = {"astronaut": skimage.data.astronaut(), "coffee": skimage.data.coffee(), "cat": skimage.data.chelsea()}
    for name, picture in pictures.items():
        (root / name).mkdir(parents=True)
        for index, (y, x) in enumerate(((0, 0), (10, 20))):
            cv2.imwrite(str(root / name / f"{index}.jpg"), picture[y:, x:, ::-1])


def data_config(case: Case, root: Path) -> DataConfig:
    """Pairs of two photos, half of them of different scenes."""
    return DataConfig(
        root=root,
        hold_back=0,
        view=case.view,  # type: ignore[arg-type]
        size=case.size,
        self_share=0,
        negative_share=0.5,
        warp_ramp=0,
    )


def published_objective() -> ObjectiveConfig:
    """Of the preset that is the published run."""
    return compose("train").objective


class Step:
    """One implementation's training step on a batch, phase by phase."""

    def __init__(self, case: Case, device: torch.device, precision: str) -> None:
        torch.manual_seed(0)
        self.model: RIPE = build(case.model).to(device).train()
        self.device, self.precision = device, precision
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-3)

    def __call__(self, batch: PairBatch, clock: Clock) -> None:
        """Forward, loss, backward and the optimizer's step."""
        images = batch.images.to(self.device).float() / 255
        with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.precision == "bf16-mixed"):
            output = self.forward(images, batch)
        clock("forward")
        total = self.loss(output, batch, clock)
        clock("loss")
        total.backward()
        clock("backward")
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        clock("update")

    def forward(self, images: Tensor, batch: PairBatch) -> PolicyOutput:
        """Keypoints and descriptors of all views."""
        raise NotImplementedError

    def loss(self, output: PolicyOutput, batch: PairBatch, clock: Clock) -> Tensor:
        """The loss; ends the phase "judge" where matches are judged."""
        raise NotImplementedError

    def generator(self) -> torch.Generator:
        """The same draws for both implementations."""
        return torch.Generator(self.device).manual_seed(SEED)


class OurStep(Step):
    """`ripe.objective.loss`."""

    def __init__(self, case: Case, device: torch.device, precision: str, objective: ObjectiveConfig) -> None:
        super().__init__(case, device, precision)
        self.model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.objective = objective
        self.policy = Policy(self.model, objective.border)
        self.executor = ThreadPoolExecutor()

    def forward(self, images: Tensor, batch: PairBatch) -> PolicyOutput:
        """Through `Policy`."""
        return self.policy(images, batch.valid.to(self.device), batch.H_0to1.to(self.device), self.generator())

    def loss(self, output: PolicyOutput, batch: PairBatch, clock: Clock) -> Tensor:
        """See `our_loss`."""
        return our_loss(output, batch, clock, objective=self.objective, executor=self.executor)


class PlainStep(Step):
    """The plain objective on what the same network gives."""

    def forward(self, images: Tensor, batch: PairBatch) -> PolicyOutput:
        """Without the places of a known warp, which the published objective does not ask for."""
        maps = self.model(images)
        samples = sample_cells(maps.logits, batch.valid.to(self.device), self.generator())
        descriptors = self.model.describe(maps, samples.keypoints)
        nothing = samples.keypoints.new_zeros(())
        return PolicyOutput(samples, maps.logits[:, 0], descriptors.unbind(), nothing, (), nothing)

    def loss(self, output: PolicyOutput, batch: PairBatch, clock: Clock) -> Tensor:
        """See `plain_loss`."""
        return plain_loss(output, batch, clock)


def our_loss(
    output: PolicyOutput, batch: PairBatch, clock: Clock, *, objective: ObjectiveConfig, executor: ThreadPoolExecutor
) -> Tensor:
    """`compute_loss`; the time that judging takes is booked apart."""
    now = schedule.at(1, TrainConfig(steps=2, objective=objective))  # half-way: the penalties are in full force
    terms = compute_loss(output, batch, objective, now, seeds=range(len(batch)), executor=executor)
    clock(f"judge={terms.judge_seconds}")
    return terms.total


def plain_loss(output: PolicyOutput, batch: PairBatch, clock: Clock) -> Tensor:
    """`plain_objective.loss`; the time of RANSAC is booked apart."""
    seconds = 0.0
    ransac = plain.ransac(plain.Weights().inlier_threshold)

    def judge(points0: Tensor, points1: Tensor) -> Tensor:
        nonlocal seconds
        started = time.perf_counter()
        inliers = ransac(points0, points1)
        seconds += time.perf_counter() - started
        return inliers

    first, second = views(output)
    total = plain.loss(first, second, batch.positive.tolist(), judge, plain.Weights())
    clock(f"judge={seconds}")
    return total


def views(output: PolicyOutput) -> tuple[list[plain.View], list[plain.View]]:
    """The first and the second views of all pairs, as the plain objective takes them."""
    samples = output.samples
    every = [
        plain.View(*fields)
        for fields in zip(
            samples.keypoints, samples.log_probs, output.descriptors, samples.selected, samples.inside, strict=True
        )
    ]
    return every[: len(every) // 2], every[len(every) // 2 :]


def in_turn(
    calls: dict[str, Callable[[Clock], None]], device: torch.device, repeats: int
) -> dict[str, list[dict[str, float]]]:
    """Seconds of each phase of each call, in rounds, after one round that does not count."""
    rounds: dict[str, list[dict[str, float]]] = {name: [] for name in calls}
    for _ in range(repeats + 1):
        for name, call in calls.items():
            seconds: dict[str, float] = {}
            call(_clock(seconds, device))
            rounds[name].append(seconds)
    return {name: found[1:] for name, found in rounds.items()}


def _clock(seconds: dict[str, float], device: torch.device) -> Clock:
    before = time.perf_counter()

    def clock(phase: str) -> None:
        nonlocal before
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        phase, _, apart = phase.partition("=")
        if apart:  # a part of the phase that ends next
            seconds[phase] = float(apart)
            before += float(apart)
        else:
            now = time.perf_counter()
            seconds[phase] = now - before
            before = now

    return clock


def loss_memory(name: str, folder: Path, device: torch.device) -> float:
    """Megabytes by which a fresh process grows while it computes the loss and its gradient."""
    command = [sys.executable, __file__, "--loss-memory-of", name, "--folder", str(folder), "--device", str(device)]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def print_own_loss_memory(name: str, folder: Path, device: torch.device) -> None:
    """The subprocess of `loss_memory`."""
    part = LossPart(folder, device)
    part(name, 100)  # so that libraries are loaded, and their own buffers made
    with peak(device) as megabytes:
        part(name)
    print(megabytes[0])


class LossPart:
    """The loss part of a step on what `store` wrote."""

    def __init__(self, folder: Path, device: torch.device) -> None:
        self.stored = torch.load(folder / "output.pt", map_location=device, weights_only=True)
        self.batch = PairBatch(**self.stored["batch"])
        objective = ObjectiveConfig(**json.loads((folder / "objective.json").read_text()))
        executor = ThreadPoolExecutor()
        self.losses = {"ours": partial(our_loss, objective=objective, executor=executor), "plain": plain_loss}

    def __call__(self, name: str, cells: int = sys.maxsize, clock: Clock = lambda _: None) -> None:
        """Loss and gradient of the first cells of every view."""
        self.losses[name](leaves(self.stored, cells), self.batch, clock).backward()
        clock("loss part")


def leaves(stored: dict[str, Any], cells: int) -> PolicyOutput:
    """The stored output of the first cells, with gradients to be found of log-probabilities and descriptors."""
    samples = {name: value[:, :cells].clone() for name, value in stored["samples"].items()}
    samples["log_probs"].requires_grad_(True)
    descriptors = stored["descriptors"][:, :cells].clone().requires_grad_(True)
    nowhere = torch.full_like(samples["keypoints"], torch.nan)
    unseen = torch.zeros_like(samples["inside"])
    unscored = descriptors.new_zeros(())  # without self-pairs no loss asks for the score map
    described = descriptors.unbind()
    return PolicyOutput(CellSamples(**samples), unscored, described, nowhere, described, unseen)


@contextmanager
def peak(device: torch.device) -> Iterator[list[float]]:
    """Megabytes that memory grew by, at most, within the block; to be read after it."""
    grown: list[float] = []
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        yield grown
        grown.append((torch.cuda.max_memory_allocated(device) - before) / 1e6)
    else:
        Path("/proc/self/clear_refs").write_text("5")  # Linux: the peak is the present size
        before = _status("VmRSS")
        yield grown
        grown.append((_status("VmHWM") - before) / 1e3)


def _status(key: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(key)).split()[1])  # kilobytes


def store(step: OurStep, batch: PairBatch, folder: Path) -> None:
    """Write what the network gives for the batch, pair by pair to spare memory, and the objective."""
    parts = []
    with torch.no_grad():
        for index in range(len(batch)):
            views = [index, index + len(batch)]
            single = replace(
                batch,
                images=batch.images[views],
                valid=batch.valid[views],
                positive=batch.positive[index : index + 1],
                H_0to1=batch.H_0to1[index : index + 1],
                one_photo=batch.one_photo[index : index + 1],
            )
            with torch.autocast(step.device.type, dtype=torch.bfloat16, enabled=step.precision == "bf16-mixed"):
                parts.append(step.forward(single.images.to(step.device).float() / 255, single))

    def views_in_order(values: list[Tensor]) -> Tensor:
        return torch.cat([value[side : side + 1] for side in (0, 1) for value in values])

    fields = {
        name: views_in_order([getattr(part.samples, name) for part in parts]) for name in parts[0].samples._fields
    }
    descriptors = views_in_order([torch.stack(part.descriptors) for part in parts]).float()
    torch.save({"batch": vars(batch), "samples": fields, "descriptors": descriptors}, folder / "output.pt")
    (folder / "objective.json").write_text(json.dumps(vars(step.objective)))


Rounds = dict[str, list[dict[str, float]]]


def print_steps(rounds: Rounds, pairs: int) -> None:
    """Where the time of a step goes."""
    print(f"| step | {' | '.join(f'{phase}, ms' for phase in PHASES)} | step, ms | pairs/s |")
    print(f"|{'---|' * (len(PHASES) + 3)}")
    for name, found in rounds.items():
        cells = [f"{1e3 * statistics.median(seconds[phase] for seconds in found):.0f}" for phase in PHASES]
        step = statistics.median(sum(seconds.values()) for seconds in found)
        print(f"| {name} | {' | '.join(cells)} | {1e3 * step:.0f} | {pairs / step:.2f} |")
    print(f"\nOurs makes {ratio(rounds):.1f} times as many pairs per second.\n")


def print_loss_part(rounds: Rounds, memory: dict[str, float]) -> None:
    """Time and memory of the loss part."""
    print("| loss part | judge, ms | rest, ms | memory, MB |\n|---|---|---|---|")
    for name, found in rounds.items():
        judge, rest = (1e3 * statistics.median(seconds[p] for seconds in found) for p in ("judge", "loss part"))
        print(f"| {name} | {judge:.0f} | {rest:.0f} | {memory[name]:.0f} |")
    share = memory["ours"] / memory["plain"]
    print(f"\nOurs is {ratio(rounds):.1f} times as fast in {share:.3f} of the memory.\n")


def ratio(rounds: Rounds) -> float:
    """Median over rounds of the plain one's time divided by ours."""
    totals = {name: [sum(seconds.values()) for seconds in found] for name, found in rounds.items()}
    return statistics.median(theirs / ours for theirs, ours in zip(totals["plain"], totals["ours"], strict=True))


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--case", choices=CASES, default="compact")
    parser.add_argument("--pairs", type=int, help="of a batch")
    parser.add_argument("--size", type=int, help="side of the views, pixels")
    parser.add_argument("--loss-only", action="store_true", help="not the step: where memory does not suffice for it")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", choices=("32-true", "bf16-mixed"), default="bf16-mixed")
    parser.add_argument("--loss-memory-of", choices=("ours", "plain"), help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    cv2.setNumThreads(arguments.threads)
    device = torch.device(arguments.device)
    if arguments.loss_memory_of:
        print_own_loss_memory(arguments.loss_memory_of, arguments.folder, device)
        return
    case = CASES[arguments.case]
    case = replace(case, pairs=arguments.pairs or case.pairs, size=arguments.size or case.size)
    with TemporaryDirectory() as name:
        measure(case, device, arguments.precision, arguments.repeats, Path(name), loss_only=arguments.loss_only)


def measure(case: Case, device: torch.device, precision: str, repeats: int, folder: Path, *, loss_only: bool) -> None:
    """One case."""
    write_photos(folder / "photos")
    pairs = ScenePairs(data_config(case, folder / "photos"), SEED, case.pairs)
    started = time.perf_counter()
    batch = collate([pairs[index] for index in range(case.pairs)])
    data = time.perf_counter() - started
    ours = OurStep(case, device, precision, published_objective())
    store(ours, batch, folder)
    print(
        f"{case.model}, {case.pairs} pairs of {case.size}×{case.size} pixels ({int(batch.positive.sum())} positive), "
        f"{precision}; {environment.hardware(device)}; PyTorch {torch.__version__}, commit {environment.commit()}\n"
    )
    if not loss_only:
        steps = {"plain": PlainStep(case, device, precision), "ours": ours}
        calls = {name: partial(step, batch) for name, step in steps.items()}
        print_steps(in_turn(calls, device, repeats), case.pairs)
    part = LossPart(folder, device)
    parts = {name: partial(_clocked, part, name) for name in ("plain", "ours")}
    rounds = in_turn(parts, device, repeats)
    print_loss_part(rounds, {name: loss_memory(name, folder, device) for name in parts})
    print(f"The batch is made in {1e3 * data:.0f} ms by one process; in training, workers do that beside the step.\n")


def _clocked(part: LossPart, name: str, clock: Clock) -> None:
    part(name, clock=clock)


if __name__ == "__main__":
    main()
