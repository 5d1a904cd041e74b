"""A run's state, and one update of it."""

import itertools
import logging
import math
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from ripe.data.feed import pair_numbers
from ripe.data.pairs import PairBatch
from ripe.model import RIPE
from ripe.objective.loss import Totals, compute_loss, count_totals
from ripe.objective.sampling import Policy
from ripe.objective.tally import Tally
from ripe.pretrained import build
from ripe.recipe.config import ModelConfig, OptimizerConfig, TrainConfig
from ripe.training.batchnorm import join_batchnorm
from ripe.training.engine import Engine
from ripe.training.initial import load_imagenet_encoder, load_initial

logger = logging.getLogger(__name__)


def learning_rate(step: int, steps: int, config: OptimizerConfig) -> float:
    """Linear warm-up, a plateau, and a linear decay to `final_lr` over the last `decay_share` of the run."""
    warm = min(1.0, (step + 1) / max(config.warmup_steps, 1))
    decay = min(1.0, (steps - step) / max(config.decay_share * steps, 1))
    return config.final_lr + (config.lr - config.final_lr) * min(warm, decay)


def warm_average(decay: float) -> Callable[..., None]:
    """An exponential moving average for `AveragedModel` whose decay starts small, to forget the random start soon."""

    def update(averaged: list[Tensor], current: list[Tensor], count: Tensor) -> None:
        get_ema_multi_avg_fn(min(decay, float(1 + count) / float(10 + count)))(averaged, current, count)

    return update


def initial_model(config: ModelConfig) -> RIPE:
    """The network that a run starts from; random weights are drawn from PyTorch's global generator.

    Raises:
        ValueError, OSError: the weights to start from are not there or do not fit.
    """
    model = build(config.name, **config.options())
    if config.start is not None:
        load_initial(model, config.start)
    if config.encoder is not None:
        load_imagenet_encoder(model, None if config.encoder == "imagenet" else config.encoder)
    return model


