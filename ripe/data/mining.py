"""Which photos of a scene's folder overlap, found by a network's own matches: no label beyond the folder is used.

A folder says "same scene", which two photos of it need not show the same part of. For every two photos of a folder the
network's matches tell whether they overlap, how hard they are for it, and whether one homography joins them (a camera
that stood still or only turned, or a plane), in which case the pair teaches as exactly as a photo and its own warp.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from itertools import combinations

import numpy as np
import torch

from ripe.data.photo_pairs import PhotoPair, as_tuples
from ripe.data.scenes import Scene
from ripe.features import Features
from ripe.geometry.homography import apply_homography
from ripe.geometry.robust import estimate_geometry
from ripe.matching import match
from ripe.model import RIPE

MAX_KEYPOINTS = 1024
MAX_EPIPOLAR_ERROR = 1.5
MAX_TRANSFER_ERROR = 3.0
# Inliers that chance does not give: two unrelated photos with 1024 keypoints have 23 on average, 36 in one of 100.
CERTAIN = 45
# With fewer than CERTAIN, both photos must have a certain pair with the same third one.
SUPPORTED = 28
# One homography joins two photos if it explains this share of the inliers of their epipolar geometry.
PLANAR_SHARE = 0.85
LEAST_PLANAR = 30
# Photos joined by way of a third one must share this part of the first one.
LEAST_OVERLAP = 0.3


def compare(names: tuple[str, str], features0: Features, features1: Features) -> PhotoPair:
    """Match two photos and fit both kinds of geometry."""
    matches = match(features0, features1)
    points = matches.points(features0, features1)
    epipolar = estimate_geometry("fundamental", *points, max_error=MAX_EPIPOLAR_ERROR, max_iterations=1000)
    planar = estimate_geometry("homography", *points, max_error=MAX_TRANSFER_ERROR, max_iterations=1000)
    inliers = max(epipolar.num_inliers, planar.num_inliers)
    joins = planar.num_inliers >= max(LEAST_PLANAR, PLANAR_SHARE * inliers)
    homography = as_tuples(planar.model) if joins else None
    sizes = features0.image_size, features1.image_size
    return PhotoPair(*names, len(matches), inliers, planar.num_inliers, *sizes, homography)


def mine(scenes: Iterable[Scene], model: RIPE, say: Callable[[str], None] = lambda _: None) -> list[PhotoPair]:
    """All pairs of photos of each scene; photos that cannot be read are told to `say` and left out."""
    pairs: list[PhotoPair] = []
    for scene in scenes:
        paths = [scene.path(index) for index in range(len(scene))]
        stream = model.extract_stream(paths, max_keypoints=MAX_KEYPOINTS, failed=lambda _, error: say(str(error)))
        features = {f"{scene.name}/{scene.names[index]}": found.to("cpu") for index, found in stream}
        pairs += [compare(names, features[names[0]], features[names[1]]) for names in combinations(features, 2)]
    return pairs


def choose(pairs: Sequence[PhotoPair], most_of_scene: int = 30) -> list[PhotoPair]:
    """The pairs to train on: those that overlap beyond doubt, at most `most_of_scene` of a scene, hard ones first.

    A pair overlaps if it has more inliers than chance gives, or if homographies join both photos to the same third
    one (a camera that stood still, at another time of day): then it need not match at all. With some inliers it is
    enough that both overlap with the same third one.
    """
    by_scene: dict[str, list[PhotoPair]] = defaultdict(list)
    for pair in pairs:
        by_scene[pair.scene].append(pair)
    chosen: list[PhotoPair] = []
    for each in by_scene.values():
        chosen += sorted(_overlapping(each), key=lambda pair: pair.inlier_share)[:most_of_scene]
    return chosen


def _overlapping(pairs: list[PhotoPair]) -> list[PhotoPair]:
    certain = {(pair.image0, pair.image1) for pair in pairs if pair.inliers >= CERTAIN or pair.homography}
    partners: dict[str, set[str]] = defaultdict(set)
    for image0, image1 in certain:
        partners[image0].add(image1)
        partners[image1].add(image0)
    links = _links(pairs)
    found = []
    for pair in pairs:
        if (pair.image0, pair.image1) in certain:
            found.append(pair)
            continue
        thirds = partners[pair.image0] & partners[pair.image1]
        composed = _by_way_of(thirds, links, pair)
        if composed is not None:
            found.append(replace(pair, homography=composed))
        elif thirds and pair.inliers >= SUPPORTED:
            found.append(pair)
    return found


def _links(pairs: list[PhotoPair]) -> dict[tuple[str, str], tuple[int, np.ndarray]]:
    """For each two photos that a homography joins, either way round: its inliers, and the homography."""
    links = {}
    for pair in pairs:
        if pair.homography is not None:
            there = np.array(pair.homography)
            links[pair.image0, pair.image1] = pair.planar, there
            links[pair.image1, pair.image0] = pair.planar, np.linalg.inv(there)
    return links


def _by_way_of(
    thirds: set[str], links: dict[tuple[str, str], tuple[int, np.ndarray]], pair: PhotoPair
) -> tuple[tuple[float, ...], ...] | None:
    """The homography over the third photo that is joined best to both; None if the photos then hardly overlap."""
    ways = [
        (min(links[pair.image0, third][0], links[third, pair.image1][0]), third)
        for third in sorted(thirds)
        if (pair.image0, third) in links and (third, pair.image1) in links
    ]
    if not ways:
        return None
    third = max(ways)[1]
    composed = links[third, pair.image1][1] @ links[pair.image0, third][1]
    return as_tuples(composed / composed[2, 2]) if _overlap(composed, pair) >= LEAST_OVERLAP else None


def _overlap(homography: np.ndarray, pair: PhotoPair) -> float:
    """Share of the first photo that lies in the second one."""
    grid = np.stack(np.meshgrid(*(np.linspace(0, side - 1, 20) for side in pair.size0)), axis=-1).reshape(-1, 2)
    landed = apply_homography(torch.from_numpy(homography), torch.from_numpy(grid)).numpy()
    return float(((landed >= 0) & (landed <= np.array(pair.size1) - 1)).all(axis=1).mean())
