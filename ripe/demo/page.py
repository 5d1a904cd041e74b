"""The demo's page, made with Gradio; `ripe.demo.server` prepares what Gradio wants to find when it is imported."""

import logging
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import gradio as gr
from starlette.middleware import Middleware

from ripe.demo import examples, intake, outputs
from ripe.demo.guard import Guard
from ripe.demo.pipeline import GEOMETRIES, MAX_KEYPOINTS, DemoSettings, MatchedPhotos, Pipeline
from ripe.drawing import checker, save_flicker
from ripe.filters import METHODS, NAMES
from ripe.pretrained import MODELS, Pretrained
from ripe.tables import markdown_table
from ripe.two_views import INLIER_THRESHOLDS, LONG_SIDE

QUEUE_LENGTH = 16
KEEP_SECONDS = 3600
SWEEP_SECONDS = 300
SESSIONS = 50
PHOTO_HEIGHT = 190
RIPE, SIFT = "RIPE", "SIFT"
LABELS = {"mutual": "Nearest neighbours", "fginn": "FGINN", "lightglue": "LightGlue (learned)"}
"""Of methods of matching whose names in `NAMES` are too long for the field, or say too little."""
OVERLAYS = ("slider", "blink", "checkerboard")
CHOICES = ("model", "method", "max_keypoints", "threshold", "geometry", "inlier_threshold")
"""The fields of `DemoSettings` that a visitor chooses; `_choices` has a component for each."""
INTRODUCTION = """# RIPE
Two photos of the same place: keypoints, matches, and the matches that agree with one geometry."""
IDLE = '<div class="verdict idle">Give two photos and press Match, or choose an example.</div>'
STALE = '<div class="verdict idle">These results are of other photos or settings: press Match.</div>'
HINT = """Lines are coloured by their place in the first photo; red ones do not agree. Zoom: Ctrl (⌘) and the wheel, a
pinch, or a click and then the wheel. Drag to move, double-click to reset, Escape to scroll again."""
NOT_ALIGNED = """The photos cannot be laid on each other: the best homography is no better than chance. Overlays are for
flat scenes and for cameras that have turned but hardly moved."""
ALIGNED = "The second photo in the first one's frame, by a homography ({words}: {inliers} of {matches} matches agree)."
ANNOUNCED = "element.setAttribute('role', 'status'); element.setAttribute('aria-live', 'polite')"
SHOW_RESULTS = "() => { if (innerWidth <= 600) document.querySelector('#verdict').scrollIntoView() }"
"""On a phone they are below everything else."""

logger = logging.getLogger(__name__)


