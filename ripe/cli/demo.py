"""`ripe demo`: a web page to try it on."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from ripe.cli import options

EXAMPLES = """  ripe demo
  ripe demo --port 8000 --model trained.safetensors
  ripe demo --host 0.0.0.0    lets other computers of the network in

Needs Gradio: pip install 'ripe-keypoints[demo]'. Photos stay on the computer that serves the page, at most for an hour.
"""


def add_parser(commands: Any) -> None:
    """Declare the command."""
    parser = options.add_command(commands, "demo", "Serve a web page that matches two photos.", EXAMPLES)
    parser.add_argument("--host", default="127.0.0.1", help="address to listen at (%(default)s: this computer only)")
    parser.add_argument("--port", type=options.positive, default=7860, help="(%(default)s)")
    parser.add_argument("--share", action="store_true", help="a public address through Gradio's servers, for 7 days")
    parser.add_argument(
        "--model",
        metavar="NAME|FILE",
        help="compact, robust, vgg_hyper or a weights file: offer this one only (all three of them)",
    )
    parser.add_argument("--device", help="such as cpu or cuda:1 (a GPU if there is one)")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Carry the command out: it ends with Ctrl-C."""
    from ripe.demo.server import serve
    from ripe.pretrained import MODELS, load

    device = options.device(arguments)
    given = arguments.model
    if given is not None:
        load(given, device=device)  # so that a wrong name or file shows now and not to a visitor
    models = {name: name for name in MODELS} if given is None else {Path(given).name: given}
    serve(models, device=device, host=arguments.host, port=arguments.port, share=arguments.share)
    return 0
