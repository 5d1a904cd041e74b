"""The query photos of Tokyo 24/7, version 3: 125 places, each in three directions, each by day, at sunset and at night.

Photos `00001.jpg` to `01125.jpg`, with a `.csv` each (position and time of the photo; not needed). The numbers run
through the three times first and the three directions then: nine photos after one another are a place, three of them
a direction. (Dataset users take every third photo as a day photo; the 315 queries of the benchmark are runs of whole
nines.) Torii et al., "24/7 place recognition by view synthesis", CVPR 2015.
"""

import logging
from pathlib import Path

import numpy as np

from ripe.data.dataset import Count, DataSet, existing
from ripe.data.scenes import Scene

logger = logging.getLogger(__name__)

PLACES, DIRECTIONS, TIMES = 125, 3, 3
PHOTOS_OF_A_PLACE = DIRECTIONS * TIMES
PHOTOS = PLACES * PHOTOS_OF_A_PLACE


def photo_name(number: int) -> str:
    """File name of photo 1 to 1125."""
    return f"{number:05d}.jpg"


def read(folder: Path) -> list[Scene]:
    """The places, each with its directions as groups of three times; a direction that lacks a photo is left out.

    Raises:
        FileNotFoundError: no direction has all of its photos.
    """
    present = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
    scenes = [_place(folder, place, present) for place in range(PLACES)]
    complete = [scene for scene in scenes if len(scene.groups)]
    directions = sum(len(scene.groups) for scene in complete)
    if not complete:
        raise FileNotFoundError(f"{folder}: holds none of the photos {photo_name(1)} to {photo_name(PHOTOS)}")
    if directions < PLACES * DIRECTIONS:
        missing = PLACES * DIRECTIONS - directions
        logger.warning(
            "%s: %d of %d triples of photos are not whole and left out", folder, missing, PLACES * DIRECTIONS
        )
    return complete


def _place(folder: Path, place: int, present: set[str]) -> Scene:
    first = place * PHOTOS_OF_A_PLACE + 1
    names = [photo_name(first + index) for index in range(PHOTOS_OF_A_PLACE)]
    triples = np.arange(PHOTOS_OF_A_PLACE).reshape(DIRECTIONS, TIMES)
    whole = [all(names[index] in present for index in triple) for triple in triples]
    # Photos of triples that are not whole are dropped: they would be met as unreadable files again and again.
    names = [names[index] for index in triples[whole].ravel()]
    return Scene(f"place {place + 1}", folder, names, np.arange(len(names)).reshape(-1, TIMES))


def count(folder: Path) -> list[Count]:
    """What of the data set is found in a folder."""
    names = [photo_name(number) for number in range(1, PHOTOS + 1)]
    photos = existing(folder / name for name in names)
    tables = existing((folder / name).with_suffix(".csv") for name in names)
    return [Count("photos", photos, PHOTOS), Count("csv files", tables, PHOTOS, needed=False)]


SET = DataSet(
    name="tokyo",
    title="Tokyo 24/7 query photos, version 3, for training",
    url="http://www.ok.ctrl.titech.ac.jp/~torii/project/247/",
    folder="Tokyo_Query_V3",
    kind="form",
    holds=photo_name(1),
    archive="247query_v3.zip",
    aliases=("tokyo247",),
    count=count,
    scenes=lambda folder, _config, _seed: read(folder),
)