def build(pipeline: Pipeline, models: Mapping[str, str], folder: Path) -> gr.Blocks:
    """The page.

    Args:
        pipeline: answers the requests.
        models: what there is to choose from, the default first: names to show, and what `ripe.load` takes.
        folder: Gradio's folder for temporary files; what is written there is swept out after an hour.
    """
    answer = _Answer(pipeline, models, folder)
    sweep = (SWEEP_SECONDS, KEEP_SECONDS)
    with gr.Blocks(title="RIPE", analytics_enabled=False, delete_cache=sweep, fill_width=True) as page:
        state = gr.State(None, time_to_live=KEEP_SECONDS)
        gr.Markdown(INTRODUCTION, elem_id="introduction")
        with gr.Row():
            with gr.Column(scale=2, min_width=340):
                with gr.Row(elem_id="photos"):
                    photos = [_photo_input("First photo", "photo0"), _photo_input("Second photo", "photo1")]
                accepted = _licence(models, next(iter(models)))
                button = gr.Button("Match", variant="primary", elem_id="match")
                gallery = gr.Gallery(
                    [(examples.thumbnail(pair), example.title) for example, pair in answer.examples],
                    show_label=False,
                    columns=4,
                    height="auto",
                    allow_preview=False,
                    buttons=[],
                    elem_id="examples",
                )
                about = gr.Markdown("Each example runs on a click.", elem_id="about", elem_classes="small")
                choices = _choices(models)
            with gr.Column(scale=3, min_width=340, elem_id="results") as results:
                note = gr.HTML("", elem_id="note", js_on_load=ANNOUNCED)
                banner = gr.HTML(IDLE, elem_id="verdict", js_on_load=ANNOUNCED)
                side = gr.Radio(
                    [RIPE, SIFT], value=RIPE, label="Pictures of", show_label=False, container=False, elem_id="side"
                )
                with gr.Tabs(selected="inliers"):
                    shown = []
                    for name in ("Keypoints", "Matches", "Inliers"):
                        with gr.Tab(name, id=name.lower()):
                            shown.append(_picture(name))
                    with gr.Tab("Overlay", id="overlay"):
                        overlay = _overlay()
                gr.Markdown(HINT, elem_classes="small")
                figures = gr.Markdown(elem_id="figures")
                with gr.Accordion("Downloads", open=False, elem_id="files"):
                    downloads = gr.Files(show_label=False, interactive=False, elem_id="downloads")

        asked = [*photos, *choices.values()]
        private: dict[str, Any] = {"api_visibility": "private"}
        pictures = {"inputs": [state, side], "outputs": shown, **private}
        laid = {"inputs": [state, side, overlay[0]], "outputs": overlay[1:], **private}
        belongs = {"inputs": [state, *asked], "outputs": [results, note], "queue": False, "show_progress": "hidden"}
        belongs |= private
        network: dict[str, Any] = {
            "inputs": [state, *asked, accepted],
            "outputs": [state, banner, figures],
            "concurrency_id": "network",
            "concurrency_limit": 1,
            "trigger_mode": "always_last",
            "show_progress_on": banner,
        }
        chosen = gallery.select(answer.example, None, [*photos, about], **private)
        choices["model"].input(lambda name: _licence(models, name), choices["model"], accepted, queue=False, **private)
        choices["geometry"].input(
            INLIER_THRESHOLDS.get, choices["geometry"], choices["inlier_threshold"], queue=False, **private
        )
        changed = [choice.change for name, choice in choices.items() if name != "threshold"]
        typed = [choices["threshold"].submit, choices["threshold"].blur]
        matched = [
            button.click(answer.match, api_name="match", scroll_to_output=True, **network),
            chosen.success(answer.match, scroll_to_output=True, **network, **private),
            gr.on([*changed, *typed, accepted.change], answer.match_again, **network, **private),
        ]
        for event in matched:
            event.then(answer.belongs, **belongs)
            event.success(answer.draw, **pictures).success(answer.overlay, **laid)
            event.success(answer.files, state, downloads, **private)
        for event in matched[:2]:
            event.success(None, js=SHOW_RESULTS, queue=False, **private)
        gr.on([each.change for each in asked], answer.belongs, trigger_mode="always_last", **belongs)
        side.input(answer.draw, **pictures)
        gr.on([side.input, overlay[0].input], answer.overlay, **laid)
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
        enable_monitoring=False,
        app_kwargs={"middleware": [Middleware(Guard)]},
        run_history=False,
        footer_links=[],
        theme=gr.themes.Default(font="system-ui", font_mono="monospace"),
        css=_beside("page.css"),
        head=f"<script>{_beside('zoom.js')}</script>",
    )
    return public or address


@dataclass(frozen=True)
class _Shown:
    """What the page shows to a visitor: what was asked for, and the results by the names of their columns."""

    asked: tuple[Any, ...]
    results: dict[str, MatchedPhotos]


