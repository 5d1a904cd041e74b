"""`ripe match --pairs`: a list of pairs and stored features in; hloc's match file out, or a table."""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from ripe.cli import fitting, options
from ripe.cli.progress import progress_bar

if TYPE_CHECKING:
    import torch

    from ripe.attempts import TurnedFeatures
    from ripe.features import Features, Matches
    from ripe.filters import MatchFilter
    from ripe.match_many import MatchPair
    from ripe.storage import FeatureReader, Pair
    from ripe.two_views import Rotations


def match_list(arguments: argparse.Namespace) -> int:
    """Match a list of pairs with stored features; 1 if an image had none, or such as cannot be matched."""
    if arguments.pairs is None or arguments.features is None or arguments.output is None:
        arguments.refuse("--pairs, --features and -o belong together")
    if arguments.image0 is not None or arguments.json is not None or arguments.masks is not None:
        arguments.refuse("--pairs goes with neither photos nor --json nor --masks (which ripe extract takes)")
    if arguments.scales is not None:
        arguments.refuse("--pairs matches features at the scales that ripe extract --scales has given them")
    if arguments.geometry == "essential" and len(arguments.intrinsics or ()) != 1:
        arguments.refuse("--geometry essential needs --intrinsics, one camera for all photos of a list")
    if options.is_table(arguments):
        return _match_table(arguments)
    from ripe import files
    from ripe.match_many import match_many
    from ripe.matching import matching_settings
    from ripe.pair_lists import read_pair_list
    from ripe.storage import FeatureReader, MatchFile, stored_side

    files.check_writable(arguments.output)
    pairs = read_pair_list(arguments.pairs)
    how = options.match_filter(arguments)
    by = matching_settings(how)
    device = options.device(arguments)
    with (
        FeatureReader(arguments.features) as features,
        MatchFile(
            arguments.output,
            {**by, "matcher": by["matcher"] + _verification(arguments), **features.settings},
            overwrite=arguments.overwrite,
        ) as store,
        progress_bar("match", len(pairs), unit="pair") as progress,
    ):
        verify = None
        if arguments.geometry != "none":
            turned = turned_features(arguments, features)
            verify = _verifying(arguments, stored_side(features.settings), turned, how, device)
        problems: list[str] = []
        missing = match_many(
            features,
            pairs,
            store,
            how=how,
            device=device,
            progress=progress,
            match_pair=verify,
            failed=lambda pair, error: problems.append(f"{pair[0]} and {pair[1]}: {error}"),
        )
        done = sum(store.holds(*pair) for pair in pairs)
        verdicts = Counter(store.notes(*pair).get("verdict") for pair in pairs)
    return _report_list(arguments, done, len(pairs), verdicts, problems, missing)


def _match_table(arguments: argparse.Namespace) -> int:
    """Match a list of pairs of a table's photos to a table; 1 if an image had none, or such as cannot be matched."""
    if arguments.photos is not None:
        arguments.refuse("--photos, which are turned, goes with -o H5 alone")
    from ripe.matching import check_usable, matching_settings
    from ripe.pair_lists import read_pair_list
    from ripe.scale.feature_tables import FeatureTable
    from ripe.scale.matching import match_table
    from ripe.storage import stored_side

    pairs = read_pair_list(arguments.pairs)
    how = options.match_filter(arguments)
    by = matching_settings(how)
    features = FeatureTable(str(arguments.features))
    check_usable(how, features.settings.get("weights", "none of ours"))
    picklable = argparse.Namespace(**{key: value for key, value in vars(arguments).items() if not callable(value)})
    with progress_bar("match", len(pairs), unit="pair") as progress:
        verdicts, missing, failures = match_table(
            features,
            pairs,
            partial(_make_match_pair, picklable, stored_side(features.settings), how),
            str(arguments.output),
            {**by, "matcher": by["matcher"] + _verification(arguments), **features.settings},
            engine=options.engine(arguments),
            overwrite=arguments.overwrite,
            progress=progress,
        )
    problems = [f"{pair[0]} and {pair[1]}: {error}" for pair, error in failures.items()]
    done = sum(verdicts.values())
    return _report_list(arguments, done, len(pairs), verdicts, problems, missing)


