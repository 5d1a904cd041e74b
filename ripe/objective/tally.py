"""Figures of a step as sums and counts, so that those of batches and processes add up."""

from dataclasses import dataclass, field


@dataclass
class Tally:
    """Figures as sums and what they are to be divided by, so that batches' and processes' tallies add up."""

    sums: dict[str, float] = field(default_factory=dict)
    counts: dict[str, float] = field(default_factory=dict)

    def add(self, name: str, value: float, count: float = 1.0) -> None:
        """Add to one figure."""
        self.sums[name] = self.sums.get(name, 0.0) + value
        self.counts[name] = self.counts.get(name, 0.0) + count

    def merge(self, other: "Tally") -> None:
        """Add all figures of another tally."""
        for name, value in other.sums.items():
            self.add(name, value, other.counts[name])

    def figures(self) -> dict[str, float]:
        """The quotients; what has nothing to be divided by is left out."""
        return {name: value / self.counts[name] for name, value in self.sums.items() if self.counts[name] > 0}
