"""The pairs of photos that are to be matched: the one place where all commands choose them."""

import logging
from collections.abc import Callable, Iterable, Sequence
from itertools import combinations
from pathlib import Path

import numpy as np

from ripe import checks
from ripe.features import Features
from ripe.pairing import retrieval, spatial
from ripe.pairing.choice import PairChoice
from ripe.storage import Pair

SEED = 0

Read = Callable[[str], Features]
"""Gives a photo's features by its name."""
Turned = Callable[[str, int], Features]
"""The same, described in so many quarter turns (see `ripe.attempts.TurnedFeatures`)."""
Failed = Callable[[str, Exception], object]
"""Told the name of a photo whose features cannot be used, and why."""

logger = logging.getLogger(__name__)


def choose_pairs(
    choice: PairChoice,
    names: Sequence[str],
    *,
    read: Read | None = None,
    turned: Turned | None = None,
    folder: Path | None = None,
    failed: Failed = lambda name, error: None,
    progress: Callable[[], object] = lambda: None,
) -> list[Pair]:
    """The pairs of photos that one of the chosen methods gives, each once, the photo that comes first as the first one.

    Args:
        choice: of the methods.
        names: of the photos, in the order in which they were taken for "sequential".
        read: gives their features; for "retrieval".
        turned: gives them in quarter turns, so that "retrieval" also finds photos that are turned; asked of a few.
        folder: that the names are relative to; for "spatial".
        failed: told of photos that cannot be used, for "spatial", or whose features cannot; the others go on.
        progress: called after each photo that is described for "retrieval".

    Raises:
        ValueError: a method lacks what it needs, or no photo has a position for "spatial".
    """
    found: dict[Pair, None] = {}
    for method in choice.methods:
        if method == "exhaustive":
            pairs = exhaustive(names)
        elif method == "sequential":
            pairs = sequential(names, choice.neighbours)
        elif method == "spatial":
            if folder is None:
                raise ValueError("spatial pairs need the photos, whose EXIF has their positions (--photos)")
            pairs = nearby(names, folder, choice.max_distance, choice.neighbours, failed=failed)
        else:
            if read is None:
                raise ValueError("pairs by retrieval need the photos' features")
            pairs = alike(names, read, choice.neighbours, turned=turned, failed=failed, progress=progress)
        found.update(dict.fromkeys(pairs))
    return list(found)


def exhaustive(names: Sequence[str]) -> list[Pair]:
    """Every pair."""
    return list(combinations(names, 2))


def sequential(names: Sequence[str], neighbours: int) -> list[Pair]:
    """Every photo with the `neighbours` ones that follow it: for photos in the order in which they were taken."""
    return [(name, other) for index, name in enumerate(names) for other in names[index + 1 : index + 1 + neighbours]]


def nearby(
    names: Sequence[str],
    folder: Path,
    max_distance: float,
    neighbours: int,
    *,
    failed: Failed = lambda name, error: None,
) -> list[Pair]:
    """Every photo with the `neighbours` ones that were taken nearest, at most `max_distance` metres away, as EXIF says.

    A warning names the photos without a position; they get no partner, and neither do those that cannot be read.

    Raises:
        ValueError: none has a position.
    """
    known, lacking = {}, []
    for name in names:
        try:
            position = spatial.exif_position(folder / name)
        except (OSError, ValueError) as error:
            failed(name, error)
            continue
        if position is None:
            lacking.append(name)
        else:
            known[name] = position
    if not known:
        raise ValueError(f"{folder}: no photo's EXIF has a position (GPS), which pairs by distance need")
    if lacking:
        logger.warning(
            "%s: %d of %d photos have no position in EXIF, and no pairs by it: %s",
            folder, len(lacking), len(names), ", ".join(lacking),
        )  # fmt: skip
    return _named(list(known), spatial.nearby(np.array(list(known.values())), max_distance, neighbours))


def alike(
    names: Sequence[str],
    read: Read,
    neighbours: int,
    *,
    turned: Turned | None = None,
    failed: Failed = lambda name, error: None,
    progress: Callable[[], object] = lambda: None,
) -> list[Pair]:
    """Every photo with the `neighbours` ones that it resembles most, by their features (see `ripe.pairing.retrieval`).

    Photos without a keypoint get no partner. Arguments as of `choose_pairs`.
    """

    def descriptors(name: str) -> np.ndarray:
        try:
            return checks.features(read(name), name).descriptors.cpu().numpy()
        except ValueError as error:
            failed(name, error)
            return np.empty((0, 0), dtype=np.float32)

    rng = np.random.default_rng(SEED)
    some = [names[index] for index in rng.permutation(len(names))[: retrieval.SAMPLED_PHOTOS]]
    some = [name for name in some if len(descriptors(name))]
    if len(some) < 2:
        return []
    vocabulary = retrieval.learn_vocabulary(some, descriptors, rng)
    turns = None if turned is None else _learnt_turns(some, read, turned)
    if turned is not None and turns is None:
        logger.warning("no photo can be read to learn from how they look when turned: turned ones may be missed")
    ways = [] if turns is None else list(turns)
    views = np.zeros((1 + len(ways), len(names), vocabulary.projection.shape[1]), dtype=np.float32)
    for index, name in enumerate(names):
        if len(found := descriptors(name)):
            seen = [found, *(retrieval.unit(found @ way) for way in ways)]
            views[:, index] = [vocabulary.describe(each) for each in seen]
        progress()
    described = np.flatnonzero(views[0].any(axis=1)).tolist()
    upright, *turned_views = views[:, described]
    partners = retrieval.most_similar(upright, neighbours, turned_views)
    return _named([names[index] for index in described], enumerate(partners))


def _learnt_turns(names: Sequence[str], read: Read, turned: Turned) -> np.ndarray | None:
    """How descriptors change in quarter turns, learnt from the first photos that can be read; None if none can."""
    learnt = []
    for name in names:
        try:
            ways = [turned(name, quarter_turns).descriptors.cpu().numpy() for quarter_turns in (1, 2, 3)]
        except ValueError:
            continue
        learnt.append((read(name).descriptors.cpu().numpy(), ways))
        if len(learnt) == retrieval.TURNED_PHOTOS:
            break
    return retrieval.learn_turns(learnt) if learnt else None


def _named(names: Sequence[str], partners: Iterable[tuple[int, Iterable[int]]]) -> list[Pair]:
    """Pairs by name, each once, of photos by index with those that they have chosen."""
    chosen = {(min(index, other), max(index, other)) for index, others in partners for other in others}
    return [(names[first], names[second]) for first, second in sorted(chosen)]