def _make_match_pair(arguments: argparse.Namespace, seen_side: int | None, how: MatchFilter) -> MatchPair:
    """What matches pairs in a process of the engine's, on that process's own device."""
    from ripe.matching import filtered_match

    device = options.device(arguments)
    verify = None if arguments.geometry == "none" else _verifying(arguments, seen_side, None, how, device)

    def match_pair(pair: Pair, features0: Features, features1: Features) -> tuple[Matches, dict[str, Any]]:
        both = features0.to(device), features1.to(device)
        return (filtered_match(*both, how), {}) if verify is None else verify(pair, *both)

    return match_pair


def _report_list(
    arguments: argparse.Namespace,
    done: int,
    total: int,
    verdicts: Counter[Any],
    problems: list[str],
    missing: Mapping[str, int],
) -> int:
    """Say what came of a list of pairs; 1 if there were problems."""
    from ripe.geometry.verdict import WORDS

    print(f"{done} of {total} pairs in {arguments.output}")
    if arguments.geometry != "none":
        print(", ".join(f"{verdicts[name]} {words}" for name, words in WORDS.items()))
    for name, count in missing.items():
        problems.append(f"{count} pairs of {name}: {arguments.features} has no features of it")
    for problem in problems[: options.NAMED]:
        print(f"ripe: not matched: {problem}", file=sys.stderr)
    if len(problems) > options.NAMED:
        print(f"ripe: and {len(problems) - options.NAMED} more", file=sys.stderr)
    return 1 if problems else 0


def _verification(arguments: argparse.Namespace) -> str:
    """What `_verifying` does to matches, in words; nothing where all are kept."""
    if arguments.geometry == "none":
        return ""
    camera = "" if arguments.intrinsics is None else f" by {','.join(f'{n:g}' for n in arguments.intrinsics[0])}"
    where = " of what was extracted from" if arguments.inlier_threshold is None else ""
    turns = "" if arguments.photos is None or arguments.rotations == "none" else f", turns {arguments.rotations}"
    threshold = fitting.inlier_threshold(arguments, None)
    return f", inliers of {arguments.geometry} within {threshold:g} px{where}{camera}{turns}"


def _verifying(
    arguments: argparse.Namespace,
    seen_side: int | None,
    turned: TurnedFeatures | None,
    how: MatchFilter,
    device: torch.device,
) -> MatchPair:
    """What keeps the matches of a pair of a list that agree with one geometry; none of them if that is chance."""
    from ripe.attempts import attempt_match, best_of, try_turns

    def match_pair(pair: Pair, features0: Features, features1: Features) -> tuple[Matches, dict[str, Any]]:
        sizes = features0.image_size, features1.image_size
        attempt = partial(
            attempt_match,
            geometry=arguments.geometry,
            max_error=fitting.inlier_threshold(arguments, seen_side, sizes),
            intrinsics=fitting.cameras(arguments, sizes),
            how=how,
        )

        def turned_first(turns: int) -> Features:
            assert turned is not None
            return turned(pair[0], turns).to(device)

        rotations: Rotations = "none" if turned is None else arguments.rotations
        best = best_of(try_turns(attempt, features0, features1, turned_first, rotations, likeliest=True))
        assert best.geometry is not None
        assert best.verdict is not None
        kept = best.geometry.inliers.to(device) & (not best.by_chance)
        inliers = replace(best.matches, indices=best.matches.indices[kept], scores=best.matches.scores[kept])
        notes: dict[str, Any] = {"verdict": best.verdict.name, "log10_nfa": best.verdict.log10_nfa}
        if best.geometry.model is not None and not best.by_chance:
            notes[best.geometry.kind] = best.geometry.model.numpy()
        return inliers, {**notes, "quarter_turns": best.quarter_turns}

    return match_pair


def turned_features(arguments: argparse.Namespace, features: FeatureReader) -> TurnedFeatures | None:
    """What describes a list's photos in quarter turns, by the model that made their features; None if it is not to."""
    if arguments.photos is None or arguments.rotations == "none":
        return None
    from ripe.attempts import TurnedFeatures
    from ripe.pretrained import model_settings

    model = options.load_model(arguments)
    if model_settings(model)["weights"] != features.settings.get("weights"):
        raise ValueError(f"{features.path} was not made by {arguments.model}; name the --model to turn photos with")
    describe = partial(model.describe_turned, max_megapixels=arguments.max_megapixels)
    return TurnedFeatures(describe, arguments.photos, features.read)
