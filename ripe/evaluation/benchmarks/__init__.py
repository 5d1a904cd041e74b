"""The benchmarks by name: how their pairs are read, and by which protocol they are run."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from ripe.evaluation.benchmarks import annotated, hpatches, imw2020, megadepth1500
from ripe.evaluation.pair_sets import Kind, PairSet
from ripe.evaluation.protocol import Protocol


@dataclass(frozen=True)
class Benchmark:
    """A benchmark.

    Attributes:
        summary: one line.
        read: the sets of pairs in a folder.
        protocols: by the kind of pairs.
        source: key in `ripe.data.catalogue.SOURCES`; None for a user's own folder.
        pairs: how many pairs are used of a set, spread evenly; None for all.
    """

    summary: str
    read: Callable[[Path], list[PairSet]]
    protocols: Mapping[Kind, Protocol]
    source: str | None = None
    pairs: int | None = None


BENCHMARKS = {
    "pairs": Benchmark("a folder of annotated pairs", annotated.read, annotated.PROTOCOLS),
    "hpatches": Benchmark(
        "HPatches: homographies, 540 pairs", hpatches.read, {"homography": hpatches.PROTOCOL}, "hpatches"
    ),
    "megadepth1500": Benchmark(
        "MegaDepth-1500: relative poses, 1500 pairs",
        megadepth1500.read,
        {"pose": megadepth1500.PROTOCOL},
        "megadepth1500",
    ),
    "imw2020": Benchmark(
        "DISK's IMW2020-val: relative poses", imw2020.read, {"pose": imw2020.PROTOCOL}, "imw2020", imw2020.PAIRS
    ),
}
