"""`ripe info`: versions, models and the machine."""

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
    summary = "Show versions, models with licence and size, and the device."
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
    from ripe.pretrained import MODELS

    print(f"ripe       {ripe.__version__}")
    print(f"python     {platform.python_version()}, PyTorch {torch.__version__}")
    print(f"device     {_device()}")
    print(f"precision  float32 (others: {', '.join(options.PRECISIONS[1:])})")
    for name, model in MODELS.items():
        path = model.path()
        size = f"{path.stat().st_size / 1e6:.1f} MB" if path.is_file() else "not here yet"
        print(f"model      {name}: {model.description}; licence of the weights: {model.license}; {size} ({path})")
    return 0


def _device() -> str:
    import torch

    if torch.cuda.is_available():
        return f"cuda ({torch.cuda.get_device_name()})"
    return f"cpu ({torch.get_num_threads()} threads)"
