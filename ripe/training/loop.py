"""The training loop: steps, schedule, checkpoints, resume, clean stops."""

import json
import logging
import math
import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from ripe.architectures import build
from ripe.model import RIPE
from ripe.pretrained import save_weights
from ripe.training.checkpoint import load_checkpoint, save_checkpoint
from ripe.training.config import OptimizerConfig, TrainConfig
from ripe.training.pairs import PairBatch, pair_batches
from ripe.training.step import Policy, compute_loss

logger = logging.getLogger(__name__)

CHECKPOINT = "checkpoint.pt"
WEIGHTS = "weights.safetensors"
LOG = "log.jsonl"

Report = Callable[[int, dict[str, float]], None]


def learning_rate(step: int, steps: int, config: OptimizerConfig) -> float:
    """Linear warm-up, a plateau, and a linear decay to zero over the last `decay_share` of the run."""
    warm = min(1.0, (step + 1) / max(config.warmup_steps, 1))
    decay = min(1.0, (steps - step) / max(config.decay_share * steps, 1))
    return config.lr * min(warm, decay)


def warm_average(decay: float) -> Callable[..., None]:
    """An exponential moving average for `AveragedModel` whose decay starts small, to forget the random start soon."""

    def update(averaged: list[Tensor], current: list[Tensor], count: Tensor) -> None:
        get_ema_multi_avg_fn(min(decay, float(1 + count) / float(10 + count)))(averaged, current, count)

    return update


class Trainer:
    """A run: model, moving average, optimizer and the step that it is at.

    Everything random is derived from the seed and the step's number, so model, moving average, optimizer and step are
    the whole state.
    """

    def __init__(self, config: TrainConfig) -> None:
        self.config = config
        self.device = torch.device(config.device)
        torch.manual_seed(config.seed)  # the initial weights
        self.model: RIPE = build(config.model).to(self.device)
        self.model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.policy = Policy(self.model, config.objective.border)
        self.average = AveragedModel(
            self.model, multi_avg_fn=warm_average(config.optimizer.ema_decay), use_buffers=True
        )
        self.optimizer = torch.optim.AdamW(
            self.model.parameters(), lr=config.optimizer.lr, weight_decay=config.optimizer.weight_decay
        )
        self.generator = torch.Generator(self.device)
        self.step = 0
        self.seconds = 0.0

    def state_dict(self) -> dict[str, Any]:
        """The run's whole state as tensors and plain values."""
        return {
            "config": self.config.to_dict(),
            "step": self.step,
            "seconds": self.seconds,
            "model": self.model.state_dict(),
            "average": self.average.state_dict(),
            "optimizer": self.optimizer.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a state that `state_dict` gave."""
        self.step, self.seconds = state["step"], state["seconds"]
        self.model.load_state_dict(state["model"])
        self.average.load_state_dict(state["average"])
        self.optimizer.load_state_dict(state["optimizer"])

    def train_step(self, batch: PairBatch, executor: ThreadPoolExecutor) -> dict[str, float]:
        """One optimizer step; returns the figures to log. A loss that is not finite changes nothing."""
        config = self.config
        self.generator.manual_seed((config.seed << 32) + self.step)
        rate = learning_rate(self.step, config.steps, config.optimizer)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.model.train()
        reduced = config.precision == "bfloat16"
        with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=reduced):
            images = batch.images.to(self.device).float() / 255
            output = self.policy(images, batch.valid.to(self.device), batch.H_0to1.to(self.device), self.generator)
        loss = compute_loss(
            output,
            batch,
            config.objective,
            progress=self.step / config.steps,
            seed=self.step * len(batch),
            executor=executor,
        )
        self.optimizer.zero_grad(set_to_none=True)
        loss.total.backward()
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), config.optimizer.max_grad_norm)
        if math.isfinite(float(norm)):
            self.optimizer.step()
            self.average.update_parameters(self.model)
        else:
            logger.warning("step %d: the gradient is not finite; the step is left out", self.step)
        self.step += 1
        return loss.figures | {"learning_rate": rate, "gradient_norm": float(norm)}


def train(config: TrainConfig, *, resume: bool = False, report: Report | None = None) -> Path:
    """Run a training to its end, to its wall-clock budget or to a SIGTERM or SIGINT, whichever comes first.

    Writes into `config.output`: `checkpoint.pt` (to resume), `weights.safetensors` (the moving average, for
    `ripe.load`) and `log.jsonl`.

    Args:
        config: the run.
        resume: go on from `checkpoint.pt`; the result is bit for bit that of a run that never stopped.
        report: called with the step and its figures every `log_interval` steps.

    Returns:
        Path of the weights.

    Raises:
        FileExistsError: the output folder holds a run already and `resume` is False.
        FileNotFoundError, ValueError: no checkpoint to resume, or photos are missing.
    """
    checkpoint = config.output / CHECKPOINT
    trainer = Trainer(config)
    if resume:
        trainer.load_state_dict(load_checkpoint(checkpoint))
    elif checkpoint.exists():
        raise FileExistsError(f"{config.output}: holds a run already; resume it, or choose another output")
    config.output.mkdir(parents=True, exist_ok=True)
    started = time.monotonic() - trainer.seconds
    batches = pair_batches(config.data, config.seed, trainer.step, config.steps)
    with _stop_signals() as stopping, ThreadPoolExecutor() as executor:
        for batch in batches:
            figures = trainer.train_step(batch, executor)
            trainer.seconds = time.monotonic() - started
            over_budget = config.max_minutes is not None and trainer.seconds >= 60 * config.max_minutes
            last = trainer.step == config.steps or over_budget or bool(stopping)
            if trainer.step % config.log_interval == 0 or last:
                _log(config.output / LOG, trainer, figures)
                if report is not None:
                    report(trainer.step, figures)
            if trainer.step % config.checkpoint_interval == 0 or last:
                _save(trainer, config.output)
            if last:
                break
    return config.output / WEIGHTS


def _save(trainer: Trainer, output: Path) -> None:
    save_checkpoint(trainer.state_dict(), output / CHECKPOINT)
    average = trainer.average.module
    assert isinstance(average, RIPE)
    save_weights(average, output / WEIGHTS)


def _log(path: Path, trainer: Trainer, figures: dict[str, float]) -> None:
    row = {"step": trainer.step, "seconds": round(trainer.seconds, 1)}
    row |= {name: float(f"{value:.6g}") for name, value in figures.items()}
    with path.open("a") as file:
        file.write(json.dumps(row) + "\n")


@contextmanager
def _stop_signals() -> Iterator[list[int]]:
    """Collects SIGTERM and SIGINT, so that the step at hand is finished and saved before the run ends."""
    received: list[int] = []

    def note(number: int, _frame: Any) -> None:
        received.append(number)

    previous = {number: signal.signal(number, note) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield received
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
