"""What of a data set is found, and what is missing."""

from dataclasses import dataclass
from pathlib import Path

from ripe.data import own
from ripe.data.catalogue import SOURCES, place
from ripe.data.dataset import Count


@dataclass(frozen=True)
class Inventory:
    """What was found of a data set in a folder, or why nothing could be found out."""

    folder: Path
    counts: list[Count]
    problem: str = ""

    @property
    def complete(self) -> bool:
        """Whether the data set can be used whole."""
        return not self.problem and all(count.complete for count in self.counts)


def take(name: str, root: Path | None = None) -> Inventory:
    """Look for a data set of `catalogue.SOURCES` at its place under `root`, or `data_dir()` if None."""
    folder = place(name, root)
    if not folder.is_dir():
        return Inventory(folder, [], "no such folder")
    try:
        return Inventory(folder, SOURCES[name].count(folder))
    except (OSError, ValueError) as error:
        return Inventory(folder, [], str(error))


def take_own(folder: Path) -> Inventory:
    """Look at a folder of one's own photos as `data.root` would."""
    try:
        photos = own.read_root(folder)
    except (OSError, ValueError) as error:
        return Inventory(folder, [], str(error))
    scenes = [scene for scene in photos if len(scene.groups)]
    counts = [
        Count("photos", sum(map(len, photos))),
        Count("scenes", len(scenes), needed=False),
        Count("of them with two photos or more", sum(scene.pairable for scene in scenes), needed=False),
        Count("photos without a scene, for self-pairs", sum(map(len, photos)) - sum(map(len, scenes)), needed=False),
    ]
    return Inventory(folder, counts)
