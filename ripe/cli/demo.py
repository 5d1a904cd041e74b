"""`ripe demo`: a web page to try it on."""

from __future__ import annotations

import argparse
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
        help="compact, vgg_hyper or a weights file: the only one offered (both names)",
    )
    parser.add_argument("--device", help="such as cpu or cuda:1 (a GPU if there is one)")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Carry the command out: it ends with Ctrl-C."""
    try:
        import gradio  # noqa: F401
    except ImportError as error:
        raise ValueError(f"Gradio is needed: pip install 'ripe-keypoints[demo]' ({error})") from error
    from ripe.demo.page import serve
    from ripe.pretrained import MODELS, load

    device = options.device(arguments)
    if arguments.model is not None:
        load(arguments.model, device=device)  # so that a wrong name or file shows now and not to a visitor
    models = list(MODELS) if arguments.model is None else [arguments.model]
    serve(models, device=device, host=arguments.host, port=arguments.port, share=arguments.share)
    return 0
