"""The training loop: updates, validation, checkpoints, resume, clean stops."""

import logging
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from ripe.data.batch import PairBatch
from ripe.data.feed import Feed, RunStoppedError
from ripe.drawing import save_picture
from ripe.files import locked, sweep
from ripe.objective.tally import Tally
from ripe.recipe.config import TrainConfig
from ripe.training.checkpoint import CheckpointFolder, load_checkpoint, release_of, save_checkpoint
from ripe.training.engine import Engine
from ripe.training.extractor import ExtractorTrainer
from ripe.training.loggers import Logger, open_loggers
from ripe.training.matcher import MatcherTrainer
from ripe.training.progress import Progress
from ripe.training.trainer import Trainer
from ripe.training.validation import Validation
from ripe.training.watch import Watch

logger = logging.getLogger(__name__)

TRAINERS: dict[str, Callable[[TrainConfig, Engine], Trainer]] = {
    "extractor": ExtractorTrainer,
    "matcher": MatcherTrainer,
}
CHECKPOINTS = "checkpoints"
WEIGHTS = "weights.safetensors"
BEST_WEIGHTS = "best.safetensors"
BAD_BATCH = "bad_batch.pt"
ASKED = "it was asked to stop"
# Settings that may differ when a run goes on, without changing what it computes.
HARMLESS = {"output", "resume", "max_minutes", "max_bad_steps", "checkpoint_interval", "keep_checkpoints", "devices"}
HARMLESS |= {"num_nodes", "log_interval", "wandb_mode", "tensorboard", "data.workers"}

NAMES = frozenset(TrainConfig().flat())
# Settings of earlier releases' checkpoints by the names that they have now.
RENAMED: dict[str, str] = {}


@dataclass(frozen=True)
class RunResult:
    """What a run left behind.

    Attributes:
        weights: the moving average at the end, for `ripe.load`.
        best: the moving average at the best validation; None without one.
        step: where the run ended.
        reason: why it ended.
        finished: whether it ended by itself, and not because it was asked to stop.
        is_main: whether this is the process that wrote them.
    """

    weights: Path
    best: Path | None
    step: int
    reason: str
    finished: bool
    is_main: bool


def train(
    config: TrainConfig,
    *,
    engine: Engine | None = None,
    validator: Validation | None = None,
    watch: Watch | None = None,
    display: Progress | None = None,
) -> RunResult:
    """Run a training to its end, to its wall-clock budget, to a SIGTERM or SIGINT, or until `watch` ends it.

    Writes into `config.folder`: checkpoints/ (to resume), weights.safetensors and best.safetensors (for `ripe.load`),
    log.csv and matches/. In a run of many processes, the main one alone writes, validates and shows.

    Raises:
        FileExistsError: as `starting_state`.
        OSError, ValueError: no checkpoint to resume, photos are missing, the disk is full.
        RunStoppedError: the run cannot go on; the message says why.
    """
    if engine is None:
        with Engine(config) as engine:
            return train(config, engine=engine, validator=validator, watch=watch, display=display)
    on_gpu = engine.device.type == "cuda"
    # First, as photos are missing more often than anything else.
    feed = engine.together(lambda: Feed(config, 0, engine.rank, engine.processes, pin_memory=on_gpu))
    trainer = TRAINERS[config.learns](config, engine)
    run = _Run(trainer, validator, watch, display)
    with run.open(), ThreadPoolExecutor() as executor, _stop_signals() as stopping:
        feed.step = trainer.step
        started, seconds_before = time.monotonic(), trainer.seconds
        reason = "" if trainer.step < config.steps else "all steps were done already"
        while not reason:
            before, begun = trainer.step, time.monotonic()
            count = min(config.optimizer.accumulate, config.steps - before)
            batches = engine.together(partial(feed.take, count))
            waited = time.monotonic() - begun
            tally = trainer.update(batches, executor)
            seconds = time.monotonic() - started
            trainer.seconds = seconds_before + seconds
            tally.add("time/data", waited)
            tally.add("pairs_per_second", count * config.data.pairs_per_step / (time.monotonic() - begun))
            tally.add("seconds", trainer.seconds)
            reason = _reason_to_end(trainer, seconds, bool(stopping))
            reason = run.after_update(before, tally, batches, reason)
    best = None if run.best_step is None else run.folder / BEST_WEIGHTS
    return RunResult(
        run.folder / WEIGHTS, best, trainer.step, reason, not reason.startswith(ASKED), trainer.engine.is_main
    )


