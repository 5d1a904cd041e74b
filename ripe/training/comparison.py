"""The end of a training on one's own photos: whether the new weights are better than the old, and how to use them.

Everything is measured on photos that the training never saw, without labels (see `ripe.training.validation`).
"""

import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from ripe.evaluation.report import SetReport, markdown
from ripe.files import replacing
from ripe.pretrained import load
from ripe.tables import markdown_table
from ripe.training.validation import (
    EpipolarAgreement,
    KnownGeometry,
    Outcome,
    Rival,
    Validation,
    baseline_rival,
    mean_figure,
    model_rival,
)

REPORT = "report.md"
NEW, SHIPPED, SIFT = "new", "compact (shipped)", "sift"
RESAMPLES = 1000


@dataclass(frozen=True)
class Difference:
    """By how much one extractor's score exceeds another's, in percentage points.

    Attributes:
        value: over all pairs.
        low: 95 % of resamples of the pairs give a difference between `low` ...
        high: ... and this.
    """

    value: float
    low: float
    high: float

    def over(self, name: str) -> str:
        """The comparison with the extractor `name` in words."""
        span = f"95 % of resamples of the pairs give {self.low:+.1f} to {self.high:+.1f}"
        if self.low <= 0 <= self.high:
            return f"not clearly different from {name} ({self.value:+.1f} points; {span})"
        return f"{'better' if self.value > 0 else 'worse'} than {name} by {abs(self.value):.1f} points ({span})"


def difference(first: Sequence[Outcome], second: Sequence[Outcome], seed: int = 0) -> Difference:
    """How much better `first` is than `second`: outcomes of the same measures for two extractors.

    The interval is that of a bootstrap over pairs (Efron 1979), both extractors on the same pairs.
    """
    rng = np.random.default_rng(seed)
    values: list[tuple[Callable[[Sequence[float]], float], np.ndarray, np.ndarray]] = []
    for one, other in zip(first, second, strict=True):
        names = [name for name in one.values if name in other.values]
        a, b = (np.array([each.values[name] for name in names]) for each in (one, other))
        values.append((one.total, a, b))

    def gap(choices: Sequence[np.ndarray]) -> float:
        gaps = [total(a[chosen]) - total(b[chosen]) for (total, a, b), chosen in zip(values, choices, strict=True)]
        return float(np.mean(gaps))

    resamples = [gap([rng.integers(len(a), size=len(a)) for _, a, _ in values]) for _ in range(RESAMPLES)]
    low, high = np.percentile(resamples, [2.5, 97.5])
    return Difference(gap([np.arange(len(a)) for _, a, _ in values]), float(low), float(high))


def compare(weights: Path, validation: Validation, device: str | torch.device = "cpu") -> dict[str, list[Outcome]]:
    """Outcomes of new weights, of the shipped ones and of SIFT, by name."""
    rivals: dict[str, Rival] = {NEW: model_rival(NEW, load(weights, device=device))}
    rivals[SHIPPED] = model_rival(SHIPPED, load("compact", device=device))
    rivals[SIFT] = baseline_rival(SIFT)
    return {name: validation.outcomes(rival) for name, rival in rivals.items()}


def write_report(weights: Path, validation: Validation, output: Path, device: str | torch.device = "cpu") -> str:
    """Measure new weights beside the shipped ones and SIFT, and write `report.md`; takes about a minute on a CPU.

    Args:
        weights: of the new network, as `ripe.load` reads them.
        validation: on held-back photos.
        output: folder of the report.
        device: where the networks run.

    Returns:
        A few lines for a terminal: what came out, how the weights are used, and where the report is.
    """
    outcomes = compare(weights, validation, device)
    verdicts = [difference(outcomes[NEW], outcomes[name]).over(name) for name in (SHIPPED, SIFT)]
    text = comparison_text(validation, outcomes, verdicts, usage(weights))
    with replacing(output / REPORT) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return "\n".join(
        [
            "On photos that the training did not see, the new weights are",
            *(f"  {verdict}" for verdict in verdicts),
            "To use them:",
            *(f"  {line}" for line in usage(weights)),
            f"The whole report: {output / REPORT}",
        ]
    )


def usage(weights: Path) -> list[str]:
    """Command lines that use these weights."""
    path = shlex.quote(str(weights))
    return [
        f"ripe match FIRST.jpg SECOND.jpg --model {path}",
        f"ripe reconstruct PHOTOS --model {path} --output FOLDER",
    ]


def comparison_text(
    validation: Validation, outcomes: Mapping[str, Sequence[Outcome]], verdicts: Sequence[str], use: Sequence[str]
) -> str:
    """The whole report."""
    lines = ["# New weights on held-back photos", "", "The new weights are", ""]
    lines += [*(f"- {verdict}" for verdict in verdicts), ""]
    lines += [
        "in the score, the mean of what the tables below say of each set, measured without labels on photos that "
        "the training did not see. Self-made views differ by a plane's homography, which suits SIFT; real pairs tell "
        "more about your photos, but a share of agreeing matches says nothing of how many there are.",
        "",
        markdown_table(
            ["extractor", "score"], [[name, f"{mean_figure(found):.1f}"] for name, found in outcomes.items()]
        ),
        "",
    ]
    for index, measure in enumerate(validation.measures):
        found = {name: each[index] for name, each in outcomes.items()}
        if isinstance(measure, KnownGeometry):
            results = [outcome.result for outcome in found.values() if outcome.result is not None]
            lines.append(markdown(SetReport(measure.pairs, measure.protocol, results)))
        elif isinstance(measure, EpipolarAgreement):
            lines += _real_pairs(measure, found)
    return "\n".join([*lines, "## To use them", "", "```bash", *use, "```", ""])


def _real_pairs(measure: EpipolarAgreement, outcomes: Mapping[str, Outcome]) -> list[str]:
    pairs = min(len(outcome.values) for outcome in outcomes.values())
    rows = [
        [name, f"{100 * found['inlier_share']:.1f} %", f"{found['inliers']:.0f}", f"{found['matches']:.0f}"]
        for name, found in ((name, outcome.figures) for name, outcome in outcomes.items())
    ]
    return [
        f"### {measure.name}: {pairs} pairs of photos of one scene",
        "",
        f"{str(measure.resizing).capitalize()}, at most {measure.max_keypoints} keypoints, mutual nearest neighbours; "
        f"matches that agree with one fundamental matrix (PoseLib, {measure.max_error:g} px). A pair counts as 0 with "
        f"fewer than {measure.fewest_inliers} of these, or if they move by less than {measure.min_motion:g} px.",
        "",
        markdown_table(["extractor", "agreeing share", "agreeing matches", "matches"], rows),
        "",
    ]
