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
from ripe.pretrained import load, weights_hash
from ripe.recipe.config import MatcherConfig
from ripe.training.pictures import match_picture
from ripe.training.trainer import Contribution, Trainer


class MatcherTrainer(Trainer[LightGlue]):
    """A run that trains a matcher."""

    def initial(self) -> LightGlue:
        """The network that the run starts from; see `Trainer.initial`."""
        config = self.config.matcher
        self._extractor = load(config.extractor)
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
        known = {
            index: (
                of_pair(assignments, index, len(sides[0][index]), len(sides[1][index])),
                sides[0][index].keypoints,
                sides[1][index].keypoints,
            )
            for index in range(len(batch))
            if len(sides[0][index]) and len(sides[1][index])
        }
        waiting = {index: _truth(batch, index, *each, config, seeds[index], executor) for index, each in known.items()}
        tally, losses = Tally(), []
        tally.add("keypoints", sum(map(len, features)), len(features))
        tally.add("skipped_pairs", len(batch) - len(known))
        for index, (found, *_) in known.items():
            truth = waiting[index]()
            losses.append(assignment_loss(found, truth) + confidence_loss(found))
            note(tally, found[-1], truth)
        # What is padded, or alone, is part of the graph all the same, so that every process has every gradient.
        nothing = sum(part.sum() for part in assignments[-1][:1]) * 0
        loss = (torch.stack([*losses, nothing]).sum()) / pairs
        tally.add("loss/total", float(loss.detach()) * pairs / len(batch), 1.0)
        tally.add("skipped_files", len(batch.skipped))
        seconds = {"time/forward": called - started, "time/loss": time.perf_counter() - called}
        return Contribution(loss, tally, seconds)


def _truth(
    batch: PairBatch,
    index: int,
    found: Sequence[Assignment],
    keypoints0: torch.Tensor,
    keypoints1: torch.Tensor,
    config: MatcherConfig,
    seed: int,
    executor: Executor,
) -> Callable[[], Truth]:
    """What waits for the truth about a pair of the batch."""
    if not batch.positive[index]:
        return lambda: of_strangers(len(keypoints0), len(keypoints1), keypoints0.device)
    if batch.by_warp[index]:
        warp, same = batch.H_0to1[index].to(keypoints0.device), bool(batch.one_photo[index])
        return lambda: by_homography(keypoints0, keypoints1, warp, config, same=same)
    return by_epipolar_geometry(keypoints0, keypoints1, found[-1].log_scores[0], config, seed=seed, executor=executor)


def _some(features: Features) -> Features:
    """The features; one that means nothing where there is none, as attention to nothing has no value."""
    if len(features):
        return features
    empty = features.keypoints.new_zeros
    nothing = empty(1, features.descriptors.shape[1])
    return replace(features, keypoints=empty(1, 2), scores=empty(1), descriptors=nothing, scales=empty(1))
