"""Which photos of a scene's folder overlap, found by a network's own matches: no label beyond the folder is used.

A folder says "same scene", which two photos of it need not show the same part of. For every two photos of a folder the
network's matches tell whether they overlap, how hard they are for it, and whether one homography joins them (a camera
that stood still or only turned, or a plane), in which case the pair teaches as exactly as a photo and its own warp.
"""

import json
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import combinations
from pathlib import Path

import numpy as np
from torch import Tensor

from ripe.data.scenes import Scene
from ripe.features import Features
from ripe.files import replacing
from ripe.geometry.robust import estimate_geometry
from ripe.matching import match

MAX_EPIPOLAR_ERROR = 1.5
MAX_TRANSFER_ERROR = 3.0
# Inliers that chance does not give: two unrelated photos with 1024 keypoints have 23 on average, 36 in one of a hundred.
CERTAIN = 45
# With fewer than CERTAIN, both photos must have a certain pair with the same third one.
SUPPORTED = 28
# One homography joins two photos if it explains this share of the inliers of their epipolar geometry.
PLANAR_SHARE = 0.85
LEAST_PLANAR = 30
# A camera stood still if this share of all inliers has not moved.
STILL_SHARE = 0.5
LEAST_STILL = 15


@dataclass(frozen=True)
class PhotoPair:
    """Two photos of one scene and what a network makes of them.

    Attributes:
        image0: name of the first photo, relative to the folder of scenes.
        image1: name of the second one.
        matches: mutual nearest neighbours.
        inliers: of them that agree with one epipolar geometry.
        planar: of them that agree with one homography.
        still: of them that have not moved by more than the homography's threshold.
        homography: 3×3, pixels of the first photo to pixels of the second one; None unless one joins the photos.
    """

    image0: str
    image1: str
    matches: int
    inliers: int
    planar: int
    still: int
    homography: tuple[tuple[float, ...], ...] | None = None

    @property
    def scene(self) -> str:
        """Name of the scene's folder."""
        return self.image0.split("/", 1)[0]

    @property
    def inlier_share(self) -> float:
        """Share of the matches that are inliers, 0..1: low for pairs that are hard."""
        return self.inliers / max(self.matches, 1)


def compare(names: tuple[str, str], features0: Features, features1: Features) -> PhotoPair:
    """Match two photos and fit both kinds of geometry."""
    matches = match(features0, features1)
    points = matches.points(features0, features1)
    epipolar = estimate_geometry("fundamental", *points, max_error=MAX_EPIPOLAR_ERROR, max_iterations=1000)
    planar = estimate_geometry("homography", *points, max_error=MAX_TRANSFER_ERROR, max_iterations=1000)
    inliers = max(epipolar.num_inliers, planar.num_inliers)
    joins = planar.num_inliers >= max(LEAST_PLANAR, PLANAR_SHARE * inliers)
    still = int(((points[0] - points[1]).norm(dim=1) < MAX_TRANSFER_ERROR).sum())
    homography = _as_tuples(planar.model) if joins else None
    return PhotoPair(*names, len(matches), inliers, planar.num_inliers, still, homography)


def mine(
    scenes: Iterable[Scene], extract: Callable[[Path], Features], say: Callable[[str], None] = lambda _: None
) -> list[PhotoPair]:
    """All pairs of photos of each scene; photos that cannot be read are told to `say` and left out."""
    pairs: list[PhotoPair] = []
    for scene in scenes:
        features: dict[str, Features] = {}
        for index, name in enumerate(scene.names):
            try:
                features[f"{scene.name}/{name}"] = extract(scene.path(index))
            except (OSError, ValueError) as error:
                say(str(error))
        pairs += [compare(names, features[names[0]], features[names[1]]) for names in combinations(features, 2)]
    return pairs


def choose(pairs: Sequence[PhotoPair], most_of_scene: int = 30) -> list[PhotoPair]:
    """The pairs to train on: those that overlap beyond doubt, at most `most_of_scene` of a scene, hard ones first.

    A pair overlaps if it has more inliers than chance gives, or if both photos overlap with the same third one. In the
    folder of a camera that stood still all pairs are joined by the identity, those too dark or too changed to match
    included.
    """
    by_scene: dict[str, list[PhotoPair]] = defaultdict(list)
    for pair in pairs:
        by_scene[pair.scene].append(pair)
    chosen: list[PhotoPair] = []
    for each in by_scene.values():
        good = _as_still(each) if _stood_still(each) else _overlapping(each)
        chosen += sorted(good, key=lambda pair: pair.inlier_share)[:most_of_scene]
    return chosen


def write_pairs(path: str | Path, pairs: Sequence[PhotoPair]) -> None:
    """Write pairs for `data.pairs`, one a line within a JSON list."""
    lines = ",\n".join(json.dumps(asdict(pair), allow_nan=False) for pair in pairs)
    with replacing(path) as temporary:
        temporary.write_text(f"[\n{lines}\n]\n", encoding="utf-8")


def read_pairs(path: str | Path) -> list[PhotoPair]:
    """Read what `write_pairs` wrote.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no such list; the message names the file.
    """
    try:
        rows = json.loads(Path(path).read_text(encoding="utf-8"))
        return [replace(PhotoPair(**row), homography=_as_tuples(row["homography"])) for row in rows]
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(f"{path}: is no list of pairs as `ripe data mine` writes it ({error})") from error


def _stood_still(pairs: list[PhotoPair]) -> bool:
    still = [pair.still >= max(LEAST_STILL, STILL_SHARE * pair.inliers) for pair in pairs]
    return sum(still) > len(pairs) / 2


def _as_still(pairs: list[PhotoPair]) -> list[PhotoPair]:
    identity = _as_tuples(np.eye(3))
    return [pair if pair.homography is not None else replace(pair, homography=identity) for pair in pairs]


def _overlapping(pairs: list[PhotoPair]) -> list[PhotoPair]:
    certain = [pair for pair in pairs if pair.inliers >= CERTAIN or pair.homography is not None]
    partners: dict[str, set[str]] = defaultdict(set)
    for pair in certain:
        partners[pair.image0].add(pair.image1)
        partners[pair.image1].add(pair.image0)
    known = {(pair.image0, pair.image1) for pair in certain}
    supported = [
        pair
        for pair in pairs
        if (pair.image0, pair.image1) not in known
        and pair.inliers >= SUPPORTED
        and partners[pair.image0] & partners[pair.image1]
    ]
    return certain + supported


def _as_tuples(matrix: Tensor | np.ndarray | Sequence[Sequence[float]] | None) -> tuple[tuple[float, ...], ...] | None:
    return None if matrix is None else tuple(tuple(row) for row in np.asarray(matrix, dtype=np.float64).tolist())
