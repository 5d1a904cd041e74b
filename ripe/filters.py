"""Which nearest neighbours count as matches: the methods by name, for library, command line, files and protocols."""

from dataclasses import dataclass
from typing import Literal, get_args

Method = Literal["mutual", "fginn", "adalam"]
METHODS: tuple[Method, ...] = get_args(Method)
NAMES: dict[Method, str] = {
    "mutual": "mutual nearest neighbours",
    "fginn": "mutual nearest neighbours by FGINN",
    "adalam": "AdaLAM",
}
FGINN_RATIO = 0.85
"""What kornia's `GeometryAwareDescriptorMatcher` takes."""


@dataclass(frozen=True)
class MatchFilter:
    """How descriptors are matched, and which of the matches are dropped; `str` says it in words.

    Attributes:
        method: "mutual" (each other's nearest), "fginn" (the ratio test is against the nearest descriptor of another
            place, 10 px or more away) or "adalam" (neighbouring matches must agree on an affine map). The last two are
            kornia's.
        ratio: most that the distance to the nearest descriptor may be of that to the second nearest, above 0 to 1, in
            both directions ("fginn": from the first image to the second). No test if None, except that "fginn", which
            is one, takes 0.85. "adalam" has a test of its own.
        min_similarity: least cosine similarity, −1..1.

    Raises:
        ValueError: the method is unknown, a number is out of range, or a ratio is given to "adalam".
    """

    method: Method = "mutual"
    ratio: float | None = None
    min_similarity: float = -1.0

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise ValueError(f"method is {self.method!r}; it must be one of {', '.join(METHODS)}")
        if not -1 <= self.min_similarity <= 1:
            raise ValueError(f"min_similarity is {self.min_similarity}; it must be in −1..1, a cosine")
        if self.ratio is not None and not 0 < self.ratio <= 1:
            raise ValueError(f"ratio is {self.ratio}; it must be above 0 and at most 1")
        if self.method == "adalam" and self.ratio is not None:
            raise ValueError("a ratio goes with the methods mutual and fginn; adalam has a test of its own")
        if self.method == "fginn" and self.ratio is None:
            object.__setattr__(self, "ratio", FGINN_RATIO)

    def __str__(self) -> str:
        words = NAMES[self.method]
        if self.ratio is not None:
            words += f", ratio at most {self.ratio:g}"
        if self.min_similarity > -1:
            words += f", similarity at least {self.min_similarity:g}"
        return words


MUTUAL = MatchFilter()
"""Mutual nearest neighbours, all of them."""
