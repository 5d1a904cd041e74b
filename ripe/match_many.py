"""Matching of many pairs whose features are in a file: the one loop of command line, reconstruction and evaluation."""

import logging
from collections import Counter
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

import torch

from ripe.features import Features, Matches
from ripe.filters import MUTUAL, MatchFilter
from ripe.matching import check_usable, filtered_match
from ripe.storage import FeatureReader, MatchFile, Pair

CACHED_IMAGES = 128
PAIRS_PER_PART = 250

MatchPair = Callable[[Pair, Features, Features], tuple[Matches, dict[str, Any]]]
Failed = Callable[[Pair, Exception], object]

logger = logging.getLogger(__name__)


def match_many(
    features: FeatureReader,
    pairs: Sequence[Pair],
    store: MatchFile,
    *,
    how: MatchFilter = MUTUAL,
    device: torch.device | str = "cpu",
    progress: Callable[[], object] = lambda: None,
    match_pair: MatchPair | None = None,
    failed: Failed | None = None,
) -> Counter[str]:
    """Match those pairs that the store does not hold yet.

    Pairs whose features have changed since are matched anew, and a warning says how many. A pair in both orders is
    matched once.

    Args:
        features: of the images; descriptors of unit length.
        pairs: names of images.
        store: where the matches go; what was matched before an interruption is kept.
        how: the descriptors are matched.
        device: where the descriptors are compared.
        progress: called after each pair.
        match_pair: which matches of two images are stored, such as those that agree with one geometry, and what is
            noted beside them; all that `how` gives if None.
        failed: told of pairs whose features cannot be used, and why; the others go on. If None, the error is raised.

    Returns:
        The images that have no features, each with the number of pairs that were left out for it.

    Raises:
        ValueError: hloc's layout cannot tell two pairs apart (see `ripe.storage.check_distinct`), `how` needs what is
            not installed, or is for other features, or, without `failed`, two images' features cannot be matched (see
            `ripe.match`).
    """
    match_pair = match_pair or (lambda pair, features0, features1: (filtered_match(features0, features1, how), {}))
    check_usable(how, features.settings.get("weights", "none of ours"))  # which would otherwise fail pair by pair
    store.check_distinct(pairs)
    identities = _identities(features, pairs)
    pending = {frozenset(pair): pair for pair in pairs if not store.holds(*pair, identities)}
    if changed := sum(store.holds(*pair) for pair in pending.values()):
        logger.warning("%s: %d pairs are matched anew, as their features have changed", store.path, changed)
    missing: Counter[str] = Counter()
    matched: dict[Pair, tuple[Matches, int, int]] = {}
    notes: dict[Pair, dict[str, Any]] = {}

    @lru_cache(maxsize=CACHED_IMAGES)
    def read(name: str) -> Features:
        return features.read(name).to(device)

    def flush() -> None:
        if matched:
            store.add(matched, identities, notes)
            matched.clear()
            notes.clear()

    try:
        for pair in pairs:
            if pending.pop(frozenset(pair), None) is not None:
                absent = [name for name in pair if name not in identities]
                missing.update(absent)
                if not absent and (found := _attempt(pair, read, match_pair, failed)) is not None:
                    matched[pair], notes[pair] = found
            if len(matched) == PAIRS_PER_PART:
                flush()
            progress()
    finally:
        flush()
    return missing


def _attempt(
    pair: Pair, read: Callable[[str], Features], match_pair: MatchPair, failed: Failed | None
) -> tuple[tuple[Matches, int, int], dict[str, Any]] | None:
    """The matches of a pair and how many keypoints both images have, and its notes; None if they cannot be had."""
    try:
        features0, features1 = map(read, pair)
        kept, notes = match_pair(pair, features0, features1)
        return (kept, len(features0), len(features1)), notes
    except ValueError as error:
        if failed is None:
            raise
        failed(pair, error)
    return None


def _identities(features: FeatureReader, pairs: Sequence[Pair]) -> dict[str, str]:
    """Which features the images have, by name; images without any are left out."""
    found = {}
    for name in {name for pair in pairs for name in pair}:
        try:
            found[name] = features.identity(name)
        except KeyError:
            continue
    return found
