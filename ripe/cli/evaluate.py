"""`ripe eval`: accuracy, speed and repeatability on image pairs with known geometry, as Markdown, JSON and pictures."""

from __future__ import annotations

import argparse
import csv
import re
import sys
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from ripe.cli import options
from ripe.cli.progress import progress_bar, stage_line
from ripe.resizing import stored_scales

if TYPE_CHECKING:
    import torch

    from ripe import runtime
    from ripe.evaluation.benchmarks import Benchmark
    from ripe.evaluation.pair_sets import MatchedPair, PairSet
    from ripe.evaluation.predictions import Candidate
    from ripe.evaluation.protocol import Protocol
    from ripe.evaluation.report import Result, SetReport
    from ripe.model import RIPE

EXAMPLES = """  ripe eval pairs annotated_pairs/ --model compact --baseline sift orb
  ripe eval hpatches --baseline sift disk=depth-save.pth --detector
  ripe eval megadepth1500 data/megadepth1500 --model vgg_hyper --device cuda

Each benchmark has its protocol, which is printed with every figure; options change it. Features and matches are kept in
the output folder: a second run with another estimator threshold or number of seeds takes seconds, and an interrupted
run (even a killed one) goes on where it was. What was made with other settings is refused; --overwrite makes it anew.
"""
PAIRS_SOURCE = "holds pairs.json, or sub-folders that do"


def add_parser(commands: Any) -> None:
    """Declare the command."""
    from ripe.data.catalogue import SOURCES
    from ripe.evaluation.benchmarks import BENCHMARKS

    parser = options.add_command(commands, "eval", "Measure accuracy on image pairs with known geometry.", EXAMPLES)
    chosen = parser.add_subparsers(title="benchmarks", required=True, metavar="BENCHMARK")
    for name, benchmark in BENCHMARKS.items():
        text = f"{benchmark.summary}. Protocol: {'. '.join(map(str, benchmark.protocols.values()))}."
        sub = chosen.add_parser(name, help=benchmark.summary, description=text)
        if benchmark.source is None:
            sub.add_argument("folder", type=Path, metavar="FOLDER", help=PAIRS_SOURCE)
        else:
            usual = f"the data set ($DATA_DIR/{SOURCES[benchmark.source].folder})"
            sub.add_argument("folder", type=Path, nargs="?", metavar="FOLDER", help=usual)
        _add_options(sub)
        sub.set_defaults(run=partial(run, name))


def _add_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("extractors")
    group.add_argument(
        "--model",
        nargs="+",
        action="extend",
        default=[],
        metavar="NAME|FILE",
        help="a name, a weights file or an ONNX file; compact if nothing is named; none: baselines alone",
    )
    group.add_argument(
        "--baseline",
        nargs="+",
        action="extend",
        default=[],
        metavar="NAME[=FILE]",
        help="sift, orb; disk, aliked, xfeat with their weights file (never downloaded)",
    )
    group.add_argument("--device", help="such as cpu or cuda:1 (a GPU if there is one)")
    group.add_argument("--precision", choices=options.PRECISIONS, default="float32", help="of models (%(default)s)")
    group = parser.add_argument_group("protocol (the benchmark's own where not given)")
    group.add_argument("--resize", type=options.positive, metavar="PIXELS", help="length of the side that it resizes")
    group.add_argument("--max-keypoints", type=options.positive, metavar="N", help="the best N of an image")
    group.add_argument("--threshold", type=float, metavar="T", help="least score of a model's keypoint")
    options.add_scales_option(group)
    options.add_matching_options(group)
    options.add_megapixels_option(group)
    group.add_argument(
        "--estimator-threshold", type=options.above_zero, metavar="PIXELS", help="PoseLib's inlier threshold"
    )
    group.add_argument("--repeats", type=options.positive, metavar="N", help="seeds of every estimation")
    group.add_argument("--limit", type=options.positive, metavar="N", help="only N pairs of a set, spread evenly")
    group = parser.add_argument_group("output")
    group.add_argument("-o", "--output", type=Path, metavar="FOLDER", help="for all results (outputs/eval/BENCHMARK)")
    group.add_argument("--overwrite", action="store_true", help="extract and match anew")
    group.add_argument(
        "--detector", action="store_true", help="also repeatability and matching accuracy (homographies only)"
    )
    group.add_argument("--gallery", type=int, default=5, metavar="N", help="worst and best pairs shown (%(default)s)")


def run(name: str, arguments: argparse.Namespace) -> int:
    """Carry the command out; 1 if some photos could not be read."""
    from ripe.data.catalogue import locate
    from ripe.evaluation.benchmarks import BENCHMARKS

    benchmark = BENCHMARKS[name]
    folder = arguments.folder if benchmark.source is None else locate(benchmark.source, arguments.folder)
    sets = [
        (pairs.spread(arguments.limit or benchmark.pairs), _protocol(benchmark, pairs, arguments))
        for pairs in benchmark.read(folder)
    ]
    device = options.device(arguments)
    models = _load_models(arguments, device)
    # All are made before the first is run, so that a wrong name costs no evaluation.
    candidates = [_candidates(models, protocol, arguments, device) for _, protocol in sets]
    output = arguments.output or Path("outputs/eval") / name
    output.mkdir(parents=True, exist_ok=True)
    reports, pictures = [], []
    for (pairs, protocol), rivals in zip(sets, candidates, strict=True):
        report, sections = _evaluate(pairs, protocol, rivals, output, arguments)
        reports.append(report)
        pictures += sections
    _write(reports, pictures, output, {"benchmark": name, **_plain(arguments)})
    return _report_unreadable(reports)


def _protocol(benchmark: Benchmark, pairs: PairSet, arguments: argparse.Namespace) -> Protocol:
    """The benchmark's, changed by what was given on the command line."""
    names = ("max_keypoints", "estimator_threshold", "repeats")
    given: dict[str, Any] = {name: getattr(arguments, name) for name in names if getattr(arguments, name) is not None}
    protocol = replace(benchmark.protocols[pairs.kind], match_filter=options.match_filter(arguments), **given)
    if arguments.resize is None:
        return protocol
    return replace(protocol, resizing=replace(protocol.resizing, pixels=arguments.resize))


def _load_models(arguments: argparse.Namespace, device: torch.device) -> dict[str, RIPE | runtime.Extractor]:
    import torch

    from ripe import runtime
    from ripe.pretrained import load

    names = [name for name in arguments.model or ["compact"] if name != "none"]
    if not names and not arguments.baseline:
        raise ValueError("--model none leaves nothing to evaluate; name a --baseline")
    dtype = getattr(torch, arguments.precision)
    return {
        name: runtime.load(name) if name.endswith(".onnx") else load(name, device=device, dtype=dtype) for name in names
    }


def _candidates(
    models: dict[str, RIPE | runtime.Extractor], protocol: Protocol, arguments: argparse.Namespace, device: torch.device
) -> list[Candidate]:
    import torch

    from ripe.evaluation import environment
    from ripe.evaluation.baselines import BASELINES, baseline, learned_weights
    from ripe.evaluation.predictions import Candidate
    from ripe.model import RIPE

    found = [
        _model_candidate(name, model, protocol, arguments)
        if isinstance(model, RIPE)
        else _runtime_candidate(name, model, protocol, arguments)
        for name, model in models.items()
    ]
    for name in dict.fromkeys(arguments.baseline):
        describe = baseline(name, protocol.max_keypoints, device)
        settings = {"baseline": name}
        where = torch.device("cpu")
        if name not in BASELINES:
            from ripe.download import sha256_of

            where, name = device, name.partition("=")[0]
            settings = {"baseline": name, "weights": sha256_of(learned_weights(settings["baseline"]))}
        found.append(Candidate(name, name, settings, describe, environment.hardware(where)))
    return found


def _model_candidate(name: str, model: RIPE, protocol: Protocol, arguments: argparse.Namespace) -> Candidate:
    from ripe.evaluation import environment
    from ripe.evaluation.predictions import Candidate
    from ripe.extractors import describer
    from ripe.pretrained import MODELS, model_settings

    published = protocol.published_threshold if model.name == "vgg_hyper" else None
    thresholds = (arguments.threshold, published, model.detection.threshold)
    threshold = next(value for value in thresholds if value is not None)
    scales = stored_scales(arguments.scales)
    settings = {**model_settings(model, threshold), "scales": scales}
    # The folder's name tells two states of one weights file apart.
    shown = name if name in MODELS else Path(name).stem
    key = _key(shown, settings)
    describe = describer(model, max_keypoints=protocol.max_keypoints, threshold=threshold, scales=arguments.scales)
    if scales is not None:
        shown, key = f"{shown} at {scales}", f"{key}-at-{scales.replace(',', '-')}"
    return Candidate(shown, key, settings, describe, environment.hardware(model.device))


def _runtime_candidate(
    name: str, model: runtime.Extractor, protocol: Protocol, arguments: argparse.Namespace
) -> Candidate:
    """A file of `ripe export`."""
    import torch

    from ripe.evaluation import environment
    from ripe.evaluation.predictions import Candidate
    from ripe.extractors import runtime_describer

    if stored_scales(arguments.scales) is not None:
        raise ValueError(f"{name}: ONNX files see photos at one scale: leave out --scales")
    settings = model.settings(arguments.threshold)
    describe = runtime_describer(model, max_keypoints=protocol.max_keypoints, threshold=settings["threshold"])
    shown = Path(name).name
    return Candidate(shown, _key(shown, settings), settings, describe, environment.hardware(torch.device("cpu")))


def _key(shown: str, settings: dict[str, Any]) -> str:
    return f"{re.sub(r'[^A-Za-z0-9._-]+', '-', shown)}-{settings['weights'][:8]}"


def _evaluate(
    pairs: PairSet, protocol: Protocol, candidates: Sequence[Candidate], output: Path, arguments: argparse.Namespace
) -> tuple[SetReport, list[tuple[str, str, list[tuple[str, str]]]]]:
    """Evaluate all extractors on a set and print their table; the report, and the gallery's sections."""
    from ripe.evaluation import gallery
    from ripe.evaluation.report import SetReport, markdown

    results: list[Result] = []
    matched: list[list[MatchedPair]] = []
    for candidate in candidates:
        result, its_pairs = _predict_and_score(candidate, pairs, protocol, output / pairs.name, arguments)
        results.append(result)
        matched.append(its_pairs)
    report = SetReport(pairs, protocol, results)
    print(markdown(report))
    sections = []
    for result, its_pairs in zip(results, matched, strict=True):
        if arguments.gallery > 0:
            folder = output / "gallery" / pairs.name
            with stage_line(f"{pairs.name}: {result.candidate.name}") as begin:
                begin("draw")
                drawn = gallery.draw_pairs(
                    report, result, its_pairs, folder, arguments.gallery, max_megapixels=arguments.max_megapixels
                )
            places = [(quote(f"gallery/{pairs.name}/{file}"), caption) for file, caption in drawn]
            sections.append((f"{pairs.name}: {result.candidate.name}", str(protocol), places))
    return report, sections


def _predict_and_score(
    candidate: Candidate, pairs: PairSet, protocol: Protocol, folder: Path, arguments: argparse.Namespace
) -> tuple[Result, list[MatchedPair]]:
    from ripe.evaluation import predictions
    from ripe.evaluation.detectors import score_detector
    from ripe.evaluation.report import summarise
    from ripe.evaluation.scoring import score_pairs
    from ripe.storage import discard

    place = folder / candidate.key
    place.mkdir(parents=True, exist_ok=True)
    if arguments.overwrite:
        for file in ("features.h5", "matches.h5"):
            discard(place / file)
    label = f"{pairs.name}: {candidate.name}"
    with progress_bar(f"{label}: extract", len(pairs.images), leave=False) as step:
        unreadable = predictions.extract_images(candidate, pairs, protocol, place, step, arguments.max_megapixels)
    with progress_bar(f"{label}: match", len(pairs.pairs), leave=False) as step:
        predictions.match_images(candidate, pairs, protocol, place, step)
    stored = predictions.read_predictions(pairs, place)
    matched = list(predictions.matched_pairs(pairs.pairs, stored, protocol))
    with progress_bar(f"{label}: estimate", len(matched), leave=False) as step:
        score = score_pairs(matched, protocol, step)
    with stage_line(label) as begin:
        begin("look at keypoints by themselves")
        detector = score_detector(matched) if arguments.detector and pairs.kind == "homography" else None
    return summarise(candidate, stored, score, detector, unreadable), matched


def _write(reports: Sequence[SetReport], pictures: list[Any], output: Path, settings: dict[str, Any]) -> None:
    from ripe.evaluation import gallery, plots
    from ripe.evaluation.report import markdown, pair_rows, record
    from ripe.files import replacing, write_json

    with replacing(output / "report.md") as temporary:
        temporary.write_text("\n".join(map(markdown, reports)), encoding="utf-8")
    write_json(output / "results.json", record(reports, settings), indent=1)
    rows = pair_rows(reports)
    with replacing(output / "pairs.csv") as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        table = csv.DictWriter(file, list(rows[0]))
        table.writeheader()
        table.writerows(rows)
    if pictures:
        gallery.write_page(output / "gallery.html", pictures)
    try:
        for report in reports:
            plots.save_recall(report, output / f"recall-{report.pairs.name}.png")
    except ImportError:
        print("ripe: no plots; they need: pip install 'ripe-keypoints[eval]'", file=sys.stderr)
    print(f"{output}: report.md, results.json, pairs.csv{', gallery.html' if pictures else ''}", file=sys.stderr)


def _report_unreadable(reports: Sequence[SetReport]) -> int:
    left_out = {
        report.pairs.path(name): reason
        for report in reports
        for result in report.results
        for name, reason in result.unreadable.items()
    }
    for path, reason in left_out.items():
        print(f"ripe: left out, with its pairs: {path}: {reason}", file=sys.stderr)
    return 1 if left_out else 0


def _plain(arguments: argparse.Namespace) -> dict[str, Any]:
    """The command's settings in JSON's types."""
    return {
        key: str(value) if isinstance(value, Path) else value for key, value in vars(arguments).items() if key != "run"
    }