class _Answer:
    """The page's events; whatever goes wrong with a request is one line for its visitor."""

    def __init__(self, pipeline: Pipeline, models: Mapping[str, str], folder: Path) -> None:
        self._pipeline = pipeline
        self._models = models
        self._folder = folder
        made = folder / "examples"
        made.mkdir()
        self.examples = [(example, examples.photos(example, made)) for example in examples.EXAMPLES]

    def example(self, event: gr.SelectData) -> list[str]:
        """Both photos of an example that is clicked, and what is said about it."""
        if event.index not in range(len(self.examples)):
            raise gr.Error("There is no such example.", print_exception=False)
        example, pair = self.examples[event.index]
        return [*map(str, pair), f"**{example.title}.** {example.about} Photos: {example.credit}."]

    def match(self, shown: _Shown | None, *inputs: Any) -> list[Any]:
        """Match the photos, by SIFT, too: what is shown, the verdict and the figures."""
        *asked, accepted = inputs
        photo0, photo1, *values = asked
        if photo0 is None or photo1 is None:
            raise gr.Error("Give two photos.", print_exception=False)
        try:
            settings = self._settings(values)
            if _to_be_fetched(settings.model) and not accepted:
                raise ValueError(f"{settings.model}: agree to the licence of its weights first.")
            asked_for = {RIPE: settings, SIFT: settings.with_sift()}
            results = {name: self._pipeline.run(photo0, photo1, each) for name, each in asked_for.items()}
        except (ValueError, OSError) as error:
            raise gr.Error(" ".join(str(error).splitlines()), print_exception=False) from error
        except Exception as error:
            logger.exception("a request failed")
            raise gr.Error("This failed; the server's log says why.", print_exception=False) from error
        header = ["", f"{RIPE} ({values[0]})", SIFT]
        table = markdown_table(header, outputs.figures(results))
        return [_Shown(tuple(asked), results), outputs.banner(results[RIPE]), table]

    def match_again(self, shown: _Shown | None, *inputs: Any) -> list[Any]:
        """The same after a setting has changed; nothing happens before the first match, or where nothing is new."""
        *asked, accepted = inputs
        photo0, photo1, model, *_ = asked
        missing = photo0 is None or photo1 is None or (_to_be_fetched(self._models[model]) and not accepted)
        if shown is None or missing or shown.asked == tuple(asked):
            return [gr.skip()] * 3
        return self.match(shown, *inputs)

    def belongs(self, shown: _Shown | None, *asked: Any) -> list[Any]:
        """Dim the results where they are of other photos or settings."""
        stale = shown is not None and shown.asked != asked
        return [gr.Column(elem_classes=["stale"] if stale else []), STALE if stale else ""]

    def draw(self, shown: _Shown | None, side: str) -> list[Any]:
        """The pictures of one column."""
        return [gr.skip()] * 3 if shown is None else list(outputs.pictures(shown.results[side]))

    def overlay(self, shown: _Shown | None, side: str, mode: str) -> list[Any]:
        """What is said about the overlay, the slider between both photos, and a picture; one of these is hidden."""
        if shown is None:
            return [gr.skip()] * 3
        result = shown.results[side]
        aligned = outputs.align(result)
        if aligned is None:
            return [NOT_ALIGNED, gr.ImageSlider(visible=False), gr.Image(visible=False)]
        geometry, verdict = result.homography
        said = ALIGNED.format(words=verdict, inliers=geometry.num_inliers, matches=len(geometry.inliers))
        ground, warped, valid = aligned.ground, aligned.warped, aligned.valid
        if mode == "slider":
            return [said, gr.ImageSlider((ground, warped), visible=True), gr.Image(visible=False)]
        if mode == "blink":
            path = self._new_folder() / "blink.gif"
            save_flicker((ground, warped), path)
            return [said, gr.ImageSlider(visible=False), gr.Image(str(path), visible=True)]
        return [said, gr.ImageSlider(visible=False), gr.Image(checker(ground, warped, valid), visible=True)]

    def files(self, shown: _Shown | None) -> list[str] | None:
        """The files to download."""
        if shown is None:
            return None
        result = shown.results[RIPE]
        return [str(path) for path in outputs.write_files(result, outputs.pictures(result)[2], self._new_folder())]

    def _settings(self, values: list[Any]) -> DemoSettings:
        chosen = dict(zip(CHOICES, values, strict=True))
        model, keypoints, threshold = (chosen.pop(name) for name in ("model", "max_keypoints", "threshold"))
        return DemoSettings(self._models[model], int(keypoints), _number(threshold), **chosen)

    def _new_folder(self) -> Path:
        folder = self._folder / secrets.token_hex(16)
        folder.mkdir()
        return folder


