"""The demo's page, made with Gradio; `ripe.demo.server` prepares what Gradio wants to find when it is imported."""

import logging
import secrets
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any

import gradio as gr

from ripe.demo import intake, outputs
from ripe.demo.pipeline import GEOMETRIES, MAX_KEYPOINTS, DemoSettings, MatchedPhotos, Pipeline
from ripe.tables import markdown_table

QUEUE_LENGTH = 16
KEEP_SECONDS = 3600
SWEEP_SECONDS = 300
SESSIONS = 50
EXAMPLES = ("motorcycle_left.jpg", "motorcycle_right.jpg")
INTRODUCTION = """# RIPE
Two photos of the same place: keypoints, matches, and the matches that agree with one geometry.
Yellow, green and cyan agree, by their place in the first photo; red does not.
The wheel zooms into a picture, dragging moves it, a double click resets it."""
CSS = ".zoomable img { cursor: zoom-in } .zoomable { overflow: hidden }"

logger = logging.getLogger(__name__)


def build(pipeline: Pipeline, models: Mapping[str, str], folder: Path) -> gr.Blocks:
    """The page.

    Args:
        pipeline: answers the requests.
        models: what there is to choose from, the default first: names to show, and what `ripe.load` takes.
        folder: Gradio's folder for temporary files; what is written there is swept out after an hour.
    """
    with gr.Blocks(title="RIPE", analytics_enabled=False, delete_cache=(SWEEP_SECONDS, KEEP_SECONDS)) as page:
        gr.Markdown(INTRODUCTION)
        with gr.Row():
            photos = [
                _photo_input(f"{which} photo", f"photo{number}") for number, which in enumerate(("First", "Second"))
            ]
        example = gr.Button("Take two bundled photos", size="sm", elem_id="example")
        with gr.Row():
            names = list(models)
            model = gr.Dropdown(names, value=names[0], label="Model", interactive=len(names) > 1)
            keypoints = gr.Slider(128, MAX_KEYPOINTS, 2048, step=128, label="Keypoints at most")
            threshold = gr.Textbox("", label="Least score of a keypoint", placeholder="the model's own")
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
        bundled = [str(resources.files("ripe") / "assets" / name) for name in EXAMPLES]
        example.click(lambda: bundled, outputs=photos, api_visibility="private")
        answer = _Answer(pipeline, models, folder)
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


def launch(page: gr.Blocks, *, host: str, port: int, share: bool) -> str:
    """Start serving the page in threads of its own; its address is returned.

    Raises:
        OSError: the port is taken.
    """
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
    return public or address


class _Answer:
    """The page's events; whatever goes wrong with a request is one line for its visitor."""

    def __init__(self, pipeline: Pipeline, models: Mapping[str, str], folder: Path) -> None:
        self._pipeline = pipeline
        self._models = models
        self._folder = folder

    def match(self, photo0: str | None, photo1: str | None, *choices: Any) -> list[Any]:
        if photo0 is None or photo1 is None:
            raise gr.Error("Give two photos.", print_exception=False)
        model, keypoints, threshold, geometry, inlier = choices
        try:
            settings = DemoSettings(self._models[model], int(keypoints), _number(threshold), geometry, float(inlier))
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

    def files(self, result: MatchedPhotos | None) -> list[str] | None:
        """The files to download."""
        if result is None:
            return None
        folder = self._folder / secrets.token_hex(16)
        folder.mkdir()
        return [str(path) for path in outputs.write_files(result, outputs.pictures(result)[2], folder)]


def _photo_input(label: str, name: str) -> gr.Image:
    """An input that hands over the file as it was sent, so that `ripe.demo.intake` judges it and not Gradio.

    A subclass would do it too, but Gradio writes a file beside the source of each subclass.
    """
    photo = gr.Image(label=label, height=280, elem_id=name, sources=["upload", "webcam"], type="filepath")
    photo.preprocess = _path_of  # type: ignore[method-assign]
    return photo


def _path_of(payload: Any) -> Any:
    return None if payload is None else payload.path


def _picture(name: str) -> gr.Image:
    return gr.Image(
        label=name,
        format="jpeg",
        interactive=False,
        buttons=["download", "fullscreen"],
        elem_id=name.lower().replace(" ", "-"),
        elem_classes="zoomable",
    )


def _table(result: MatchedPhotos) -> str:
    names, values = zip(*outputs.figures(result), strict=True)
    return markdown_table(names, [values])


def _number(text: str) -> float | None:
    """What was typed as the least score; None where nothing was."""
    if not text.strip():
        return None
    try:
        return float(text)
    except ValueError:
        raise ValueError(f"the least score is {text!r}; give a number, or nothing for the model's own") from None
