"""How pairs of photos are chosen, in words: what the command line offers, without the means to do it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

Method = Literal["exhaustive", "sequential", "spatial", "retrieval"]
METHODS: tuple[Method, ...] = get_args(Method)


@dataclass(frozen=True)
class PairChoice:
    """How pairs are chosen.

    Attributes:
        methods: a pair that any of them gives is chosen.
        neighbours: how many partners a photo chooses by each method but "exhaustive"; others may choose it besides.
        max_distance: between photos, by "spatial", in metres.
    """

    methods: Sequence[Method] = ("retrieval",)
    neighbours: int = 20
    max_distance: float = 100.0
