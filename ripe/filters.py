"""Which nearest neighbours count as matches: the methods by name, for library, command line, files and protocols."""

from dataclasses import dataclass
from typing import Literal, get_args

Method = Literal["mutual", "fginn", "adalam", "lightglue"]
METHODS: tuple[Method, ...] = get_args(Method)
NAMES: dict[Method, str] = {
    "mutual": "mutual nearest neighbours",
    "fginn": "mutual nearest neighbours by FGINN",
    "adalam": "AdaLAM",
    "lightglue": "LightGlue",
}
FGINN_RATIO = 0.85
"""What kornia's `GeometryAwareDescriptorMatcher` takes."""
NO_MATCH = -1
"""In place of the partner of a keypoint that has none."""
MATCHER = "compact"
MIN_SCORE = 0.1
"""Least probability of a learned match that counts; chosen on real pairs that were held back (docs/matcher-card.md)."""


@dataclass(frozen=True)
class MatchFilter:
    """How descriptors are matched, and which of the matches are dropped; `str` says it in words.

    Attributes:
        method: "mutual" (each other's nearest), "fginn" (the ratio test is against the nearest descriptor of another
            place, 10 px or more away), "adalam" (neighbouring matches must agree on an affine map), both of kornia, or
            "lightglue", a learned matcher, which sees positions and descriptors of both images together.
        ratio: most that the distance to the nearest descriptor may be of that to the second nearest, above 0 to 1, in
            both directions ("fginn": from the first image to the second). No test if None, except that "fginn", which
            is one, takes 0.85. "adalam" has a test of its own.
        min_similarity: least cosine similarity, −1..1.
        matcher: of "lightglue": a name that `ripe.load_matcher` knows, or the path of a weights file; "compact" if
            None.
        min_score: of "lightglue": least probability of a match, 0..1; 0.1 if None.

    Raises:
        ValueError: the method is unknown, a number is out of range, or is not for this method.
    """

    method: Method = "mutual"
    ratio: float | None = None
    min_similarity: float = -1.0
    matcher: str | None = None
    min_score: float | None = None

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
        self._check_learned()

    def _check_learned(self) -> None:
        """Refuse what only a learned matcher has, or has not, and fill in what it has by default."""
        if self.method != "lightglue":
            if self.matcher is not None or self.min_score is not None:
                raise ValueError("matcher and min_score go with the method lightglue alone")
            return
        if self.ratio is not None or self.min_similarity > -1:
            raise ValueError("lightglue takes min_score; ratio and min_similarity go with the other methods")
        object.__setattr__(self, "matcher", self.matcher or MATCHER)
        object.__setattr__(self, "min_score", MIN_SCORE if self.min_score is None else self.min_score)
        if not 0 <= self.min_score <= 1:  # type: ignore[operator]
            raise ValueError(f"min_score is {self.min_score}; it must be in 0..1, a probability")

    def __str__(self) -> str:
        words = NAMES[self.method]
        if self.method == "lightglue":
            return f"{words} ({self.matcher}), probability at least {self.min_score:g}"
        if self.ratio is not None:
            words += f", ratio at most {self.ratio:g}"
        if self.min_similarity > -1:
            words += f", similarity at least {self.min_similarity:g}"
        return words


MUTUAL = MatchFilter()
"""Mutual nearest neighbours, all of them."""
