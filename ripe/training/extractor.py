"""The training of an extractor, by rewards for the matches of its keypoints."""

import time
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from ripe.data.batch import PairBatch
from ripe.evaluation.measures import Rival, model_rival
from ripe.model import RIPE
from ripe.objective.distillation import Lesson, lesson
from ripe.objective.loss import Totals, compute_loss, count_totals
from ripe.objective.sampling import Policy, PolicyOutput
from ripe.pretrained import build, save_weights
from ripe.recipe import schedule
from ripe.recipe.config import ModelConfig, TrainConfig
from ripe.training.engine import Engine
from ripe.training.initial import load_frozen, load_imagenet_encoder, load_initial
from ripe.training.pictures import match_picture
from ripe.training.trainer import Contribution, Trainer


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


class ExtractorTrainer(Trainer[RIPE]):
    """A run that trains an extractor."""

    def __init__(self, config: TrainConfig, engine: Engine | None = None) -> None:
        engine = Engine(config) if engine is None else engine
        name = config.objective.teacher
        self._teacher = None if name is None else load_frozen(name, engine)
        super().__init__(config, engine)
        if self._teacher is not None and self._teacher.descriptor_dim != self.model.descriptor_dim:
            raise ValueError(
                f"objective.teacher={name}: its descriptors have {self._teacher.descriptor_dim} numbers, and those of "
                f"the {self.model.name} network {self.model.descriptor_dim}"
            )

    def initial(self) -> RIPE:
        """See `initial_model`."""
        return initial_model(self.config.model)

    def trained(self) -> nn.Module:
        """The network, and the policy that draws keypoints from its score map."""
        return Policy(self.model, self.config.objective.border)

    def contributions(
        self, batches: Sequence[PairBatch], executor: Executor
    ) -> Callable[[PairBatch, int], Contribution]:
        """What computes a batch's part of `ripe.objective.loss.compute_loss`."""
        totals = self._totals(batches)
        return lambda batch, step: self._contribution(batch, step, totals, executor)

    def save(self, path: Path) -> None:
        """As `ripe.load` reads it."""
        save_weights(self.average, path, options=self.config.model.options())

    def rival(self) -> Rival:
        """The moving average."""
        return model_rival("network", self.average)

    def picture(self, batch: PairBatch) -> np.ndarray:
        """Matches of the first positive pair; wrong ones are red."""
        return match_picture(self.average, batch, max_error=3.0)

    def _totals(self, batches: Sequence[PairBatch]) -> Totals:
        mine = count_totals(batches, self.config.objective)
        values = torch.tensor([mine.pairs, mine.cells, mine.entries or 0], dtype=torch.float64)
        pairs, cells, entries = self.engine.total(values).tolist()
        return Totals(mine.batches, pairs, cells, None if mine.entries is None else entries)

    def _contribution(self, batch: PairBatch, step: int, totals: Totals, executor: Executor) -> Contribution:
        started = time.perf_counter()
        numbers = self.pair_numbers(step)
        device = self.engine.device
        images, valid, warps = (
            part.to(device, non_blocking=True) for part in (batch.images, batch.valid, batch.H_0to1)
        )
        generators = [self._generator(number, view) for view in (0, 1) for number in numbers]
        pixels = images.float() / 255
        output = self._trained(pixels, valid, warps, generators)
        taught = None if self._teacher is None else self._lesson(self._teacher, pixels, output)
        called = time.perf_counter()
        terms = compute_loss(
            output,
            batch,
            self.config.objective,
            schedule.at(step, self.config),
            seeds=list(numbers),
            executor=executor,
            taught=taught,
            totals=totals,
            total_over_processes=self.engine.total,
        )
        seconds = {
            "time/forward": called - started,
            "time/judge": terms.judge_seconds,
            "time/loss": time.perf_counter() - called - terms.judge_seconds,
        }
        return Contribution(terms.total, terms.tally, seconds)

    def _lesson(self, teacher: RIPE, pixels: Tensor, output: PolicyOutput) -> Lesson:
        with self.engine.fabric.autocast():
            return lesson(teacher, pixels, output)

    def _generator(self, number: int, view: int) -> torch.Generator:
        """The source of randomness of one view, the same whichever process and batch it is in."""
        # Mixed, as a CPU's generator looks at the lower 32 bits of its seed alone.
        mixed = np.random.SeedSequence([self.config.seed, number, view]).generate_state(1, np.uint64)
        return torch.Generator(self.engine.device).manual_seed(int(mixed[0]))
