"""Geometric verification by COLMAP, a pair at a time, and removal of what is no better than chance."""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from ripe.features import GeometryKind, TwoViewGeometry
from ripe.geometry.verdict import judge
from ripe.integrations.colmap import SEED, import_pycolmap, quiet
from ripe.two_views import shrinking

if TYPE_CHECKING:
    import pycolmap

# Between photos of different places, 7 to 13 % of the mutual nearest neighbours agree with the best geometry that
# RANSAC finds (compact and SIFT, 72 pairs of 640 px photos, 43 to 73 inliers): a number of inliers verifies nothing.
MIN_INLIER_RATIO = 0.15
MAX_ERROR = 4.0  # pixels of photos as the extractor saw them; COLMAP's own
# RANSAC as in hloc: mutual nearest neighbours hold more outliers than the matches that COLMAP's defaults expect.
RANSAC = {"max_num_trials": 20_000, "min_inlier_ratio": 0.1, "random_seed": SEED}
CACHED_IMAGES = 256  # whose keypoints are kept
PAIRS_AT_A_TIME = 64  # whose points wait for a free thread

Progress = Callable[[int, int], object]
"""Called with how many pairs are done, and of how many."""


def verify(
    database: Path,
    *,
    seen_side: int | None = None,
    tries: Callable[[str, str], int] = lambda name0, name1: 1,
    progress: Progress = lambda done, total: None,
) -> int:
    """Fit two-view geometries to all matches in a database without any, and store those that are more than chance.

    Args:
        database: COLMAP's, with photos, keypoints and matches.
        seen_side: longer side to which longer photos were shrunk to find keypoints, whose errors grew by as much; None
            if they were not. The inlier threshold of a pair follows the photo that was shrunk more.
        tries: of how many ways in which two photos, by name, were matched the best one's matches are there.
        progress: told how many pairs are done.

    Returns:
        How many pairs have a geometry.
    """
    pycolmap = import_pycolmap()
    # COLMAP's estimation lets go of the interpreter's lock, so threads do run side by side.
    with quiet(), pycolmap.Database.open(database) as opened, ThreadPoolExecutor(os.cpu_count()) as pool:
        cameras = {camera.camera_id: camera for camera in opened.read_all_cameras()}
        images = {image.image_id: image for image in opened.read_all_images()}
        keypoints = lru_cache(CACHED_IMAGES)(opened.read_keypoints)
        identities, _ = opened.read_num_matches()
        pairs = list(map(pycolmap.pair_id_to_image_pair, identities))
        verified = 0
        for start in range(0, len(pairs), PAIRS_AT_A_TIME):
            some = pairs[start : start + PAIRS_AT_A_TIME]
            tasks = [
                pool.submit(
                    _verified,
                    [cameras[images[image].camera_id] for image in pair],
                    [keypoints(image)[:, :2].astype(np.float64) for image in pair],
                    opened.read_matches(*pair),
                    seen_side,
                    tries(*(images[image].name for image in pair)),
                )
                for pair in some
            ]
            for count, (pair, task) in enumerate(zip(some, tasks, strict=True), start + 1):
                if (found := task.result()) is not None:
                    opened.write_two_view_geometry(*pair, found)
                    verified += 1
                progress(count, len(pairs))
    return verified


def _verified(
    cameras: list["pycolmap.Camera"], points: list[np.ndarray], matches: np.ndarray, seen_side: int | None, tries: int
) -> "pycolmap.TwoViewGeometry | None":
    """COLMAP's geometry of two photos; None if it finds none, or one that is no better than chance."""
    max_error = MAX_ERROR * shrinking([(camera.width, camera.height) for camera in cameras], seen_side)
    options = {"min_inlier_ratio": MIN_INLIER_RATIO, "ransac": {**RANSAC, "max_error": max_error}}
    found = import_pycolmap().estimate_two_view_geometry(cameras[0], points[0], cameras[1], points[1], matches, options)
    return None if len(found.inlier_matches) == 0 or _is_chance(found, points, matches, max_error, tries) else found


def _is_chance(
    found: "pycolmap.TwoViewGeometry", points: list[np.ndarray], matches: np.ndarray, max_error: float, tries: int
) -> bool:
    """Whether a geometry that was fitted to K×2 matches of points is no better than chance (see `ripe.judge`)."""
    kinds = import_pycolmap().TwoViewGeometryConfiguration
    planar = found.config in (kinds.PLANAR, kinds.PANORAMIC, kinds.PLANAR_OR_PANORAMIC) or found.F is None
    model = found.H if planar else found.F
    matched = [torch.from_numpy(points[side][matches[:, side].astype(np.int64)]) for side in (0, 1)]
    agreeing = set(map(tuple, found.inlier_matches.tolist()))
    inliers = torch.tensor([tuple(match) in agreeing for match in matches.tolist()], dtype=torch.bool)
    kind: GeometryKind = "homography" if planar else "fundamental"
    geometry = TwoViewGeometry(kind, max_error, torch.from_numpy(np.array(model)), inliers)
    return judge(geometry, *matched).best_of(tries).name == "chance"