def _choices(models: Mapping[str, str]) -> dict[str, Any]:
    """What a visitor can choose, by the names in `CHOICES`."""
    names = list(models)
    kind = GEOMETRIES[0]
    with gr.Accordion("Settings", open=True, elem_id="settings"):
        with gr.Row():
            model = gr.Dropdown(names, value=names[0], label="Model", interactive=len(names) > 1, min_width=140)
            methods = [(LABELS.get(method, NAMES[method]), method) for method in METHODS]
            method = gr.Dropdown(methods, value=METHODS[0], label="Matching", min_width=140)
        label = f"Inlier threshold (px of photos shrunk to {LONG_SIDE})"
        keypoints = _slider(128, MAX_KEYPOINTS, 2048, step=128, label="Keypoints at most", name="keypoint-limit")
        inlier = _slider(0.25, 10, INLIER_THRESHOLDS[kind], step=0.25, label=label, name="inlier-threshold")
        with gr.Row():
            geometry = gr.Dropdown(list(GEOMETRIES), value=kind, label="Geometry", min_width=140)
            threshold = gr.Textbox("", label="Least score of a keypoint", placeholder="the model's own", min_width=140)
    return dict(zip(CHOICES, (model, method, keypoints, threshold, geometry, inlier), strict=True))


def _slider(least: float, most: float, value: Any, *, name: str, **options: Any) -> gr.Slider:
    """A slider whose field may be typed into: what lies out of range, as a number half typed, is the nearest in it."""
    slider = gr.Slider(least, most, value, elem_id=name, min_width=140, **options)
    slider.preprocess = lambda payload: value if payload is None else min(max(payload, least), most)  # type: ignore[method-assign]
    return slider


def _licence(models: Mapping[str, str], name: str) -> gr.Checkbox:
    """The agreement to the licence of weights that are not here yet; hidden unless such a model is chosen."""
    entry = _to_be_fetched(models[name])
    label = _agreement(name, entry) if entry else ""
    return gr.Checkbox(False, visible=entry is not None, label=label, elem_id="licence")


def _agreement(name: str, entry: Pretrained) -> str:
    server = urlsplit(entry.url or "").hostname
    return (
        f"The weights of {name} are fetched from {server} once. Their licence is {entry.license}, unlike that of this "
        "program: I agree to it."
    )


def _to_be_fetched(model: str) -> Pretrained | None:
    """What is known of a model whose weights are not on this computer yet; None of others."""
    entry = MODELS.get(model)
    return None if entry is None or entry.path().is_file() else entry


def _photo_input(label: str, name: str) -> gr.Image:
    """An input that hands over the file as it was sent, so that `ripe.demo.intake` judges it and not Gradio.

    A subclass would do it too, but Gradio writes a file beside the source of each subclass.
    """
    photo = gr.Image(
        label=label, height=PHOTO_HEIGHT, min_width=150, elem_id=name, sources=["upload", "webcam"], type="filepath"
    )
    photo.preprocess = _path_of  # type: ignore[method-assign]
    return photo


def _path_of(payload: Any) -> Any:
    return None if payload is None else payload.path


def _picture(name: str) -> gr.Image:
    return gr.Image(
        label=name,
        show_label=False,
        format="jpeg",
        interactive=False,
        buttons=["download", "fullscreen"],
        elem_id=name.lower(),
        elem_classes="zoomable",
    )


def _overlay() -> tuple[gr.Radio, gr.Markdown, gr.ImageSlider, gr.Image]:
    """How the photos are laid on each other, what is said about it, the slider between them, and a picture."""
    mode = gr.Radio(list(OVERLAYS), value=OVERLAYS[0], show_label=False, container=False, elem_id="overlay-mode")
    said = gr.Markdown(elem_id="overlay-said", elem_classes="small")
    slider = gr.ImageSlider(
        show_label=False, format="jpeg", interactive=False, elem_id="overlay-slider", elem_classes="scrollable"
    )
    picture = _picture("Overlay")
    picture.visible = False
    return mode, said, slider, picture


def _beside(name: str) -> str:
    return (resources.files("ripe") / "demo" / name).read_text(encoding="utf-8")


def _number(text: str) -> float | None:
    """What was typed as the least score; None where nothing was."""
    if not text.strip():
        return None
    try:
        return float(text)
    except ValueError:
        raise ValueError(f"the least score is {text!r}; give a number, or nothing for the model's own") from None
