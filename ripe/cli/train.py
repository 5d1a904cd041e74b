"""`ripe train`: learn to find and describe keypoints from photos."""

from __future__ import annotations

import argparse
import json
import logging
import sys
from pathlib import Path
from typing import Any

from ripe.cli import options

EXAMPLES = """  ripe train data.root=MY_PHOTOS name=mine
  ripe train data.root=MY_PHOTOS name=mine resume=auto
  ripe train --config-name cpu data.singles=photos data.self_share=1 data.negative_share=0
  ripe train --config-name train project_name=train name=reproduce wandb_mode=offline data=megadepth+tokyo

Stop it with Ctrl-C or SIGTERM: it finishes the step at hand, writes a checkpoint and ends; resume=auto goes on.
The run's folder is OUTPUT_DIR/project_name/name; OUTPUT_DIR and DATA_DIR come from the environment or a file .env.
"""


def add_parser(commands: Any) -> None:
    """Declare the command."""
    parser = options.add_command(commands, "train", "Train a network on photos.", EXAMPLES)
    parser.add_argument("settings", nargs="*", metavar="KEY=VALUE", help="settings that differ from the preset's")
    parser.add_argument(
        "--config-name", default="compact", metavar="PRESET", help="where the settings start from (%(default)s)"
    )
    parser.add_argument("--config-dir", type=Path, metavar="DIR", help="folder of presets of your own")
    parser.add_argument("--options", action="store_true", help="list presets and settings with their meaning, and end")
    parser.add_argument("--show", action="store_true", help="print the settings of this run as JSON, and end")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Train; shows the progress, and where the weights are at the end."""
    from ripe.training.presets import compose

    if arguments.options:
        _print_options()
        return 0
    config = compose(arguments.config_name, arguments.settings, arguments.config_dir)
    if arguments.show:
        print(json.dumps(config.to_dict(), indent=1))
        return 0
    from ripe.data.feed import RunStoppedError
    from ripe.training.command import run_training
    from ripe.training.progress import Progress

    progress = Progress(config)
    handler = _NoteHandler(progress)
    handler.setFormatter(logging.Formatter("%(levelname)s %(message)s"))
    logging.getLogger().addHandler(handler)
    try:
        result = run_training(config, progress)
    except RunStoppedError as error:
        print("ripe: error:", error, file=sys.stderr)
        return 1
    finally:
        progress.close()
        logging.getLogger().removeHandler(handler)
    if result.is_main:
        print(f"ended      {result.reason} (step {result.step})")
        print(f"weights    {result.weights}")
        if result.best is not None:
            print(f"best       {result.best}")
    return 0


class _NoteHandler(logging.Handler):
    """Shows log records beside the progress bar."""

    def __init__(self, progress: Any) -> None:
        super().__init__()
        self._progress = progress

    def emit(self, record: logging.LogRecord) -> None:
        """Show a record."""
        self._progress.note(self.format(record))


def _print_options() -> None:
    from ripe.recipe.config import TrainConfig
    from ripe.training.presets import groups, presets

    print("presets:", ", ".join(presets()))
    for group, choices in groups().items():
        print(f"{group}=:", ", ".join(choices))
    for option in TrainConfig().described():
        print(f"{option.name}={option.default}  {option.meaning}")
