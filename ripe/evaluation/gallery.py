"""A static HTML page of the worst and the best pairs of each extractor: what fails, and how."""

from collections.abc import Sequence
from html import escape
from pathlib import Path

import numpy as np

from ripe.drawing import draw_matches, save_picture
from ripe.evaluation.pair_sets import MatchedPair
from ripe.evaluation.report import Result, SetReport
from ripe.evaluation.scoring import correct_matches
from ripe.extractors import resized
from ripe.files import replacing
from ripe.images import MAX_MEGAPIXELS, as_rgb

WIDTH = 960
STYLE = (
    "body { font: 16px/1.4 sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }"
    " img { max-width: 100%; } figure { margin: 0 0 2rem; } figcaption { font-size: 0.9rem; }"
)


def draw_pairs(
    report: SetReport,
    result: Result,
    matched: Sequence[MatchedPair],
    folder: Path,
    count: int,
    *,
    max_megapixels: float = MAX_MEGAPIXELS,
) -> list[tuple[str, str]]:
    """Write a JPEG for each of the `count` worst and best pairs: correct matches by position, the others red.

    Returns:
        The files' names and captions, worst pairs first.
    """
    by_name = {pair.pair.name: pair for pair in matched}
    means = {name: float(np.mean(pair.errors)) for name, pair in result.score.pairs.items()}
    ordered = sorted(means, key=lambda name: -means[name])
    chosen = list(dict.fromkeys([*ordered[:count], *ordered[::-1][:count][::-1]]))
    folder.mkdir(parents=True, exist_ok=True)
    drawn = []
    for rank, name in enumerate(chosen):
        file = folder / f"{result.candidate.key}-{rank:02}.jpg"
        _draw(report, by_name[name], file, max_megapixels)
        pair = result.score.pairs[name]
        unit = report.protocol.unit
        errors = ", ".join(f"{error:.2f}{unit}" if np.isfinite(error) else "no estimate" for error in pair.errors)
        drawn.append((file.name, f"{name}: error {errors}; {pair.correct} of {pair.matches} matches correct"))
    return drawn


def write_page(path: Path, sections: Sequence[tuple[str, str, Sequence[tuple[str, str]]]]) -> None:
    """Write the page.

    Args:
        path: of the HTML file.
        sections: heading, text below it, and pictures: path relative to the page, and caption.
    """
    body = "\n".join(
        f"<h2>{escape(heading)}</h2>\n<p>{escape(text)}</p>\n" + "\n".join(_figure(*picture) for picture in pictures)
        for heading, text, pictures in sections
    )
    page = (
        "<!DOCTYPE html>\n<html lang='en'><head><meta charset='utf-8'><title>Worst and best pairs</title>"
        f"<style>{STYLE}</style></head>\n<body><h1>Worst and best pairs</h1>\n"
        "<p>Worst first. Yellow, green and cyan, by their position: matches that agree with the truth; red: the others."
        "</p>\n"
        f"{body}\n</body></html>\n"
    )
    with replacing(path) as temporary:
        temporary.write_text(page, encoding="utf-8")


def _figure(source: str, caption: str) -> str:
    alternative = escape(f"Matches of {caption}", quote=True)
    return (
        f"<figure><img src='{escape(source, quote=True)}' alt='{alternative}' loading='lazy'>"
        f"<figcaption>{escape(caption)}</figcaption></figure>"
    )


def _draw(report: SetReport, matched: MatchedPair, path: Path, max_megapixels: float) -> None:
    paths = [report.pairs.path(name) for name in (matched.pair.image0, matched.pair.image1)]
    images = [as_rgb(path, max_megapixels=max_megapixels) for path in paths]
    if report.protocol.in_resized_pixels:
        images = [resized(image, report.protocol.resizing) for image in images]
    correct = correct_matches(matched, report.protocol)
    picture = draw_matches(images, (matched.points0, matched.points1), max_width=WIDTH, wrong=~correct)
    save_picture(picture, path)
