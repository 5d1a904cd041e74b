"""From a table of features and a list of pairs to a table of matches: what is missing, in blocks that share photos."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from ripe.features import Features
from ripe.match_many import MatchPair
from ripe.scale import feature_tables, match_tables
from ripe.scale.engines import in_process
from ripe.scale.match_tables import Matched, encode, match_shards, read_index
from ripe.storage import Pair, as_stored, check_settings

if TYPE_CHECKING:
    from ripe.scale.engines import Engine
    from ripe.scale.feature_tables import FeatureTable
    from ripe.scale.shards import Shards

TILE = 64
PHOTOS_PER_BLOCK = 2 * TILE
PAIRS_PER_BLOCK = 1024

MakeMatchPair = Callable[[], MatchPair]
"""Makes what matches pairs in the process that is to use it."""

logger = logging.getLogger(__name__)


class Block(NamedTuple):
    """Pairs, and where the features of their photos are, by name."""

    pairs: list[Pair]
    rows: dict[str, feature_tables.Row]


class Done(NamedTuple):
    """How many pairs of a block are now in the table, and why those with an error have no matches."""

    pairs: int
    failures: dict[Pair, str]
    verdicts: Counter[str]


class Outcome(NamedTuple):
    """What came of a list of pairs.

    Attributes:
        verdicts: how often each was given, on pairs that were matched before, too.
        missing: photos without features, each with the number of pairs that were left out for it.
        failures: why pairs could not be matched.
    """

    verdicts: Counter[str]
    missing: Counter[str]
    failures: dict[Pair, str]


def match_table(
    features: FeatureTable,
    pairs: Sequence[Pair],
    make_match_pair: MakeMatchPair,
    address: str,
    settings: Mapping[str, Any],
    *,
    engine: Engine = in_process,
    overwrite: bool = False,
    progress: Callable[[int], object] = lambda count: None,
) -> Outcome:
    """Match those pairs that the table does not hold yet; it is whole at any moment.

    Pairs whose features have changed since, and those that had an error, are matched anew.

    Args:
        features: of the photos.
        pairs: names of photos; one that comes in both orders is matched once.
        make_match_pair: what is stored of a pair; it is sent to other processes.
        address: of the table of matches.
        settings: what the matches depend on.
        engine: what runs the blocks.
        overwrite: start anew; the table's shards are removed.
        progress: called with the number of pairs that are newly done, or found to be done or to lack features.

    Raises:
        ValueError: the table has other settings.
        OSError: the table cannot be written.
    """
    shards = match_shards(address)
    shards.begin(overwrite)
    rows, stored = read_index(shards)
    if rows:
        check_settings(address, stored, as_stored(settings))
    each = list({frozenset(pair): pair for pair in reversed(pairs)}.values())[::-1]
    there = set(features.names())
    missing = Counter(name for pair in each for name in pair if name not in there)
    usable = [pair for pair in each if there.issuperset(pair)]
    known = {pair: _stored(pair, rows) for pair in usable}
    pending = {pair for pair, at in known.items() if not _is_done(pair, at, rows, features)}
    _forget(shards, [rows[at] for pair in pending if (at := known[pair]) is not None])
    progress(len(pairs) - len(pending))
    blocks = [[pair for pair in block if pair in pending] for block in pair_blocks(usable)]
    work = [Block(block, {name: features.rows[name] for pair in block for name in pair}) for block in blocks if block]
    verdicts = Counter(str(rows[at].verdict) for pair, at in known.items() if at is not None and pair not in pending)
    failures: dict[Pair, str] = {}
    for report in engine(work, Fetch(features.shards), WorkerOf(make_match_pair, shards, dict(settings))):
        failures |= report.failures
        verdicts += report.verdicts
        progress(report.pairs)
    return Outcome(verdicts, missing, failures)


def pair_blocks(pairs: Sequence[Pair]) -> Iterator[list[Pair]]:
    """All pairs in runs that share photos: no more than `PHOTOS_PER_BLOCK` of these, and `PAIRS_PER_BLOCK` pairs.

    The photos lie in tiles of `TILE` in the order of their names, and pairs of the same two tiles stand together. The
    blocks of a list are the same whichever of its pairs are done already.
    """
    names = sorted({name for pair in pairs for name in pair})
    tile = {name: number // TILE for number, name in enumerate(names)}
    block: list[Pair] = []
    photos: set[str] = set()
    for pair in sorted(pairs, key=lambda pair: (*sorted(tile[name] for name in pair), *sorted(pair))):
        if block and (len(photos.union(pair)) > PHOTOS_PER_BLOCK or len(block) == PAIRS_PER_BLOCK):
            yield block
            block, photos = [], set()
        block.append(pair)
        photos.update(pair)
    if block:
        yield block


@dataclass(frozen=True)
class Fetch:
    """Gives the features of a block's photos, each read once."""

    shards: Shards

    def __call__(self, block: Block) -> tuple[Block, dict[str, Features]]:
        return block, feature_tables.read_rows(self.shards, block.rows)


@dataclass(frozen=True)
class WorkerOf:
    """Makes what matches blocks and stores each as a shard."""

    make_match_pair: MakeMatchPair
    shards: Shards
    settings: dict[str, Any]

    def __call__(self) -> Callable[[tuple[Block, dict[str, Features]]], Done]:
        match_pair = self.make_match_pair()

        def work(fetched: tuple[Block, dict[str, Features]]) -> Done:
            block, features = fetched
            matched = [_matched(pair, block, features, match_pair) for pair in block.pairs]
            self.shards.write(encode(matched, self.settings))
            failures = {each.pair: each.found for each in matched if isinstance(each.found, str)}
            verdicts = Counter(str(each.notes.get("verdict")) for each in matched if not isinstance(each.found, str))
            return Done(len(matched), failures, verdicts)

        return work


def _matched(pair: Pair, block: Block, features: Mapping[str, Features], match_pair: MatchPair) -> Matched:
    identities = str(block.rows[pair[0]].identity), str(block.rows[pair[1]].identity)
    try:
        found, notes = match_pair(pair, features[pair[0]], features[pair[1]])
    except ValueError as error:
        return Matched(pair, identities, str(error), {})
    return Matched(pair, identities, found, notes)


def _stored(pair: Pair, rows: Mapping[Pair, match_tables.Row]) -> Pair | None:
    """The names of a pair in the order in which the table has them; None if it has not."""
    return next((names for names in (pair, pair[::-1]) if names in rows), None)


def _is_done(pair: Pair, at: Pair | None, rows: Mapping[Pair, match_tables.Row], features: FeatureTable) -> bool:
    if at is None or rows[at].error is not None:
        return False
    return rows[at].features == (features.identity(at[0]), features.identity(at[1]))


def _forget(shards: Shards, rows: Sequence[match_tables.Row]) -> None:
    """Take rows away that are to be made anew, and say how many of them held matches."""
    if changed := sum(row.error is None for row in rows):
        logger.warning("%s: %d pairs are matched anew, as their features have changed", shards.place.address, changed)
    shards.forget(rows)
