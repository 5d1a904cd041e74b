"""`ripe info`: versions, models, matchers and the machine."""

from __future__ import annotations

import argparse
import platform
from pathlib import Path
from typing import Any

from ripe.cli import options

EXAMPLES = """  ripe info
  python -m gluefactory.eval.hpatches --conf "$(ripe info --gluefactory-conf ripe-compact+NN)"
"""
CONFIGURATIONS = Path(__file__).parents[1] / "integrations" / "gluefactory_configs"


def add_parser(commands: Any) -> None:
    """Declare the command."""
    summary = "Show versions, models and matchers with licence and size, and the device."
    parser = options.add_command(commands, "info", summary, EXAMPLES)
    parser.add_argument(
        "--gluefactory-conf",
        choices=sorted(path.stem for path in CONFIGURATIONS.glob("*.yaml")),
        help="show only the path of this configuration for Glue Factory",
    )
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Carry the command out."""
    if arguments.gluefactory_conf is not None:
        print(CONFIGURATIONS / f"{arguments.gluefactory_conf}.yaml")
        return 0
    import torch

    import ripe
    from ripe.matchers import MATCHERS, shipped
    from ripe.pretrained import MODELS

    print(f"ripe       {ripe.__version__}")
    print(f"python     {platform.python_version()}, PyTorch {torch.__version__}")
    print(f"device     {_device()}")
    print(f"precision  float32 (others: {', '.join(options.PRECISIONS[1:])})")
    for name, model in MODELS.items():
        print(f"model      {name}: {model.description}; licence of the weights: {model.license}; {_file(model.path())}")
    for file in sorted(set(MATCHERS.values())):
        names = [name for name, its in MATCHERS.items() if its == file]
        terms = f"licence of the weights: {MODELS[names[0]].license}"
        print(f"matcher    {', '.join(names)}: LightGlue for their features; {terms}; {_file(shipped(names[0]))}")
    return 0


def _file(path: Path) -> str:
    """Size and place of a weights file."""
    size = f"{path.stat().st_size / 1e6:.1f} MB" if path.is_file() else "not here yet"
    return f"{size} ({path})"


def _device() -> str:
    import torch

    if torch.cuda.is_available():
        return f"cuda ({torch.cuda.get_device_name()})"
    return f"cpu ({torch.get_num_threads()} threads)"