def starting_state(config: TrainConfig) -> dict[str, Any] | None:
    """The checkpoint that a run goes on from, None if it starts; nothing is written.

    Raises:
        FileExistsError: the run would overwrite another one's checkpoints or weights: `config.folder` holds a run and
            `config.resume` is "never", or it holds steps beyond those of the checkpoint that is named.
        FileNotFoundError, ValueError: the checkpoint that is named does not exist, or none is whole.
    """
    checkpoints = CheckpointFolder(config.folder / CHECKPOINTS, config.keep_checkpoints)
    if config.resume == "auto":
        newest = checkpoints.newest()
        return None if newest is None else _of_a_run(newest, checkpoints.folder)
    steps = checkpoints.steps()
    if config.resume == "never":
        if steps or any((config.folder / name).exists() for name in (WEIGHTS, BEST_WEIGHTS)):
            raise FileExistsError(f"{config.folder}: holds a run already; resume=auto goes on, or choose another name")
        return None
    state = _of_a_run(load_checkpoint(Path(config.resume)), config.resume)
    if steps and steps[-1] > state["step"]:
        raise FileExistsError(
            f"{config.folder}: the run has come to step {steps[-1]}, and going on from step {state['step']} would "
            "overwrite it; resume=auto goes on from its newest checkpoint, another name keeps both, and so does moving "
            "the later checkpoints away"
        )
    return state


def _of_a_run(state: dict[str, Any], source: str | Path) -> dict[str, Any]:
    """A checkpoint with what is asked of it before it is loaded; `ValueError` names the source of one without."""
    kinds = {"step": int, "model": Mapping, "config": Mapping}
    if not all(isinstance(state.get(key), kind) for key, kind in kinds.items()):
        raise ValueError(f"{source}: not a checkpoint of a run")
    return state


def _reason_to_end(trainer: Trainer, seconds: float, stopping: bool) -> str:
    """Why a run ends that was started `seconds` ago; nothing if it goes on."""
    config = trainer.config
    over = config.max_minutes is not None and seconds >= 60 * config.max_minutes
    if trainer.step >= config.steps:
        return "all steps are done"
    if trainer.engine.any(stopping):
        return f"{ASKED}; resume=auto goes on"
    if trainer.engine.any(over):
        minutes = f"{seconds / 60:.1f} of this start, {trainer.seconds / 60:.1f} in all"
        return f"its minutes are over ({minutes}); resume=auto goes on with as many again"
    return ""


