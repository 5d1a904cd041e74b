"""The demo's page, made with Gradio. Nothing that a visitor sends leaves the server; nothing is counted."""

import logging
import os
import secrets
import shutil
import signal
import sys
import tempfile
import threading
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from types import FrameType
from typing import Any

os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # read when Gradio is imported

import gradio as gr

from ripe.demo import intake, outputs
from ripe.demo.pipeline import GEOMETRIES, Pipeline, Result, Settings

QUEUE_LENGTH = 16
KEEP_SECONDS = 3600
SWEEP_SECONDS = 300
SESSIONS = 50
EXAMPLES = ("motorcycle_left.jpg", "motorcycle_right.jpg")
INTRODUCTION = """# RIPE
Two photos of the same place: keypoints, matches, and the matches that agree with one geometry.
Green agrees, red does not. The wheel zooms into a picture, dragging moves it, a double click resets it."""
CSS = ".zoomable img { cursor: zoom-in } .zoomable { overflow: hidden }"

logger = logging.getLogger(__name__)


class PhotoInput(gr.Image):
    """An image input that hands over the file as it was sent: `ripe.demo.intake` judges it, not Gradio."""

    is_template = True

    def preprocess(self, payload: Any) -> str | None:
        """The path of the file in Gradio's folder for uploads."""
        return None if payload is None else payload.path


def build(pipeline: Pipeline, models: Sequence[str]) -> gr.Blocks:
    """The page.

    Args:
        pipeline: answers the requests.
        models: names or weights files to choose from, the default first.
    """
    with gr.Blocks(title="RIPE", analytics_enabled=False, delete_cache=(SWEEP_SECONDS, KEEP_SECONDS)) as page:
        gr.Markdown(INTRODUCTION)
        with gr.Row():
            photos = [
                PhotoInput(label=f"{which} photo", height=280, elem_id=f"photo{number}", sources=["upload", "webcam"])
                for number, which in enumerate(("First", "Second"))
            ]
        bundled = [str(resources.files("ripe") / "assets" / name) for name in EXAMPLES]
        gr.Examples([bundled], photos, label="Example")
        with gr.Row():
            labelled = [(Path(model).name, model) for model in models]
            model = gr.Dropdown(labelled, value=models[0], label="Model", interactive=len(models) > 1)
            keypoints = gr.Slider(128, 8192, 2048, step=128, label="Keypoints at most")
            threshold = gr.Number(None, label="Least score of a keypoint (empty: the model's own)")
        with gr.Row():
            geometry = gr.Radio(list(GEOMETRIES), value=GEOMETRIES[0], label="Geometry")
            inlier = gr.Slider(0.25, 10, 1, step=0.25, label="Inlier threshold (pixels)", elem_id="inlier-threshold")
        button = gr.Button("Match", variant="primary", elem_id="match")
        figures = gr.Markdown(elem_id="figures")
        with gr.Tabs(selected="inliers"):
            shown = []
            for name in ("Keypoints", "All matches", "Inliers"):
                with gr.Tab(name, id=name.lower()):
                    shown.append(_picture(name))
        downloads = gr.Files(label="Downloads", interactive=False, elem_id="downloads")
        state = gr.State(None, time_to_live=KEEP_SECONDS)

        inputs: list[Any] = [*photos, model, keypoints, threshold, geometry, inlier]
        answer = _Answer(pipeline, models)
        limits: dict[str, Any] = {"concurrency_id": "network", "concurrency_limit": 1, "trigger_mode": "always_last"}
        asked = {"inputs": inputs, "outputs": [state, figures, *shown], **limits}
        matched = button.click(answer.match, api_name="match", **asked)
        changed = gr.on(
            [model.input, keypoints.release, threshold.submit, geometry.input, inlier.release],
            answer.match_again,
            api_visibility="private",
            **asked,
        )
        for event in (matched, changed):
            event.success(answer.files, state, downloads, api_visibility="private")
    page.queue(max_size=QUEUE_LENGTH, default_concurrency_limit=1)
    return page


def serve(models: Sequence[str], *, device: Any, host: str, port: int, share: bool) -> None:
    """Serve the page until Ctrl-C or SIGTERM, with all files in a temporary folder that is removed at the end.

    Raises:
        OSError: the port is taken.
    """
    folder = tempfile.mkdtemp(prefix="ripe-demo-")
    os.environ["GRADIO_TEMP_DIR"] = folder
    signal.signal(signal.SIGTERM, _stop)
    page = build(Pipeline(device), models)
    try:
        _, address, public = page.launch(
            server_name=host,
            server_port=port,
            share=share,
            quiet=True,
            prevent_thread_lock=True,
            max_file_size=intake.MAX_FILE_BYTES,
            state_session_capacity=SESSIONS,
            run_history=False,
            footer_links=[],
            theme=gr.themes.Default(font="system-ui", font_mono="monospace"),
            css=CSS,
            head=f"<script>{(resources.files('ripe') / 'demo' / 'zoom.js').read_text()}</script>",
        )
        sys.stdout.write(f"demo       {public or address}   (Ctrl-C ends it)\n")
        sys.stdout.flush()
        threading.Event().wait()
    finally:
        page.close(verbose=False)
        shutil.rmtree(folder, ignore_errors=True)


class _Answer:
    """The page's events; whatever goes wrong with a request is one line for its visitor."""

    def __init__(self, pipeline: Pipeline, models: Sequence[str]) -> None:
        self._pipeline = pipeline
        self._models = models

    def match(self, photo0: str | None, photo1: str | None, *choices: Any) -> list[Any]:
        if photo0 is None or photo1 is None:
            raise gr.Error("Give two photos.", print_exception=False)
        model, keypoints, threshold, geometry, inlier = choices
        if model not in self._models:  # a request need not come from the page
            raise gr.Error("There is no such model.", print_exception=False)
        settings = Settings(model, int(keypoints), threshold, geometry, inlier)
        try:
            result = self._pipeline.run(photo0, photo1, settings)
        except (ValueError, OSError) as error:
            raise gr.Error(" ".join(str(error).splitlines()), print_exception=False) from error
        except Exception as error:
            logger.exception("a request failed")
            raise gr.Error("This failed; the server's log says why.", print_exception=False) from error
        return [result, _table(result), *outputs.pictures(result)]

    def match_again(self, photo0: str | None, photo1: str | None, *choices: Any) -> list[Any]:
        """The same after a setting has changed; nothing happens while a photo is missing."""
        if photo0 is None or photo1 is None:
            return [gr.skip()] * 5
        return self.match(photo0, photo1, *choices)

    def files(self, result: Result | None) -> list[str] | None:
        """The files to download, in Gradio's folder, where old ones are swept out."""
        if result is None:
            return None
        folder = Path(os.environ["GRADIO_TEMP_DIR"]) / secrets.token_hex(16)
        folder.mkdir()
        return [str(path) for path in outputs.write_files(result, outputs.pictures(result)[2], folder)]


def _picture(name: str) -> gr.Image:
    return gr.Image(
        label=name,
        format="jpeg",
        interactive=False,
        buttons=["download", "fullscreen"],
        elem_id=name.lower().replace(" ", "-"),
        elem_classes="zoomable",
    )


def _table(result: Result) -> str:
    rows = [f"| {name} | {value} |" for name, value in outputs.figures(result)]
    return "\n".join(["| | |", "|---|---|", *rows])


def _stop(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt
