"""Batches of pairs without a trainer."""

from collections.abc import Iterator

from torch.utils.data import DataLoader

from ripe.data.batch import PairBatch
from ripe.data.pairs import ScenePairs, collate, start_workers
from ripe.recipe.config import DataConfig


def pair_batches(config: DataConfig, seed: int, first_step: int, last_step: int) -> Iterator[PairBatch]:
    """The batches of steps `first_step` to `last_step` − 1."""
    size = config.pairs_per_step
    pairs = ScenePairs(config, seed, last_step * size, first_step * size)
    return start_workers(DataLoader(pairs, batch_size=size, collate_fn=collate, num_workers=config.workers))
