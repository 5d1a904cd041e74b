"""IMW2020-val in DISK's package: MegaDepth's layout with the cameras of all photos, for validation."""

from pathlib import Path

from ripe.data.dataset import Count, DataSet, existing
from ripe.data.sets import megadepth


def count(folder: Path) -> list[Count]:
    """What of the data set is found in a folder."""
    scenes = megadepth.read_all(folder)
    calibrations = megadepth.calibrations(folder)
    return [*megadepth.disk_counts(scenes), Count("calibrations", existing(calibrations), len(calibrations))]


SET = DataSet(
    name="imw2020",
    title="IMW2020-val in DISK's package, for validation",
    url=megadepth.DISK_INDEX,
    folder="disk-data/imw2020-val",
    kind="index",
    within="imw2020-val/",
    holds="dataset.json",
    aliases=("disk-imw2020", "imw2020-val"),
    count=count,
)
