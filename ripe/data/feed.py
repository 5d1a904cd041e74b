"""The batches of a run, in order, decoded ahead of use in worker processes."""

import logging
import re
import signal
from collections.abc import Iterator

import cv2
import torch
from torch.utils.data import DataLoader

from ripe.data.batch import PairBatch
from ripe.data.pairs import ScenePairs, collate, start_workers
from ripe.recipe.config import TrainConfig

logger = logging.getLogger(__name__)

MAX_RESTARTS = 3


class RunStoppedError(Exception):
    """A run cannot go on; the message says why and what to do about it."""


def pair_numbers(config: TrainConfig, step: int, rank: int, processes: int) -> range:
    """The numbers of the pairs that one process has in one step: its slice of the step's pairs."""
    size = config.data.pairs_per_step // processes
    first = step * config.data.pairs_per_step + rank * size
    return range(first, first + size)


class Feed:
    """Batches from step `step` on, each this process's slice; set it before the first one.

    A worker process that dies (killed for memory, say) costs nothing but time: pairs are functions of their number, so
    the workers are started again at the step at hand. With `pin_memory` batches are in page-locked memory, for a GPU.

    Raises:
        OSError, ValueError: the photos are not there.
    """

    def __init__(
        self, config: TrainConfig, first_step: int, rank: int = 0, processes: int = 1, *, pin_memory: bool = False
    ) -> None:
        self.config, self.rank, self.processes = config, rank, processes
        self.pin_memory = pin_memory
        self.step = first_step
        self.pairs = ScenePairs(config.data, config.seed, config.steps * config.data.pairs_per_step)
        self._batches: Iterator[PairBatch] | None = None

    def next(self) -> PairBatch:
        """The batch of the next step.

        Raises:
            RunStoppedError: the workers die again and again, or no photo can be read.
        """
        for _ in range(MAX_RESTARTS):
            if self._batches is None:
                self._batches = self._start()
            try:
                batch = next(self._batches)
            except RuntimeError as error:
                if not re.search("DataLoader worker.*(exited unexpectedly|killed)", str(error)):
                    raise RunStoppedError(str(error).strip().splitlines()[-1]) from error
                logger.warning("step %d: %s; starting the workers again", self.step, str(error).splitlines()[0])
                self._batches = None
            else:
                self.step += 1
                return batch
        raise RunStoppedError(
            f"step {self.step}: the processes that read photos died {MAX_RESTARTS} times in a row, probably for want "
            "of memory; lower data.workers or data.pairs_per_step"
        )

    def take(self, count: int) -> list[PairBatch]:
        """The next `count` batches; errors as in `next`."""
        return [self.next() for _ in range(count)]

    def _start(self) -> Iterator[PairBatch]:
        workers = self.config.data.workers
        loader: DataLoader = DataLoader(
            self.pairs,
            batch_sampler=list(self._indices()),
            collate_fn=collate,
            num_workers=workers,
            prefetch_factor=4 if workers > 0 else None,
            worker_init_fn=_prepare_worker,
            pin_memory=self.pin_memory,
        )
        return start_workers(loader)

    def _indices(self) -> Iterator[list[int]]:
        for step in range(self.step, self.config.steps):
            numbers = pair_numbers(self.config, step, self.rank, self.processes)
            yield [number % (self.config.overfit_pairs or number + 1) for number in numbers]


def _prepare_worker(_worker: int) -> None:
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    # Ctrl-C, and Slurm, signal all processes; the workers go on until the main one has saved and ends them.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
