"""HPatches sequences: photos of planes and from one place, with their homographies, a benchmark."""

from pathlib import Path

from ripe.data.dataset import Count, DataSet, existing

SEQUENCES = 116
FILES = [f"{index}.ppm" for index in range(1, 7)] + [f"H_1_{index}" for index in range(2, 7)]


def count(folder: Path) -> list[Count]:
    """What of the data set is found in a folder."""
    sequences = [path for path in folder.iterdir() if path.is_dir() and path.name[:2] in ("i_", "v_")]
    files = [path / name for path in sequences for name in FILES]
    return [
        Count("sequences", len(sequences), SEQUENCES),
        Count("photos and homographies", existing(files), len(FILES) * SEQUENCES),
    ]


SET = DataSet(
    name="hpatches",
    title="HPatches sequences, a benchmark",
    # The address of the first release, icvl.ee.ic.ac.uk, does not answer any more; its authors moved it to this one.
    url="https://huggingface.co/datasets/vbalnt/hpatches/resolve/main/hpatches-sequences-release.zip",
    folder="hpatches-sequences-release",
    kind="archive",
    holds="v_wall",
    count=count,
)
