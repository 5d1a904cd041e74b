"""Where a run's figures go: CSV files always, TensorBoard and Weights & Biases on demand."""

import csv
import secrets
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from ripe.files import replacing
from ripe.recipe.config import TrainConfig

CSV = "log.csv"

# Every figure that training logs; validators add theirs as val/….
FIGURES = {
    "seconds": "since the run's start, interruptions left out",
    "loss/total": "what is minimised: the sum of the parts below",
    "loss/policy": "REINFORCE: minus the mean of reward times log-probability, and the price on keypoints",
    "loss/keypoint": "the price of keypoints (kp_penalty)",
    "loss/share": "squared distance of the share of accepted cells from its target",
    "loss/entropy": "minus the policy's entropy",
    "loss/repeatability": "minus the log of the probability that both views of a self-pair choose the same point",
    "loss/localisation": "distance in pixels between the same keypoints of a self-pair's views, sub-pixel fit included",
    "loss/descriptor": "contrastive loss of the descriptors",
    "loss/teacher_descriptor": "distance to a teacher's descriptors, one minus the cosine",
    "loss/teacher_score": "divergence of the policy from where a teacher would put keypoints",
    "keypoints": "selected keypoints of a view, on average",
    "matches": "mutual nearest neighbours of a pair, on average",
    "inlier_ratio/self": "share of right matches in self-pairs, by the warp",
    "inlier_ratio/real": "share of right matches in pairs of two photos of a scene, by RANSAC",
    "inlier_ratio/negative": "share of matches that RANSAC takes for right in pairs of two scenes; all are mistakes",
    "precision/self": "of a matcher: share of its matches in self-pairs that the warp confirms",
    "recall/self": "of a matcher: share of the right matches in self-pairs that it finds",
    "precision/real": "of a matcher: share of its matches in pairs of two photos of a scene that the pair confirms",
    "recall/real": "of a matcher: share of the matches known to be right there that it finds",
    "matches/negative": "of a matcher: matches of a pair of two scenes; all are mistakes",
    "skipped_pairs": "pairs of the update without any match: too few keypoints",
    "skipped_files": "files that could not be read, replaced by others",
    "learning_rate": "of AdamW",
    "gradient_norm": "before it is clipped",
    "bad_steps": "updates left out so far because the loss or its gradient was not finite",
    "pairs_per_second": "of all processes",
    "time/data": "seconds of the update spent waiting for photos",
    "time/forward": "seconds in the network and the sampling, and in the teacher, if any",
    "time/judge": "seconds in matching, and waiting for RANSAC",
    "time/loss": "seconds in the rest of the loss",
    "time/backward": "seconds in the gradient",
    "time/update": "seconds in clipping, AdamW and the moving average",
}


class Logger(Protocol):
    """Notes figures somewhere."""

    def log(self, step: int, figures: dict[str, float]) -> None:
        """Note the figures of a step."""

    def picture(self, step: int, picture: np.ndarray, path: Path) -> None:
        """Note an H×W×3 uint8 RGB picture, which is in the file `path` as well."""

    def close(self) -> None:
        """Nothing will follow."""


class CsvLogger:
    """One row a step; a column that comes up later is empty in the rows before it.

    Rows after `step` are those of a run that was interrupted before its next checkpoint; they are dropped.
    """

    def __init__(self, path: Path, step: int) -> None:
        self.path = path
        self._columns = ["step", *FIGURES]
        rows = [row for row in _read(path) if int(row["step"]) <= step]
        self._columns += [name for row in rows[:1] for name in row if name not in self._columns]
        self._write(rows)

    def log(self, step: int, figures: dict[str, float]) -> None:
        """Append a row; figures of the same step join the row of that step."""
        new = [name for name in figures if name not in self._columns]
        row = {"step": str(step)} | {name: f"{value:.7g}" for name, value in figures.items()}
        if new or self._last == step:
            rows = _read(self.path)
            if self._last == step:
                row = rows.pop() | row
            self._columns += new
            self._write([*rows, row])
        else:
            with self.path.open("a", newline="", encoding="utf-8") as file:
                csv.DictWriter(file, self._columns).writerow(row)
        self._last: int | None = step

    def picture(self, step: int, picture: np.ndarray, path: Path) -> None:
        """Nothing: a table holds no pictures."""

    def close(self) -> None:
        """Nothing is open."""

    def _write(self, rows: list[dict[str, str]]) -> None:
        with replacing(self.path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, self._columns)
            writer.writeheader()
            writer.writerows(rows)
        self._last = int(rows[-1]["step"]) if rows else None


def _read(path: Path) -> list[dict[str, str]]:
    """The whole rows of a log; one that was being written when the process died is left out."""
    if not path.is_file():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        text = file.read()
    whole = text[: text.rfind("\n") + 1].splitlines()
    return [row for row in csv.DictReader(whole) if None not in row.values() and row["step"].isdecimal()]


class TensorBoardLogger:
    """Event files for TensorBoard. Raises `ValueError` if it is not installed."""

    def __init__(self, folder: Path, step: int) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise ValueError("tensorboard=true needs TensorBoard: pip install 'ripe-keypoints[train]'") from error
        self._writer = SummaryWriter(str(folder), purge_step=step + 1)

    def log(self, step: int, figures: dict[str, float]) -> None:
        """One scalar for each figure."""
        for name, value in figures.items():
            self._writer.add_scalar(name, value, step)

    def picture(self, step: int, picture: np.ndarray, path: Path) -> None:
        """Among the images."""
        self._writer.add_image("matches", picture, step, dataformats="HWC")

    def close(self) -> None:
        """Write what is left."""
        self._writer.close()


class WandbLogger:
    """Weights & Biases, online or offline; a resumed run goes on under its old id.

    Raises `ValueError` if it is not installed.
    """

    def __init__(self, config: TrainConfig, folder: Path) -> None:
        try:
            import wandb
        except ImportError as error:
            raise ValueError(
                f"wandb_mode={config.wandb_mode} needs W&B: pip install wandb, or set wandb_mode=disabled"
            ) from error
        self._wandb: Any = wandb
        identity = folder / "wandb_id.txt"
        known = identity.read_text().strip() if identity.is_file() else secrets.token_hex(4)
        with replacing(identity) as temporary:
            temporary.write_text(known + "\n")
        self._run = wandb.init(
            project=config.project_name,
            name=config.name,
            id=known,
            resume="allow",
            mode=config.wandb_mode,
            dir=str(folder),
            config=config.to_dict(),
            settings=wandb.Settings(console="off", silent=True),
        )

    def log(self, step: int, figures: dict[str, float]) -> None:
        """One history row."""
        self._run.log(figures, step=step)

    def picture(self, step: int, picture: np.ndarray, path: Path) -> None:
        """Among the media."""
        self._run.log({"matches": self._wandb.Image(picture)}, step=step)

    def close(self) -> None:
        """Send or write what is left."""
        self._run.finish()


def open_loggers(config: TrainConfig, folder: Path, step: int) -> list[Logger]:
    """The loggers that the settings ask for, of a run that is at `step`."""
    loggers: list[Logger] = [CsvLogger(folder / CSV, step)]
    if config.tensorboard:
        loggers.append(TensorBoardLogger(folder / "tensorboard", step))
    if config.wandb_mode != "disabled":
        loggers.append(WandbLogger(config, folder))
    return loggers