class _Run:
    """What a run writes, validates and shows; nearly all of it in the main process alone."""

    def __init__(
        self,
        trainer: Trainer,
        validator: Validation | None,
        watch: Watch | None,
        display: Progress | None,
    ) -> None:
        self.trainer, self.config = trainer, trainer.config
        config = trainer.config
        self.folder = config.folder
        self.checkpoints = CheckpointFolder(self.folder / CHECKPOINTS, config.keep_checkpoints)
        self.best_step: int | None = None
        self._best_score = -float("inf")
        self._validator, self._watch = validator, watch
        main = trainer.engine.is_main
        self._display = display if main else None
        self._loggers: list[Logger] = []
        self._since_validation = Tally()

    def _resume(self) -> None:
        """Bring the trainer to where the run was, if it goes on."""
        engine = self.trainer.engine
        # The main process alone reads, as folders may not be shared, or not be of one step at one time.
        state = engine.by_main(lambda: starting_state(self.config))
        if state is None:
            return
        if engine.is_main:
            self._warn_of_changes(state)
        try:
            self._load(state)
        except (AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
            source = self.checkpoints.folder if self.config.resume == "auto" else self.config.resume
            raise ValueError(
                f"{source}: a checkpoint of {release_of(state)} that does not fit this release and these settings "
                f"({str(error).splitlines()[0]})"
            ) from error
        # Which a process may not have come to that was killed.
        engine.by_main(lambda: self.checkpoints.prune(self.trainer.step, self.best_step))

    def _load(self, state: dict[str, Any]) -> None:
        self.trainer.load_state_dict(state)
        self._since_validation = Tally(**state["since_validation"])
        if self._watch is not None and state["watch"] is not None:
            self._watch.load_state_dict(state["watch"])
        # Elsewhere than in the folder of the best weights, the best is sought anew.
        if self.trainer.engine.by_main((self.folder / BEST_WEIGHTS).exists):
            self.best_step, self._best_score = state["best_step"], state["best_score"]

    def _warn_of_changes(self, state: dict[str, Any]) -> None:
        defaults, old, new = (_flat(each) for each in (TrainConfig().to_dict(), state["config"], self.config.to_dict()))
        old = {RENAMED.get(name, name): value for name, value in old.items()}
        unknown = [f"{name} {value}" for name, value in old.items() if name not in new]
        if unknown:
            known = "the checkpoint is of %s, and this one has no settings of these names, which it leaves out: %s"
            logger.warning(known, release_of(state), ", ".join(unknown))
        old = defaults | old
        changed = [
            f"{name} {old.get(name)} → {value}"
            for name, value in new.items()
            if name not in HARMLESS and old.get(name) != value
        ]
        if changed:
            logger.warning("the run goes on with other settings: %s", ", ".join(changed))

    @contextmanager
    def open(self) -> Iterator[None]:
        """The folder, this run's alone, and the loggers as long as it takes; the trainer is where the run was."""
        with ExitStack() as stack:
            self.trainer.engine.by_main(lambda: stack.enter_context(self._alone()))
            self._resume()
            self._loggers = self.trainer.engine.together(self._open_loggers)
            for each in self._loggers:
                stack.callback(each.close)
            yield

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Another process that would train into the folder is waited for: both would write the same checkpoints."""
        self.folder.parent.mkdir(parents=True, exist_ok=True)
        with locked(self.folder):
            sweep(self.folder)
            yield

    def _open_loggers(self) -> list[Logger]:
        if not self.trainer.engine.is_main:
            return []
        self.folder.mkdir(parents=True, exist_ok=True)
        return open_loggers(self.config, self.folder, self.trainer.step)

    def after_update(self, before: int, tally: Tally, batches: list[PairBatch], reason: str) -> str:
        """Log, validate and save what is due; returns why the run is to end, or nothing."""
        step = self.trainer.step
        if self.trainer.bad_in_a_row >= self.config.max_bad_steps:
            self._give_up(batches)

        def due(interval: int) -> bool:
            return interval > 0 and step // interval > before // interval

        if self._display is not None:
            self._display(step, tally.figures())
        engine, batch = self.trainer.engine, batches[-1]
        if due(self.config.log_interval) or reason:
            figures = self._over_processes(tally)
            engine.by_main(lambda: self._note(figures))
        if due(self.config.val_interval):
            reason = engine.by_main(lambda: self._validate(batch)) or reason
        if due(self.config.checkpoint_interval) or due(self.config.val_interval) or reason:
            engine.by_main(self._save)
        return reason

    def _note(self, figures: dict[str, float]) -> None:
        for name, value in figures.items():
            self._since_validation.add(name, value)
        self._log(figures)

    def _over_processes(self, tally: Tally) -> dict[str, float]:
        names = [name for name in tally.sums if not name.startswith("time/")]
        values = torch.tensor([(tally.sums[n], tally.counts[n]) for n in names], dtype=torch.float64)
        summed = self.trainer.engine.total(values).tolist()
        own = {name: value for name, value in tally.figures().items() if name.startswith("time/")}
        return Tally(*({n: row[i] for n, row in zip(names, summed, strict=True)} for i in (0, 1))).figures() | own

    def _log(self, figures: dict[str, float]) -> None:
        for each in self._loggers:
            each.log(self.trainer.step, figures)

    def _validate(self, batch: PairBatch) -> str | None:
        """Validate the moving average, draw matches; why the run is to end, if it is."""
        step, rival = self.trainer.step, self.trainer.rival()
        shown = self.trainer.picture(batch) if self._validator is None else self._validator.picture(rival)
        path = self.folder / "matches" / f"step-{step:08d}.png"
        path.parent.mkdir(exist_ok=True)
        save_picture(shown, path)
        for each in self._loggers:
            each.picture(step, shown, path)
        if self._validator is None:
            return None
        validation = self._validator(rival, step)
        self._log({f"val/{name}": value for name, value in validation.items()})
        if self._display is not None:
            self._display.note(
                f"step {step}  " + "  ".join(f"{name} {value:.4g}" for name, value in validation.items())
            )
        if validation[self._validator.main] > self._best_score:
            self.best_step, self._best_score = step, validation[self._validator.main]
            self.trainer.save(self.folder / BEST_WEIGHTS)
        training, self._since_validation = self._since_validation.figures(), Tally()
        return None if self._watch is None else self._watch(step, validation, training)

    def _save(self) -> None:
        state = self.trainer.state_dict() | {
            "best_step": self.best_step,
            "best_score": self._best_score,
            "since_validation": asdict(self._since_validation),
            "watch": None if self._watch is None else self._watch.state_dict(),
        }
        # The checkpoint comes last: a run that is killed before it goes on from the one before, and writes both anew.
        step, weights = self.trainer.step, self.folder / WEIGHTS
        self.checkpoints.make_room(lambda: self.trainer.save(weights), step, self.best_step)
        self.checkpoints.save(state, step, self.best_step)

    def _give_up(self, batches: list[PairBatch]) -> None:
        path = self.folder / BAD_BATCH
        if self.trainer.engine.is_main:
            save_checkpoint({"step": self.trainer.step, "batches": [asdict(batch) for batch in batches]}, path)
        raise RunStoppedError(
            f"step {self.trainer.step}: the loss or its gradient was not finite {self.trainer.bad_in_a_row} times in a "
            f"row; the last batch is in {path}, the last good state in {self.checkpoints.folder}. "
            "Try a lower optimizer.lr"
        )


def _flat(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested plain settings by their full names, such as optimizer.lr; a mapping that is one setting stays one."""
    found: dict[str, Any] = {}
    for key, value in settings.items():
        name = f"{prefix}{key}"
        found |= _flat(value, f"{name}.") if isinstance(value, Mapping) and name not in NAMES else {name: value}
    return found


@contextmanager
def _stop_signals() -> Iterator[list[int]]:
    """Collects SIGTERM and SIGINT, so that the step at hand is finished and saved before the run ends.

    A second SIGINT ends it at once.
    """
    received: list[int] = []

    def note(number: int, _frame: Any) -> None:
        if number == signal.SIGINT and number in received:
            raise KeyboardInterrupt
        received.append(number)

    previous = {number: signal.signal(number, note) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield received
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
