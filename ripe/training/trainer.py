"""A run's state, and one update of it, whatever is trained; `extractor` and `matcher` say what that is."""

import logging
import math
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from ripe.data.batch import PairBatch
from ripe.data.feed import pair_numbers
from ripe.evaluation.measures import Rival
from ripe.objective.tally import Tally
from ripe.recipe import schedule
from ripe.recipe.config import TrainConfig
from ripe.training.batchnorm import join_batchnorm
from ripe.training.engine import Engine

logger = logging.getLogger(__name__)

Model = TypeVar("Model", bound=nn.Module)


@dataclass(frozen=True)
class Contribution:
    """A batch's part of the loss of an update.

    Attributes:
        loss: the parts of all batches and processes add up to the update's.
        tally: figures to log.
        seconds: that its stages took, by name; the backward pass aside.
    """

    loss: Tensor
    tally: Tally
    seconds: dict[str, float]


def warm_average(decay: float) -> Callable[..., None]:
    """An exponential moving average for `AveragedModel` whose decay starts small, to forget the random start soon."""

    def update(averaged: list[Tensor], current: list[Tensor], count: Tensor) -> None:
        get_ema_multi_avg_fn(min(decay, float(1 + count) / float(10 + count)))(averaged, current, count)

    return update


class Trainer(ABC, Generic[Model]):
    """A run: model, moving average, optimizer and the step that it is at.

    Everything random is derived from the seed and the number of a pair or step, so this is the whole state.
    """

    def __init__(self, config: TrainConfig, engine: Engine | None = None) -> None:
        self.engine = Engine(config) if engine is None else engine
        self.config = config = replace(config, precision=self.engine.precision)
        torch.manual_seed(config.seed)  # the initial weights
        # One process downloads and reads; the others may be on machines without these files.
        self.model: Model = self.engine.by_main(self.initial).to(self.engine.device)
        self.model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._average = AveragedModel(
            self.model, multi_avg_fn=warm_average(config.optimizer.ema_decay), use_buffers=True
        )
        if self.engine.processes > 1 and config.sync_batchnorm:
            join_batchnorm(self.model, self.engine.device)
        self._adamw = torch.optim.AdamW(
            self.model.parameters(), lr=config.optimizer.lr, weight_decay=config.optimizer.weight_decay
        )
        self._trained, self._optimizer = self.engine.fabric.setup(self.trained(), self._adamw)
        self.step = 0
        self.seconds = 0.0
        self.bad_steps = 0
        self.bad_in_a_row = 0

    @abstractmethod
    def initial(self) -> Model:
        """The network that the run starts from; random weights are drawn from PyTorch's global generator.

        Raises:
            ValueError, OSError: the weights to start from are not there or do not fit.
        """

    def trained(self) -> nn.Module:
        """What is called for the loss; the network itself, or what wraps it."""
        return self.model

    @abstractmethod
    def contributions(
        self, batches: Sequence[PairBatch], executor: Executor
    ) -> Callable[[PairBatch, int], Contribution]:
        """What computes a batch's part of the loss of the update that has these batches, at its step.

        Args:
            batches: of the update, in this process.
            executor: threads for RANSAC.
        """

    @abstractmethod
    def save(self, path: Path) -> None:
        """Write the moving average as users read it, whole or not at all."""

    @abstractmethod
    def rival(self) -> Rival:
        """The moving average, as validation takes it."""

    @abstractmethod
    def picture(self, batch: PairBatch) -> np.ndarray:
        """What the moving average makes of a pair of the batch, H×W×3 uint8 RGB."""

    @property
    def average(self) -> Model:
        """The moving average of the weights, in evaluation mode."""
        return self._average.module.eval()  # type: ignore[return-value]

    def state_dict(self) -> dict[str, Any]:
        """The run's whole state as tensors and plain values."""
        return {
            "release": metadata.version("ripe-keypoints"),
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
        rate = schedule.at(self.step, config).learning_rate
        for group in self._adamw.param_groups:
            group["lr"] = rate
        self.model.train()
        statistics = [buffer.clone() for buffer in self.model.buffers()]
        contribution = self.contributions(batches, executor)
        tally = Tally()
        seconds = {"time/forward": 0.0, "time/judge": 0.0, "time/loss": 0.0, "time/backward": 0.0}
        self._optimizer.zero_grad(set_to_none=True)
        for index, batch in enumerate(batches):
            waiting = index + 1 < len(batches)
            with self.engine.fabric.no_backward_sync(self._trained, enabled=waiting and self.engine.processes > 1):
                part = contribution(batch, self.step + index)
                started = time.perf_counter()
                # DDP takes the mean over the processes' gradients; their sum is wanted.
                self.engine.fabric.backward(part.loss * self.engine.processes)
                seconds["time/backward"] += time.perf_counter() - started
            tally.merge(part.tally)
            for name, value in part.seconds.items():
                seconds[name] += value
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

    def pair_numbers(self, step: int) -> range:
        """The numbers of this process's pairs of a step."""
        return pair_numbers(self.config, step, self.engine.rank, self.engine.processes)

    def _clip(self) -> float:
        limit = self.config.optimizer.max_grad_norm
        norm = self.engine.fabric.clip_gradients(
            self._trained,
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
