"""The training of a matcher, by what warps and the pairs' own geometry say of its matches; the extractor stays."""

import time
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from ripe.data.batch import PairBatch
from ripe.evaluation.measures import Rival, matcher_rival
from ripe.features import Features
from ripe.matchers import Matcher, as_points, load_matcher, save_matcher
from ripe.networks.lightglue import Assignment, LightGlue
from ripe.objective.assignment import (
    Truth,
    assignment_loss,
    by_epipolar_geometry,
    by_homography,
    confidence_loss,
    note,
    of_pair,
    of_strangers,
)
from ripe.objective.tally import Tally
from ripe.pretrained import weights_hash
from ripe.recipe.config import MatcherConfig, TrainConfig
from ripe.training.engine import Engine
from ripe.training.initial import load_frozen
from ripe.training.pictures import match_picture
from ripe.training.trainer import Contribution, Trainer


class MatcherTrainer(Trainer[LightGlue]):
    """A run that trains a matcher."""

    def __init__(self, config: TrainConfig, engine: Engine | None = None) -> None:
        engine = Engine(config) if engine is None else engine
        self._extractor = load_frozen(config.matcher.extractor, engine)
        super().__init__(config, engine)

    def initial(self) -> LightGlue:
        """The network that the run starts from; see `Trainer.initial`."""
        config = self.config.matcher
        network = LightGlue(self._extractor.descriptor_dim, config.width, config.layers, config.heads)
        if config.start is not None:
            started = load_matcher(config.start, device="cpu").network
            if started.options() != network.options():
                raise ValueError(
                    f"matcher.start={config.start}: a matcher of {started.options()}, and the settings want "
                    f"{network.options()}"
                )
            network.load_state_dict(started.state_dict())
        return network

    def contributions(
        self, batches: Sequence[PairBatch], executor: Executor
    ) -> Callable[[PairBatch, int], Contribution]:
        """What computes a batch's part of the mean of the pairs' losses."""
        pairs = float(self.engine.total(torch.tensor(float(sum(len(batch) for batch in batches)))))
        return lambda batch, step: self._contribution(batch, step, pairs, executor)

    def save(self, path: Path) -> None:
        """As `ripe.load_matcher` reads it."""
        save_matcher(self.matcher(), path)

    def matcher(self) -> Matcher:
        """The moving average, for the extractor's features."""
        return Matcher(self.average, weights_hash(self._extractor))

    def rival(self) -> Rival:
        """The extractor with the moving average."""
        return matcher_rival("network", self._extractor, self.matcher())

    def picture(self, batch: PairBatch) -> np.ndarray:
        """Matches of the first positive pair; wrong ones are red."""
        return match_picture(self._extractor, batch, max_error=3.0, match=self.matcher())

    def _contribution(self, batch: PairBatch, step: int, pairs: float, executor: Executor) -> Contribution:
        started = time.perf_counter()
        config, device = self.config.matcher, self.engine.device
        views = [image.float() / 255 for image in batch.images.to(device)]
        features = self._extractor.extract(views, max_keypoints=config.keypoints, masks=list(batch.valid))
        sides = features[: len(batch)], features[len(batch) :]
        assignments = self._trained(*(as_points([_some(each) for each in side], device) for side in sides))
        called = time.perf_counter()
        seeds = self.pair_numbers(step)
        found: dict[int, list[Assignment]] = {}
        waiting: dict[int, Callable[[], Truth]] = {}
        for index, (first, second) in enumerate(zip(*sides, strict=True)):
            if len(first) and len(second):
                found[index] = of_pair(assignments, index, len(first), len(second))
                points = first.keypoints, second.keypoints
                waiting[index] = _truth(batch, index, found[index], points, config, seeds[index], executor)
        # All that the network gives is part of the graph, so that every process has every gradient.
        loss = torch.stack([part.sum() for layer in assignments for part in layer if part is not None]).sum() * 0
        tally = Tally()
        for index, truth in waiting.items():
            known = truth()
            loss = loss + assignment_loss(found[index], known) + confidence_loss(found[index])
            note(tally, found[index][-1], known)
        tally.add("loss/total", float(loss.detach()) / len(batch))
        tally.add("keypoints", sum(map(len, features)), len(features))
        tally.add("skipped_pairs", len(batch) - len(found))
        tally.add("skipped_files", len(batch.skipped))
        seconds = {"time/forward": called - started, "time/loss": time.perf_counter() - called}
        return Contribution(loss / pairs, tally, seconds)


def _truth(
    batch: PairBatch,
    index: int,
    found: Sequence[Assignment],
    points: tuple[torch.Tensor, torch.Tensor],
    config: MatcherConfig,
    seed: int,
    executor: Executor,
) -> Callable[[], Truth]:
    """What waits for the truth about a pair of the batch with these keypoints."""
    if not batch.positive[index]:
        return lambda: of_strangers(len(points[0]), len(points[1]), points[0].device)
    if batch.by_warp[index]:
        warp, same = batch.H_0to1[index].to(points[0].device), bool(batch.one_photo[index])
        return lambda: by_homography(*points, warp, config, same=same)
    return by_epipolar_geometry(*points, found[-1].log_scores[0], config, seed=seed, executor=executor)


def _some(features: Features) -> Features:
    """The features; one that means nothing where there is none, as attention to nothing has no value."""
    if len(features):
        return features
    empty = features.keypoints.new_zeros
    nothing = empty(1, features.descriptors.shape[1])
    return replace(features, keypoints=empty(1, 2), scores=empty(1), descriptors=nothing, scales=empty(1))
