"""Results as Markdown and as JSON; every figure comes with its protocol."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from ripe.evaluation import environment
from ripe.evaluation.detectors import THRESHOLDS, DetectorScore
from ripe.evaluation.pair_sets import PairSet
from ripe.evaluation.predictions import Candidate, Predictions
from ripe.evaluation.protocol import Protocol
from ripe.evaluation.scoring import PairScore, Score
from ripe.tables import markdown_table

DETECTOR_THRESHOLD = 3  # SuperPoint's
ACCURACY_THRESHOLDS = (1, 3, 5, 10)


@dataclass(frozen=True)
class Result:
    """What came out for an extractor on a set of pairs.

    Attributes:
        candidate: the extractor.
        score: accuracy.
        detector: figures of its keypoints; None if they were not asked for.
        mean_keypoints: per photo.
        milliseconds: median over photos, from the resized image in memory to its features in memory.
        hardware: that the times were taken on.
        unreadable: why photos could not be read, by name; their pairs are left out.
    """

    candidate: Candidate
    score: Score
    detector: DetectorScore | None
    mean_keypoints: float
    milliseconds: float
    hardware: str
    unreadable: Mapping[str, str]


@dataclass(frozen=True)
class SetReport:
    """The results of several extractors on one set of pairs."""

    pairs: PairSet
    protocol: Protocol
    results: Sequence[Result]


def summarise(
    candidate: Candidate,
    predictions: Predictions,
    score: Score,
    detector: DetectorScore | None,
    unreadable: Mapping[str, str],
) -> Result:
    """A result with the figures of the stored photos."""
    images = predictions.images.values()
    return Result(
        candidate,
        score,
        detector,
        mean_keypoints=float(np.mean([len(image.keypoints) for image in images])),
        milliseconds=float(np.median([image.milliseconds for image in images])),
        hardware="; ".join(sorted({image.hardware for image in images})),
        unreadable=dict(unreadable),
    )


def markdown(report: SetReport) -> str:
    """A heading, the protocol and the tables."""
    protocol = str(report.protocol)
    hardware = "; ".join(dict.fromkeys(result.hardware for result in report.results))
    evaluated = min(len(result.score.pairs) for result in report.results)
    count = str(evaluated) if evaluated == len(report.pairs.pairs) else f"{evaluated} of {len(report.pairs.pairs)}"
    limits = [f"AUC@{limit:g}{report.protocol.unit}" for limit in report.protocol.limits]
    header = ["extractor", "threshold", *limits, "keypoints", "matches", "correct matches", "ms per image"]
    lines = [
        f"### {report.pairs.name}: {count} pairs",
        "",
        f"{protocol[0].upper()}{protocol[1:]}; ± is the standard deviation over seeds. Correct: within "
        f"{report.protocol.correct_match:g} px of the truth. Time: median over photos, from the resized image to its "
        f"features, both in memory; {hardware}.",
        "",
        markdown_table(header, [_accuracy_cells(result) for result in report.results]),
    ]
    if any(result.detector for result in report.results):
        lines += ["", *_detector_table(report)]
    return "\n".join([*lines, ""])


def record(reports: Sequence[SetReport], settings: Mapping[str, Any]) -> dict[str, Any]:
    """Everything in JSON's types; infinite errors and unknown figures are null.

    Args:
        reports: of all sets.
        settings: the command's.
    """
    return {
        "versions": environment.versions(),
        "commit": environment.commit(),
        "settings": dict(settings),
        "sets": [_set_record(report) for report in reports],
    }


def pair_rows(reports: Sequence[SetReport]) -> list[dict[str, Any]]:
    """A row for each pair and extractor, as for a CSV file: errors are means over seeds, empty where there are none."""
    return [
        {
            "set": report.pairs.name,
            "extractor": result.candidate.name,
            "pair": name,
            "matches": pair.matches,
            "correct": pair.correct,
            "error": _mean(pair.errors),
            "unit": report.protocol.unit.strip(),
            "rotation (°)": None if pair.angles is None else _mean([turned for turned, _ in pair.angles]),
            "translation (°)": None if pair.angles is None else _mean([moved for _, moved in pair.angles]),
        }
        for report in reports
        for result in report.results
        for name, pair in result.score.pairs.items()
    ]


def _mean(errors: Sequence[float]) -> float | None:
    return _finite(round(float(np.mean(errors)), 4))


def _accuracy_cells(result: Result) -> list[str]:
    score = result.score
    areas = [f"{mean:.1f} ± {spread:.1f}" for mean, spread in zip(score.auc, score.auc_spread, strict=True)]
    counts = [f"{result.mean_keypoints:.0f}", f"{score.mean_matches:.0f}", f"{100 * score.precision:.0f} %"]
    threshold = result.candidate.settings.get("threshold")
    named = "–" if threshold is None else f"{threshold:g}"
    return [result.candidate.name, named, *areas, *counts, f"{result.milliseconds:.0f}"]


def _detector_table(report: SetReport) -> list[str]:
    pixels = "resized" if report.protocol.in_resized_pixels else "stored"
    at = f"@{DETECTOR_THRESHOLD} px"
    accuracies = [f"matching accuracy@{threshold} px" for threshold in ACCURACY_THRESHOLDS]
    header = ["extractor", f"repeatability{at}", f"localisation error{at}", f"matching score{at}", *accuracies]
    rows = [[result.candidate.name, *_detector_cells(result.detector)] for result in report.results if result.detector]
    note = f"Keypoints by themselves, in pixels of the {pixels} photos, {report.protocol.resizing}, at most "
    return [
        f"{note}{report.protocol.max_keypoints} keypoints, mutual nearest neighbours:",
        "",
        markdown_table(header, rows),
    ]


def _detector_cells(detector: DetectorScore) -> list[str]:
    chosen = THRESHOLDS.index(DETECTOR_THRESHOLD)
    accuracies = [detector.matching_accuracy[THRESHOLDS.index(threshold)] for threshold in ACCURACY_THRESHOLDS]
    return [
        f"{100 * detector.repeatability[chosen]:.1f} %",
        f"{detector.localisation_error[chosen]:.2f} px",
        f"{100 * detector.matching_score[chosen]:.1f} %",
        *(f"{100 * accuracy:.1f} %" for accuracy in accuracies),
    ]


def _set_record(report: SetReport) -> dict[str, Any]:
    return {
        "name": report.pairs.name,
        "kind": report.protocol.kind,
        "photos": report.pairs.fingerprint(),
        "pairs": len(report.pairs.pairs),
        "protocol": asdict(report.protocol) | {"text": str(report.protocol)},
        "results": [_result_record(result, report.protocol) for result in report.results],
    }


def _result_record(result: Result, protocol: Protocol) -> dict[str, Any]:
    score = result.score
    return {
        "extractor": result.candidate.name,
        "extractor_settings": dict(result.candidate.settings),
        "protocol": str(protocol),
        "limits": list(protocol.limits),
        "auc": list(score.auc),
        "auc_spread": list(score.auc_spread),
        "mean_keypoints": result.mean_keypoints,
        "mean_matches": score.mean_matches,
        "precision": score.precision,
        "milliseconds_per_image": result.milliseconds,
        "hardware": result.hardware,
        "detector": None if result.detector is None else _detector_record(result.detector),
        "unreadable": dict(result.unreadable),
        "pairs": {
            name: {
                "errors": list(map(_finite, pair.errors)),
                "matches": pair.matches,
                "correct": pair.correct,
                **_angles_record(pair),
            }
            for name, pair in score.pairs.items()
        },
    }


def _angles_record(pair: PairScore) -> dict[str, Any]:
    if pair.angles is None:
        return {}
    turned, moved = zip(*pair.angles, strict=True)
    return {"rotation_errors": list(turned), "translation_errors": list(moved)}


def _detector_record(detector: DetectorScore) -> dict[str, Any]:
    figures = {name: list(map(_finite, values)) for name, values in asdict(detector).items()}
    return {"thresholds": list(THRESHOLDS), **figures}


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
