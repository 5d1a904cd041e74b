"""MegaDepth-1500 in Glue Factory's package (cvg/glue-factory, commit 2d17e3b): 1500 pairs with poses, a benchmark."""

from pathlib import Path

from ripe.data.dataset import Count, DataSet, existing
from ripe.pair_lists import pair_lines


def count(folder: Path) -> list[Count]:
    """What of the data set is found in a folder."""
    lists = [folder / name for name in ("pairs.txt", "pairs_calibrated.txt") if (folder / name).is_file()]
    if not lists:
        raise FileNotFoundError(f"{folder}: holds neither pairs.txt nor pairs_calibrated.txt")
    pairs = [pair for _, pair in pair_lines(lists[0])]
    photos = {folder / "images" / name for pair in pairs for name in pair}
    counts = [Count("pairs", len(pairs), 1500), Count("photos", existing(photos), len(photos))]
    if lists[0].name == "pairs.txt":
        counts.append(Count("list of cameras (views.txt)", int((folder / "views.txt").is_file()), 1))
    return counts


SET = DataSet(
    name="megadepth1500",
    title="MegaDepth-1500 in Glue Factory's package, a benchmark",
    url="https://cvg-data.inf.ethz.ch/megadepth/megadepth1500.zip",
    folder="megadepth1500",
    kind="archive",
    holds="views.txt",
    count=count,
)
