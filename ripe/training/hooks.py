"""What a run asks of others: to validate, to say when to stop, to note figures, to show them."""

from pathlib import Path
from typing import Any, Protocol

import numpy as np

from ripe.model import RIPE


class RunStoppedError(Exception):
    """A run cannot go on; the message says why and what to do about it."""


class Validator(Protocol):
    """Measures a model; `main` names the figure that chooses the best checkpoint (higher is better)."""

    main: str

    def __call__(self, model: RIPE, step: int) -> dict[str, float]:
        """Figures of `model`, which is in evaluation mode; they are logged as val/NAME."""

    def picture(self, model: RIPE) -> np.ndarray:
        """Matches of a pair, H×W×3 uint8 RGB."""


class Watch(Protocol):
    """Sees the figures of every validation, and may end the run."""

    def __call__(self, step: int, validation: dict[str, float], training: dict[str, float]) -> str | None:
        """Why the run is to end after this step; None to go on.

        `validation` is what the validator returned; `training` the means of what was logged since the last validation.
        """

    def state_dict(self) -> dict[str, Any]:
        """What it remembers, in plain values; saved with every checkpoint."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from what `state_dict` gave."""


class Logger(Protocol):
    """Notes figures somewhere."""

    def log(self, step: int, figures: dict[str, float]) -> None:
        """Note the figures of a step."""

    def picture(self, step: int, picture: np.ndarray, path: Path) -> None:
        """Note an H×W×3 uint8 RGB picture, which is in the file `path` as well."""

    def close(self) -> None:
        """Nothing will follow."""


class Display(Protocol):
    """Shows how a run is doing."""

    def __call__(self, step: int, figures: dict[str, float]) -> None:
        """Called after every update of the weights."""

    def note(self, text: str) -> None:
        """Show a line beside the figures."""
