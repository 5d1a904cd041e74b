"""A whole run as the command line starts it: with validation, a watch, and a report on one's own photos at the end."""

from dataclasses import replace

from ripe.evaluation.measures import KnownGeometry
from ripe.recipe.config import TrainConfig, ValidationConfig
from ripe.training.comparison import write_report
from ripe.training.engine import Engine
from ripe.training.loop import RunResult, starting_state, train
from ripe.training.progress import Progress
from ripe.training.validation import Validation, find_validation
from ripe.training.watch import Watch

VIEWS = "held_back"


def run_training(config: TrainConfig, display: Progress) -> RunResult:
    """Train, validate and watch; where photos of one's own were held back, compare the weights on them at the end.

    Raises:
        As `ripe.training.loop.train` and `ripe.training.validation.find_validation`.
    """
    with Engine(config) as engine:
        if engine.is_main:
            display.note(f"computes on {engine.device} in {engine.precision}")
        validator = engine.together(lambda: _prepare(config) if engine.is_main else None)
        if engine.is_main and config.val_interval > 0 and validator is None:
            display.note(
                "no validation: no photo of your own is held back, and IMW2020-val is not in the data folder; "
                "give annotated pairs by validation.pairs=FOLDER, or have it by: ripe data download disk-imw2020"
            )
        result = train(config, engine=engine, validator=validator, watch=Watch(config.watch), display=display)
    own = config.validation.pairs is None and (config.data.root or config.data.scenes or config.data.singles)
    if validator is not None and own and result.finished:
        display.note("comparing the new weights with others on the photos that were held back")
        display.note(write_report(result.best or result.weights, validator, config.folder, engine.device))
    return result


def _prepare(config: TrainConfig) -> Validation | None:
    if config.resume != "auto":
        starting_state(config)  # refuses the run before the validation writes its views over those of another
    return find(config) if config.val_interval > 0 else None


def find(config: TrainConfig) -> Validation | None:
    """The validation that the settings ask for; None if there is nothing to validate with."""
    chosen = config.validation
    folder = config.folder / VIEWS
    found = find_validation(config.data, config.seed, folder, pairs=chosen.pairs, max_pairs=chosen.max_pairs)
    if found is None:
        return None
    return Validation(
        [_with_settings(each, chosen) if isinstance(each, KnownGeometry) else each for each in found.measures]
    )


def _with_settings(measure: KnownGeometry, settings: ValidationConfig) -> KnownGeometry:
    protocol = measure.protocol
    if settings.threshold is not None:
        protocol = replace(protocol, published_threshold=settings.threshold)
    if settings.max_keypoints is not None:
        protocol = replace(protocol, max_keypoints=settings.max_keypoints)
    return replace(measure, protocol=protocol)
