"""A run's progress: a live bar on a terminal, plain lines elsewhere."""

import sys
import time
from typing import Any, TextIO

from ripe.recipe.config import TrainConfig

SHOWN = {
    "loss/total": "loss",
    "loss/policy": "policy",
    "loss/descriptor": "desc",
    "keypoints": "kpts",
    "matches": "matches",
    "inlier_ratio/self": "in.self",
    "inlier_ratio/real": "in.real",
    "inlier_ratio/negative": "in.neg",
    "precision/self": "prec.self",
    "recall/self": "rec.self",
    "precision/real": "prec.real",
    "recall/real": "rec.real",
    "matches/negative": "neg",
    "skipped_pairs": "skipped",
    "pairs_per_second": "pairs/s",
}


class Progress:
    """Shows loss, keypoints, matches, inlier ratios, speed and the time that is left."""

    def __init__(self, config: TrainConfig, stream: TextIO | None = None) -> None:
        self._stream = sys.stderr if stream is None else stream
        self._config = config
        self._bar: Any = None
        self._first: tuple[int, float] | None = None
        self._last = 0

    def __call__(self, step: int, figures: dict[str, float]) -> None:
        """Show the figures of a step; elsewhere than on a terminal, every `log_interval` steps."""
        shown = {short: f"{figures[name]:.3g}" for name, short in SHOWN.items() if name in figures}
        if self._stream.isatty():
            self._show_bar(step, shown)
        elif step // self._config.log_interval > self._last // self._config.log_interval or step == self._config.steps:
            parts = "  ".join(f"{name} {value}" for name, value in shown.items())
            self.note(f"step {step}/{self._config.steps}  {parts}  left {self._left(step)}")
        self._last = step

    def note(self, text: str) -> None:
        """A line beside the bar, or among the lines."""
        if self._bar is not None:
            self._bar.clear()
        print(text, file=self._stream, flush=True)

    def close(self) -> None:
        """Leave the bar as it is."""
        if self._bar is not None:
            self._bar.close()

    def _show_bar(self, step: int, shown: dict[str, str]) -> None:
        from tqdm.auto import tqdm

        if self._bar is None:
            self._bar = tqdm(total=self._config.steps, initial=self._last, file=self._stream, dynamic_ncols=True)
        self._bar.set_postfix(shown, refresh=False)
        self._bar.update(step - self._bar.n)

    def _left(self, step: int) -> str:
        now = time.monotonic()
        if self._first is None:
            self._first = (step, now)
        first, since = self._first
        if step == first:
            return "?" if step < self._config.steps else "0:00:00"
        seconds = round((self._config.steps - step) * (now - since) / (step - first))
        return f"{seconds // 3600}:{seconds // 60 % 60:02d}:{seconds % 60:02d}"
