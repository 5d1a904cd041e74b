"""Matching of many pairs whose features are in a file."""

from collections import Counter
from collections.abc import Callable, Sequence
from functools import lru_cache

import torch

from ripe.features import Features, Matches
from ripe.matching import match
from ripe.reconstruction.pairs import Pair
from ripe.storage import FeatureReader, MatchFile

CACHED_IMAGES = 128
PAIRS_PER_PART = 250
SETTINGS = {"matcher": "mutual nearest neighbours"}


def match_pairs(
    features: FeatureReader,
    pairs: Sequence[Pair],
    store: MatchFile,
    *,
    device: torch.device | str = "cpu",
    progress: Callable[[], object] = lambda: None,
    keep: Callable[[Features, Features, Matches], Matches] = lambda features0, features1, matches: matches,
) -> Counter[str]:
    """Match those pairs that the store does not hold yet, by mutual nearest neighbours.

    Args:
        features: of the images; descriptors of unit length.
        pairs: names of images.
        store: where the matches go; what was matched before an interruption is kept.
        device: where the descriptors are compared.
        progress: called after each pair.
        keep: which matches of two images are stored, such as those that agree with one geometry.

    Returns:
        The images that have no features, each with the number of pairs that were left out for it.

    Raises:
        ValueError: two images' descriptors cannot be compared (see `ripe.match`).
    """
    missing: Counter[str] = Counter()
    matched: dict[Pair, tuple[Matches, int, int]] = {}

    @lru_cache(maxsize=CACHED_IMAGES)
    def read(name: str) -> Features | None:
        try:
            return features.read(name).to(device)
        except KeyError:
            return None

    def flush() -> None:
        if matched:
            store.add(matched)
            matched.clear()

    try:
        for name0, name1 in pairs:
            if not store.holds(name0, name1):
                features0, features1 = read(name0), read(name1)
                if features0 is None or features1 is None:
                    missing.update(name for name, found in ((name0, features0), (name1, features1)) if found is None)
                else:
                    kept = keep(features0, features1, match(features0, features1))
                    matched[name0, name1] = kept, len(features0), len(features1)
            if len(matched) == PAIRS_PER_PART:
                flush()
            progress()
    finally:
        flush()
    return missing
