"""`ripe info`: versions, models and the machine."""

from __future__ import annotations

import argparse
import platform
from typing import Any

from ripe.cli import options


def add_parser(commands: Any) -> None:
    """Declare the command."""
    summary = "Show versions, models with licence and size, and the device."
    parser = options.add_command(commands, "info", summary, "  ripe info\n")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Carry the command out."""
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
