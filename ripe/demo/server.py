"""Serves the demo: what is around Gradio. Nothing is counted, and no file stays behind."""

import os
import signal
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from types import FrameType
from typing import Any

from ripe.allocator import share_arenas
from ripe.demo.pipeline import Pipeline
from ripe.demo.sweeper import Sweeper


def serve(models: Mapping[str, str], *, device: Any, host: str, port: int, share: bool) -> None:
    """Serve the page until Ctrl-C or SIGTERM, with all files in a temporary folder that is removed at the end.

    Args:
        models: names to show, and what `ripe.load` takes; the default first.
        device: where the models run.
        host: address to listen at.
        port: to listen at.
        share: let the world in, through Gradio's servers.

    Raises:
        OSError: the port is taken.
        ValueError: Gradio is not installed.
    """
    signal.signal(signal.SIGTERM, _interrupt)
    share_arenas()
    with TemporaryDirectory(prefix="ripe-demo-", ignore_cleanup_errors=True) as folder:
        # Gradio reads these when it is imported.
        os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
        os.environ["GRADIO_TEMP_DIR"] = folder
        os.environ["GRADIO_ANALYTICS_MAX_EVENTS"] = "100"  # past requests that it remembers
        try:
            from ripe.demo.page import KEEP_SECONDS, build, launch
        except ImportError as error:
            raise ValueError(f"Gradio is needed: pip install 'ripe-keypoints[demo]' ({error})") from error

        page = build(Pipeline(device), models, Path(folder))
        try:
            address = launch(page, host=host, port=port, share=share)
            Sweeper(Path(folder), KEEP_SECONDS).start()
            sys.stdout.write(f"demo       {address}   (Ctrl-C ends it)\n")
            sys.stdout.flush()
            threading.Event().wait()
        finally:
            page.close(verbose=False)


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt
