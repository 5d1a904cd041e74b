"""`ripe eval`: accuracy on annotated pairs, as a Markdown table."""

import argparse
import json
import math
import sys
from pathlib import Path
from typing import Any

import cv2
import torch

from ripe.evaluation.annotations import PairsFolder, find_pairs_folders, read_pairs
from ripe.evaluation.baselines import BASELINES, baseline_extractor
from ripe.evaluation.extractors import Extractor, model_extractor
from ripe.evaluation.pairs import PairsResult, Protocol, evaluate_pairs
from ripe.files import check_writable, replacing
from ripe.images import MIN_SIDE
from ripe.pretrained import load

UNITS = {"homography": " px", "pose": "°"}
PAIRS_DESCRIPTION = (
    "Estimate the homography or relative pose of annotated pairs from mutual nearest neighbours. "
    "Prints the area under the recall curve, in percent."
)


def add_parser(subparsers: Any) -> None:
    """Add `eval` to the command's sub-parsers; its namespace carries `run`."""
    benchmarks = subparsers.add_parser("eval", help="measure accuracy on annotated image pairs").add_subparsers(
        title="benchmarks", required=True, metavar="BENCHMARK"
    )
    parser = benchmarks.add_parser("pairs", help="a folder of photos with pairs.json", description=PAIRS_DESCRIPTION)
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="holds pairs.json, or sub-folders that do")
    parser.add_argument(
        "--model", nargs="+", action="extend", default=[], metavar="NAME|FILE", help="models (compact if none is named)"
    )
    parser.add_argument(
        "--baseline",
        nargs="+",
        action="extend",
        default=[],
        choices=BASELINES,
        help="OpenCV's extractors to compare with",
    )
    parser.add_argument("--max-keypoints", type=_at_least(1), default=2048, metavar="N", help="per photo (2048)")
    parser.add_argument(
        "--resize", type=_at_least(MIN_SIDE), default=1024, metavar="PIXELS", help="shrink longer sides to this (1024)"
    )
    parser.add_argument("--repeats", type=_at_least(1), default=3, metavar="N", help="seeds of the estimator (3)")
    parser.add_argument("--device", help="cpu, cuda, …; a GPU if there is one")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write all figures and per-pair errors here")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Evaluate every extractor on every folder and print one table per folder."""
    if args.json is not None:
        check_writable(args.json)
    folders = [read_pairs(folder) for folder in find_pairs_folders(args.folder)]
    extractors = _extractors(args)
    protocol = Protocol(repeats=args.repeats)
    records = []
    unreadable: dict[Path, str] = {}
    for folder in folders:
        results = {}
        for name, extract in extractors.items():
            print(f"{folder.path}: {name} …", file=sys.stderr)
            results[name] = evaluate_pairs(extract, folder, protocol)
            unreadable |= results[name].unreadable
        settings = f"long side at most {args.resize} px, at most {args.max_keypoints} keypoints"
        print(_report(folder, results, settings, args.device))
        records += [_record(name, folder, result, settings) for name, result in results.items()]
    if args.json is not None:
        with replacing(args.json) as temporary:
            temporary.write_text(json.dumps(records, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    for path, reason in unreadable.items():
        named = reason if str(path) in reason else f"{path}: {reason}"
        print(f"left out, with its pairs: {named}", file=sys.stderr)
    return 0


def _extractors(args: argparse.Namespace) -> dict[str, Extractor]:
    """By name; models are loaded at once, so that a wrong name costs no evaluation."""
    limits = {"max_keypoints": args.max_keypoints, "max_side": args.resize}
    models = args.model or ([] if args.baseline else ["compact"])
    found = {name: model_extractor(load(name, device=args.device), **limits) for name in models}
    return found | {name: baseline_extractor(name, **limits) for name in args.baseline}


def _report(folder: PairsFolder, results: dict[str, PairsResult], settings: str, device: str | None) -> str:
    first = next(iter(results.values()))
    unit = UNITS[folder.model]
    header = [f"AUC@{limit:g}{unit}" for limit in first.limits]
    header = ["extractor", *header, "keypoints", "matches", "correct matches", "ms per image"]
    lines = [
        f"### {folder.path.name}: {len(first.errors)} pairs",
        "",
        f"{settings[0].upper()}{settings[1:]}, {first.protocol}. ± is the standard deviation over seeds.",
        f"Time: median of one photo, file reading included, on {_machine(device)}.",
        "",
        f"| {' | '.join(header)} |",
        f"|{'---|' * len(header)}",
    ]
    lines += [f"| {' | '.join([name, *_cells(result)])} |" for name, result in results.items()]
    return "\n".join([*lines, ""])


def _cells(result: PairsResult) -> list[str]:
    areas = [f"{mean:.1f} ± {spread:.1f}" for mean, spread in zip(result.auc, result.auc_spread, strict=True)]
    counts = [f"{result.mean_keypoints:.0f}", f"{result.mean_matches:.0f}", f"{100 * result.inlier_ratio:.0f} %"]
    return [*areas, *counts, f"{result.milliseconds:.0f}"]


def _machine(device: str | None) -> str:
    threads = f"the CPU (threads: PyTorch {torch.get_num_threads()}, OpenCV {cv2.getNumThreads()})"
    used = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    return f"{torch.cuda.get_device_name(used)} and {threads}" if used.type == "cuda" else threads


def _record(name: str, folder: PairsFolder, result: PairsResult, settings: str) -> dict[str, Any]:
    """The result in JSON's types; an infinite error is null."""
    errors = {pair: [value if math.isfinite(value) else None for value in row] for pair, row in result.errors.items()}
    fields = {**vars(result), "errors": errors, "unreadable": list(map(str, result.unreadable))}
    return {"extractor": name, "folder": str(folder.path), **fields, "protocol": f"{settings}, {result.protocol}"}


def _at_least(least: int) -> Any:
    def whole_number(text: str) -> int:
        value = int(text)
        if value < least:
            raise argparse.ArgumentTypeError(f"must be {least} or more")
        return value

    return whole_number
