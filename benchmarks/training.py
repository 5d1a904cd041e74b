"""Time and memory of a training step, ours beside a plain implementation of the published objective, in one run.

    python benchmarks/training.py --case compact --repeats 7
    python benchmarks/training.py --case vgg_hyper --repeats 2 --pairs 1
    python benchmarks/training.py --case vgg_hyper --pairs 6 --device cuda --precision bf16-mixed

Both take the same batch of real photos, the same network with the same random weights (hardly a match is right, as
early in training) and the same precision, and compute the published objective; ours in channels-last memory. Steps are
taken in turn, so that both meet the same machine; times are medians, ratios are medians of the ratios of each round.
Memory of the loss part is the growth of a fresh process's resident memory (on a GPU, of PyTorch's allocations) while it
matches, judges and computes the loss and its gradient of stored keypoints and descriptors. Prints Markdown.
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
from pathlib import Path
from tempfile import TemporaryDirectory

import cv2
import plain_objective as plain
import skimage.data
import torch
from torch import Tensor

from ripe.architectures import build
from ripe.evaluation import environment
from ripe.model import RIPE
from ripe.objective.cells import CellSamples, sample_cells
from ripe.training.config import DataConfig, ObjectiveConfig
from ripe.training.pairs import PairBatch, ScenePairs, collate
from ripe.training.presets import compose
from ripe.training.step import Policy, PolicyOutput, compute_loss

SEED = 3
PROGRESS = 0.5  # of the run: the penalties are in full force


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
    return DataConfig(root=root, hold_back=0, view=case.view, size=case.size, self_share=0, negative_share=0.5)  # type: ignore[arg-type]


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
    """`ripe.training.step`."""

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
        """`compute_loss`; judging is booked apart by its own clock."""
        terms = compute_loss(
            output,
            batch,
            self.objective,
            progress=PROGRESS,
            seeds=range(len(batch)),
            executor=self.executor,
        )
        clock(f"judge={terms.judge_seconds}")
        return terms.total


class PlainStep(Step):
    """The plain objective on what the same network gives."""

    def forward(self, images: Tensor, batch: PairBatch) -> PolicyOutput:
        """Without the places of a known warp, which the published objective does not ask for."""
        maps = self.model(images)
        samples = sample_cells(maps.logits, batch.valid.to(self.device), self.generator())
        descriptors = self.model.describe(maps, samples.keypoints)
        nothing = samples.keypoints.new_zeros(())
        return PolicyOutput(samples, descriptors.unbind(), nothing, (), nothing)

    def loss(self, output: PolicyOutput, batch: PairBatch, clock: Clock) -> Tensor:
        """`plain_objective.loss` with the time of RANSAC booked apart."""
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


def time_steps(
    steps: dict[str, Step], batch: PairBatch, device: torch.device, repeats: int
) -> dict[str, list[dict[str, float]]]:
    """Seconds of each phase, in rounds, after one step of each that does not count."""
    rounds: dict[str, list[dict[str, float]]] = {name: [] for name in steps}
    for index in range(repeats + 1):
        for name, step in steps.items():
            seconds: dict[str, float] = {}
            before = time.perf_counter()

            def clock(phase: str, seconds: dict[str, float] = seconds) -> None:
                nonlocal before
                if device.type == "cuda":
                    torch.cuda.synchronize(device)
                now = time.perf_counter()
                phase, _, apart = phase.partition("=")
                seconds[phase] = float(apart) if apart else now - before
                before = before + float(apart) if apart else now

            step(batch, clock)
            if index > 0:
                rounds[name].append(seconds)
    return rounds


def loss_memory(name: str, folder: Path, device: torch.device) -> float:
    """Megabytes by which a fresh process grows while it computes the loss and its gradient."""
    command = [sys.executable, __file__, "--loss-memory-of", name, "--folder", str(folder), "--device", str(device)]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def print_own_loss_memory(name: str, folder: Path, device: torch.device) -> None:
    """The subprocess of `loss_memory`."""
    stored = torch.load(folder / "output.pt", map_location=device, weights_only=True)
    batch = PairBatch(**stored["batch"])
    objective = ObjectiveConfig(**json.loads((folder / "objective.json").read_text()))
    step = Step.__new__(OurStep if name == "ours" else PlainStep)
    if isinstance(step, OurStep):
        step.objective, step.executor = objective, ThreadPoolExecutor()

    def run(cells: int) -> None:
        output = leaves(stored["output"], cells)
        step.loss(output, batch, lambda _: None).backward()

    run(100)  # so that libraries are loaded, and their own buffers made
    with peak(device) as megabytes:
        run(sys.maxsize)
    print(megabytes[0])


def leaves(stored: dict, cells: int) -> PolicyOutput:
    """The stored output of the first cells, with gradients to be found of log-probabilities and descriptors."""
    samples = {key: value[:, :cells].clone() for key, value in stored["samples"].items()}
    samples["log_probs"].requires_grad_(True)
    descriptors = stored["descriptors"][:, :cells].clone().requires_grad_(True)
    there = stored["visible"][:, :cells]
    return PolicyOutput(
        CellSamples(**samples), descriptors.unbind(), stored["warped"][:, :cells], descriptors.unbind(), there
    )


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
    """Write what the network gives for the batch, for `print_own_loss_memory`."""
    with torch.no_grad():
        output = step.forward(batch.images.to(step.device).float() / 255, batch)
    samples = {key: value.clone() for key, value in output.samples._asdict().items()}
    kept = {"samples": samples, "descriptors": torch.stack(output.descriptors).float()}
    kept |= {"warped": output.warped, "visible": output.visible}
    torch.save({"batch": vars(batch), "output": kept}, folder / "output.pt")
    (folder / "objective.json").write_text(json.dumps(vars(step.objective)))


def print_tables(rounds: dict[str, list[dict[str, float]]], pairs: int, memory: dict[str, float]) -> None:
    """Phases of a step, pairs per second, memory, and ratios."""
    phases = ["forward", "judge", "loss", "backward", "update"]
    print(f"| step | {' | '.join(f'{phase}, ms' for phase in phases)} | step, ms | pairs/s | loss part, MB |")
    print(f"|{'---|' * (len(phases) + 4)}")
    totals = {name: [sum(seconds.values()) for seconds in found] for name, found in rounds.items()}
    for name, found in rounds.items():
        cells = [f"{1e3 * statistics.median(seconds[phase] for seconds in found):.0f}" for phase in phases]
        step = statistics.median(totals[name])
        print(f"| {name} | {' | '.join(cells)} | {1e3 * step:.0f} | {pairs / step:.2f} | {memory[name]:.0f} |")
    faster = statistics.median(theirs / ours for theirs, ours in zip(totals["plain"], totals["ours"], strict=True))
    apart = {
        name: [sum(seconds[phase] for phase in ("judge", "loss")) for seconds in found]
        for name, found in rounds.items()
    }
    loss = statistics.median(theirs / ours for theirs, ours in zip(apart["plain"], apart["ours"], strict=True))
    print(
        f"\nOurs to plain: {faster:.1f} times the pairs per second; matching, judging and loss alone {loss:.1f} times "
        f"as fast, in {memory['ours'] / memory['plain']:.3f} of the memory.\n"
    )


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--case", choices=CASES, default="compact")
    parser.add_argument("--pairs", type=int, help="of a batch")
    parser.add_argument("--size", type=int, help="side of the views, pixels")
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
        measure(case, device, arguments.precision, arguments.repeats, Path(name))


def measure(case: Case, device: torch.device, precision: str, repeats: int, folder: Path) -> None:
    """One case."""
    write_photos(folder / "photos")
    pairs = ScenePairs(data_config(case, folder / "photos"), SEED, case.pairs)
    started = time.perf_counter()
    batch = collate([pairs[index] for index in range(case.pairs)])
    data = time.perf_counter() - started
    steps: dict[str, Step] = {
        "plain": PlainStep(case, device, precision),
        "ours": OurStep(case, device, precision, published_objective()),
    }
    store(steps["ours"], batch, folder)  # type: ignore[arg-type]
    print(
        f"{case.model}, {case.pairs} pairs of {case.size}×{case.size} pixels ({int(batch.positive.sum())} positive), "
        f"{precision}; {environment.hardware(device)}; PyTorch {torch.__version__}, commit {environment.commit()}\n"
    )
    rounds = time_steps(steps, batch, device, repeats)
    memory = {name: loss_memory(name, folder, device) for name in steps}
    print_tables(rounds, case.pairs, memory)
    print(f"Data: {1e3 * data:.0f} ms to make the batch in one process; workers do it beside the step.")


if __name__ == "__main__":
    main()
