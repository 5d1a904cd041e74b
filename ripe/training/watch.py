"""Watches a run's validation: when it no longer rises, and when it falls while training seems to go well.

The second is a trap of this method. The reward can be had for nothing: matches that do not move (x' = x) agree with a
whole family of fundamental matrices, so a network that codes absolute position in its descriptors earns full rewards.
The training's own figures then look better than ever; only the validation shows that nothing is matched any more.
"""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from ripe.recipe.config import WatchConfig

SCORE = "score"
"""The validation's figure that counts, in percent."""

INLIER_RATIO = "inlier_ratio/"
"""Training figures with names that begin so are watched."""

SMALLEST_FALL = 2.0
"""Percentage points; less is noise while the validation is still near 0."""


@dataclass
class Watch:
    """A watch of the training loop, called after every validation.

    Attributes:
        config: when to end a run.
        best: highest validation so far.
        best_step: its step.
        best_ratios: the training's inlier ratios before it.
        raised: last validation that counted as a rise.
        flat: validations since then.
        parted: validations in a row that have parted from training.
    """

    config: WatchConfig = field(default_factory=WatchConfig)
    best: float = -math.inf
    best_step: int = 0
    best_ratios: dict[str, float] = field(default_factory=dict)
    raised: float = -math.inf
    flat: int = 0
    parted: int = 0

    def __call__(self, step: int, validation: Mapping[str, float], training: Mapping[str, float]) -> str | None:
        """Take note of a validation; why the run should end now, or None.

        Args:
            step: that the validation is of.
            validation: figures, with the score in percent; higher is better, and NaN counts as no rise.
            training: means of the training's figures since the last validation.
        """
        ratios = {name: float(value) for name, value in training.items() if _is_earned(name)}
        score = float(validation[SCORE])
        if score > self.best:
            self.best, self.best_step, self.best_ratios = score, step, ratios
        self.flat += 1
        if score > self.raised + self.config.min_rise:
            self.raised, self.flat = score, 0
        risen = self._risen(score, ratios)
        self.parted = self.parted + 1 if risen else 0
        if 0 < self.config.collapse_patience <= self.parted:
            return self._collapse(step, score, ratios, risen)
        if 0 < self.config.patience <= self.flat:
            return (
                f"step {step}: the validation has not risen by {self.config.min_rise:g} in {self.flat} validations; "
                f"the best was {self.best:.1f} at step {self.best_step}"
            )
        return None

    def state_dict(self) -> dict[str, Any]:
        """The state in plain values, to be kept in a checkpoint; the configuration is not part of it."""
        return {key: value for key, value in asdict(self).items() if key != "config"}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a state that `state_dict` gave."""
        for key in self.state_dict():
            setattr(self, key, state[key])

    def _risen(self, score: float, ratios: Mapping[str, float]) -> list[str]:
        """The training ratios that have risen since the best validation, if this one has fallen."""
        if not score < min((1 - self.config.collapse_fall) * self.best, self.best - SMALLEST_FALL):
            return []
        return [
            name
            for name, value in ratios.items()
            if name in self.best_ratios and value >= self.best_ratios[name] + self.config.collapse_rise
        ]

    def _collapse(self, step: int, score: float, ratios: Mapping[str, float], risen: list[str]) -> str:
        rises = " and ".join(
            f"the inlier ratio of {name.removeprefix(INLIER_RATIO)} pairs in training rose from "
            f"{self.best_ratios[name]:.2f} to {ratios[name]:.2f}"
            for name in risen
        )
        return (
            f"step {step}: the validation fell from {self.best:.1f} at step {self.best_step} to {score:.1f}, "
            f"while {rises}: the network is paid for matches that are not right, such as matches that do not move, or "
            f"it knows its photos by heart. Use the weights of step {self.best_step}, and train anew with more "
            "negative pairs (data.negative_share), objective.min_motion above 0, or more photos"
        )


def _is_earned(name: str) -> bool:
    """Whether a training figure is a ratio of inliers that earn rewards; those of negative pairs are mistakes."""
    return name.startswith(INLIER_RATIO) and name != f"{INLIER_RATIO}negative"
