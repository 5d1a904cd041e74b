"""Plots of recall over error; matplotlib comes with the extra `eval`."""

from pathlib import Path

import numpy as np

from ripe.evaluation.report import SetReport
from ripe.files import replacing


def save_recall(report: SetReport, path: Path) -> None:
    """Write a PNG: for each extractor, the share of pairs whose error is at most x, all seeds pooled.

    Raises:
        ImportError: matplotlib is not installed.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    protocol = report.protocol
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.add_subplot()
    end = protocol.limits[-1]
    for result in report.results:
        errors = np.sort([error for pair in result.score.pairs.values() for error in pair.errors])
        shares = 100 * np.arange(1, len(errors) + 1) / len(errors)
        below = errors <= end
        level = shares[below][-1] if below.any() else 0
        axes.step(
            [0, *errors[below], end], [0, *shares[below], level], where="post", label=_label(result.candidate.name)
        )
    axes.set(xlim=(0, end), ylim=(0, 100), xlabel=f"error ({protocol.unit.strip()})", ylabel="recall (% of pairs)")
    axes.set_title(f"{report.pairs.name}, {protocol.resizing}, {protocol.max_keypoints} keypoints", fontsize="medium")
    axes.grid(alpha=0.3)
    axes.legend(loc="lower right")
    with replacing(path) as temporary:
        FigureCanvasAgg(figure).print_png(str(temporary))


def _label(name: str) -> str:
    # Labels that begin with an underscore are left out of legends.
    return name.lstrip("_")