class Trainer:
    """A run: model, moving average, optimizer and the step that it is at.

    Everything random is derived from the seed and the number of a pair or step, so this is the whole state.
    """

    def __init__(self, config: TrainConfig, engine: Engine | None = None) -> None:
        self.config = config
        self.engine = Engine(config) if engine is None else engine
        torch.manual_seed(config.seed)  # the initial weights
        self.model: RIPE = initial_model(config.model).to(self.engine.device)
        self.model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._average = AveragedModel(
            self.model, multi_avg_fn=warm_average(config.optimizer.ema_decay), use_buffers=True
        )
        if self.engine.processes > 1 and config.sync_batchnorm:
            join_batchnorm(self.model, self.engine.device)
        self._adamw = torch.optim.AdamW(
            self.model.parameters(), lr=config.optimizer.lr, weight_decay=config.optimizer.weight_decay
        )
        policy = Policy(self.model, config.objective.border)
        self._policy, self._optimizer = self.engine.fabric.setup(policy, self._adamw)
        self.step = 0
        self.seconds = 0.0
        self.bad_steps = 0
        self.bad_in_a_row = 0

    @property
    def average(self) -> RIPE:
        """The moving average of the weights, in evaluation mode."""
        average = self._average.module
        assert isinstance(average, RIPE)
        return average.eval()

    def state_dict(self) -> dict[str, Any]:
        """The run's whole state as tensors and plain values."""
        return {
            "config": self.config.to_dict(),
            "step": self.step,
            "seconds": self.seconds,
            "bad_steps": self.bad_steps,
            "bad_in_a_row": self.bad_in_a_row,
            "model": self.model.state_dict(),
            "average": self._average.state_dict(),
            "optimizer": self._adamw.state_dict(),
            "precision": self.engine.fabric.strategy.precision.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a state that `state_dict` gave."""
        self.step, self.seconds = state["step"], state["seconds"]
        self.bad_steps, self.bad_in_a_row = state["bad_steps"], state["bad_in_a_row"]
        self.model.load_state_dict(state["model"])
        self._average.load_state_dict(state["average"])
        self._adamw.load_state_dict(state["optimizer"])
        self.engine.fabric.strategy.precision.load_state_dict(state["precision"])

    def update(self, batches: Sequence[PairBatch], executor: Executor) -> Tally:
        """One update of the weights by the gradient of all batches together; returns the figures to log.

        A loss or gradient that is not finite changes nothing but the counters.
        """
        config = self.config
        rate = learning_rate(self.step, config.steps, config.optimizer)
        for group in self._adamw.param_groups:
            group["lr"] = rate
        self.model.train()
        statistics = [buffer.clone() for buffer in self.model.buffers()]
        totals = self._totals(batches)
        tally = Tally()
        seconds = {"time/forward": 0.0, "time/judge": 0.0, "time/loss": 0.0, "time/backward": 0.0}
        self._optimizer.zero_grad(set_to_none=True)
        for index, batch in enumerate(batches):
            waiting = index + 1 < len(batches)
            with self.engine.fabric.no_backward_sync(self._policy, enabled=waiting and self.engine.processes > 1):
                self._accumulate(batch, self.step + index, totals, executor, tally, seconds)
        started = time.perf_counter()
        norm = self._clip()
        finite = math.isfinite(norm)
        scaled = config.precision == "16-mixed"
        if finite or scaled:  # a scaler leaves the step out by itself, and scales less from then on
            self._optimizer.step()
        if finite:
            self._average.update_parameters(self.model)
        else:
            for buffer, before in zip(self.model.buffers(), statistics, strict=True):
                buffer.copy_(before)
        loss_is_finite = not self.engine.any(not math.isfinite(tally.sums["loss/total"]))
        self._count_bad(bad=not (finite or (scaled and loss_is_finite)))
        seconds["time/update"] = time.perf_counter() - started
        self.step += len(batches)
        for name, value in {
            "learning_rate": rate,
            "gradient_norm": norm,
            "bad_steps": self.bad_steps,
            **seconds,
        }.items():
            tally.add(name, value)
        return tally

    def _totals(self, batches: Sequence[PairBatch]) -> Totals:
        mine = count_totals(batches, self.config.objective)
        values = torch.tensor([mine.pairs, mine.cells, mine.entries or 0], dtype=torch.float64)
        pairs, cells, entries = self.engine.total(values).tolist()
        return Totals(mine.batches, pairs, cells, None if mine.entries is None else entries)

    def _accumulate(
        self,
        batch: PairBatch,
        step: int,
        totals: Totals,
        executor: Executor,
        tally: Tally,
        seconds: dict[str, float],
    ) -> None:
        """Add a batch's part of the gradient."""
        times = [time.perf_counter()]
        numbers = pair_numbers(self.config, step, self.engine.rank, self.engine.processes)
        device = self.engine.device
        images = batch.images.to(device, non_blocking=True).float() / 255
        generators = [self._generator(number, view) for view in (0, 1) for number in numbers]
        output = self._policy(images, batch.valid.to(device), batch.H_0to1.to(device), generators)
        times.append(time.perf_counter())
        terms = compute_loss(
            output,
            batch,
            self.config.objective,
            progress=step / self.config.steps,
            seeds=list(numbers),
            executor=executor,
            step=step,
            totals=totals,
            total_over_processes=self.engine.total,
        )
        times.append(time.perf_counter())
        # DDP takes the mean over the processes' gradients; their sum is wanted.
        self.engine.fabric.backward(terms.total * self.engine.processes)
        times.append(time.perf_counter())
        tally.merge(terms.tally)
        forward, loss, backward = (end - start for start, end in itertools.pairwise(times))
        seconds["time/forward"] += forward
        seconds["time/judge"] += terms.judge_seconds
        seconds["time/loss"] += loss - terms.judge_seconds
        seconds["time/backward"] += backward

    def _generator(self, number: int, view: int) -> torch.Generator:
        """The source of randomness of one view, the same whichever process and batch it is in."""
        # Mixed, as a CPU's generator looks at the lower 32 bits of its seed alone.
        mixed = np.random.SeedSequence([self.config.seed, number, view]).generate_state(1, np.uint64)
        return torch.Generator(self.engine.device).manual_seed(int(mixed[0]))

    def _clip(self) -> float:
        limit = self.config.optimizer.max_grad_norm
        norm = self.engine.fabric.clip_gradients(
            self._policy,
            self._optimizer,
            max_norm=math.inf if limit is None else limit,
            error_if_nonfinite=False,
        )
        assert norm is not None
        return float(norm)

    def _count_bad(self, *, bad: bool) -> None:
        self.bad_in_a_row = self.bad_in_a_row + 1 if bad else 0
        if bad:
            self.bad_steps += 1
            logger.warning("step %d: the loss or its gradient is not finite; the step is left out", self.step)
