"""COLMAP by pycolmap: our keypoints and matches into its database, geometric verification, incremental mapping.

COLMAP works on the pixels as they are stored, without EXIF orientation, and puts the centre of the top-left pixel at
(0.5, 0.5). Both differences to our keypoints are settled in `stored_keypoints` and `write_database`, nowhere else.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

import numpy as np
import torch

from ripe import checks
from ripe.features import Features, GeometryKind, TwoViewGeometry
from ripe.files import replacing
from ripe.geometry.verdict import judge
from ripe.images import open_image, orientation, stored_size

if TYPE_CHECKING:
    import pycolmap

PIXEL_CENTRE = 0.5
SEED = 0
# Between photos of different places, 7 to 13 % of the mutual nearest neighbours agree with the best geometry that
# RANSAC finds (compact and SIFT, 72 pairs of 640 px photos, 43 to 73 inliers): a number of inliers verifies nothing.
MIN_INLIER_RATIO = 0.15
# RANSAC as in hloc: mutual nearest neighbours hold more outliers than the matches that COLMAP's defaults expect.
CACHED_IMAGES = 256  # whose keypoints are kept while pairs are judged
MAX_ERROR = 4.0  # pixels; COLMAP's own
VERIFICATION = {
    "min_inlier_ratio": MIN_INLIER_RATIO,
    "ransac": {"max_error": MAX_ERROR, "max_num_trials": 20_000, "min_inlier_ratio": 0.1, "random_seed": SEED},
}
# The fallback registers photos with hardly any 3D point to support them: on photos of an arch, one that was upside
# down "succeeded" with none at all.
MAPPING = {"random_seed": SEED, "structure_less_registration_fallback": False}


def import_pycolmap() -> ModuleType:
    """The package pycolmap.

    OpenCV comes first: where pycolmap 4.2 is imported before OpenCV 5, `cv2.imwrite` of a PNG ends the process.

    Raises:
        ValueError: it is not installed; the message says how to.
    """
    import cv2  # noqa: F401

    try:
        import pycolmap
    except ImportError as error:
        raise ValueError(f"COLMAP is needed: pip install 'ripe-keypoints[colmap]' ({error})") from error
    return pycolmap


def write_database(
    database: Path,
    folder: Path,
    features: Mapping[str, Features],
    matches: Iterable[tuple[tuple[str, str], np.ndarray]],
    *,
    single_camera: bool = False,
) -> list[str]:
    """Write a new COLMAP database of photos, keypoints and matches; descriptors stay outside.

    Cameras are COLMAP's: focal length from EXIF where it is there, else 1.2 times the longer side; photos whose EXIF
    names the same camera and lens setting share one.

    Args:
        database: the file; an old one is replaced.
        folder: the image names are relative to it.
        features: by image name, keypoints in pixels of the upright photo.
        matches: pairs of image names, each with K×2 indices of keypoints; photos without features must not occur.
        single_camera: all photos of one size share one camera, whatever EXIF says.

    Returns:
        The images that COLMAP cannot read; they and their matches are left out.

    Raises:
        ValueError: features or matches of an image are none that belong together, such as indices beyond its keypoints;
            COLMAP would read beyond its arrays.
    """
    for name, found in features.items():
        checks.features(found, f"{name}: what was extracted")
    pycolmap = import_pycolmap()
    stored = {name: _stored_size(folder / name) for name in features}
    with replacing(database) as new:
        pycolmap.Database.open(new).close()
        for names in _camera_groups(stored, single_camera):
            mode = pycolmap.CameraMode.SINGLE if single_camera else pycolmap.CameraMode.AUTO
            with _quiet(pycolmap):
                pycolmap.import_images(new, folder, mode, image_names=names)
        with pycolmap.Database.open(new) as opened:
            identities = {image.name: image.image_id for image in opened.read_all_images()}
            for name, identity in identities.items():
                opened.write_keypoints(identity, _with_shapes(features[name], stored[name][1]))
            for (name0, name1), indices in matches:
                if name0 in identities and name1 in identities and len(indices):
                    sizes = len(features[name0]), len(features[name1])
                    checked = checks.index_pairs(indices, f"{name0} and {name1}: what was matched", sizes)
                    opened.write_matches(identities[name0], identities[name1], checked.astype(np.uint32))
        for old in database.parent.glob(f"{database.name}*"):  # with what SQLite keeps beside it
            old.unlink()
    return [name for name in features if name not in identities]


def verify(database: Path, tries: Callable[[str, str], int] = lambda name0, name1: 1) -> int:
    """Fit two-view geometries to all matches in the database, and remove those that are no better than chance.

    Args:
        database: with photos, keypoints and matches.
        tries: of how many ways in which two photos were matched the best one's matches are there.

    Returns:
        How many pairs pass.
    """
    pycolmap = import_pycolmap()
    with _quiet(pycolmap):
        pycolmap.geometric_verification(database, two_view_geometry_options=VERIFICATION)
    with pycolmap.Database.open(database) as opened:
        # COLMAP's own count includes the pairs that it has rejected.
        identities, _ = opened.read_two_view_geometry_num_inliers()
        keypoints = lru_cache(CACHED_IMAGES)(opened.read_keypoints)
        found = map(pycolmap.pair_id_to_image_pair, identities)
        names = {image.image_id: image.name for image in opened.read_all_images()}
        by_chance = [
            (image0, image1)
            for image0, image1 in found
            if _is_chance(opened, keypoints, image0, image1, tries(names[image0], names[image1]))
        ]
        for pair in by_chance:
            opened.delete_two_view_geometry(*pair)
            opened.delete_inlier_matches(*pair)
    return len(identities) - len(by_chance)


def _is_chance(
    opened: "pycolmap.Database", keypoints: Callable[[int], np.ndarray], image0: int, image1: int, tries: int
) -> bool:
    """Whether the two-view geometry of two images is no better than chance (see `ripe.judge`)."""
    found = opened.read_two_view_geometry(image0, image1)
    kinds = import_pycolmap().TwoViewGeometryConfiguration
    planar = found.config in (kinds.PLANAR, kinds.PANORAMIC, kinds.PLANAR_OR_PANORAMIC) or found.F is None
    model = found.H if planar else found.F
    indices = opened.read_matches(image0, image1).astype(np.int64)
    points = [
        torch.from_numpy(keypoints(image)[rows, :2].astype(np.float64))
        for image, rows in ((image0, indices[:, 0]), (image1, indices[:, 1]))
    ]
    matched = {(int(first), int(second)) for first, second in found.inlier_matches}
    inliers = torch.tensor([(first, second) in matched for first, second in indices.tolist()], dtype=torch.bool)
    kind: GeometryKind = "homography" if planar else "fundamental"
    geometry = TwoViewGeometry(kind, MAX_ERROR, torch.from_numpy(np.array(model)), inliers)
    return judge(geometry, *points).best_of(tries).name == "chance"


def map_incrementally(
    database: Path,
    folder: Path,
    scratch: Path,
    registered: Callable[[int], object] = lambda count: None,
    *,
    single_threaded: bool = False,
) -> list["pycolmap.Reconstruction"]:
    """COLMAP's incremental mapping of a verified database.

    Args:
        database: with photos, keypoints and verified matches.
        folder: of the photos, from which points take their colours.
        scratch: an empty folder for COLMAP's intermediate files.
        registered: called with the number of newly registered photos.
        single_threaded: with several threads, the sums of a bundle adjustment, and so all that follows, depend on which
            of them is first.

    Returns:
        The models, that with most photos first; none if no pair of photos is a good start.
    """
    pycolmap = import_pycolmap()
    with _quiet(pycolmap):
        models = pycolmap.incremental_mapping(
            database,
            folder,
            scratch,
            options={**MAPPING, "num_threads": 1} if single_threaded else MAPPING,
            initial_image_pair_callback=lambda: registered(2),
            next_image_callback=lambda: registered(1),
        )
    return sorted(models.values(), key=lambda model: (-model.num_reg_images(), -model.num_points3D()))


def stored_keypoints(features: Features, orientation: int) -> np.ndarray:
    """Keypoints N×2 float32 in the pixels of the stored file, the centre of the top-left one at (0, 0).

    Args:
        features: in pixels of the upright photo.
        orientation: EXIF's, 1 to 8.
    """
    return _to_stored(features.keypoints.cpu().numpy().astype(np.float32), features.image_size, orientation)


def _with_shapes(features: Features, orientation: int) -> np.ndarray:
    """COLMAP's own six columns, N×6 float32: x, y, and row by row the matrix from a unit square to the keypoint.

    A keypoint is an upright square of `Features.scales` pixels, turned as the stored pixels are.
    """
    corners = np.array([[0, 0], [1, 0], [0, 1]], dtype=np.float32)
    origin, right, down = _to_stored(corners, (1, 1), orientation)
    axes = np.stack([right - origin, down - origin], axis=1).reshape(1, 4)
    shapes = features.scales.cpu().numpy().astype(np.float32)[:, None] * axes
    return np.hstack([stored_keypoints(features, orientation) + PIXEL_CENTRE, shapes])


def _to_stored(points: np.ndarray, size: tuple[int, int], orientation: int) -> np.ndarray:
    """N×2 points of the upright photo of (width, height) `size`, in the stored pixels."""
    width, height = size
    if orientation >= 5:
        points, width, height = points[:, ::-1], height, width
    x, y = points[:, 0], points[:, 1]
    if orientation in (2, 3, 7, 8):
        x = width - 1 - x
    if orientation in (3, 4, 6, 7):
        y = height - 1 - y
    return np.stack([x, y], axis=1)


def _stored_size(path: Path) -> tuple[tuple[int, int], int]:
    """(width, height) of the stored file and its EXIF orientation."""
    with open_image(path) as image:
        return stored_size(image), orientation(image)


def _camera_groups(stored: Mapping[str, tuple[tuple[int, int], int]], single_camera: bool) -> list[list[str]]:
    """The photos that are imported together: a camera of COLMAP's has one size."""
    if not single_camera:
        return [list(stored)]
    groups: dict[tuple[int, int], list[str]] = {}
    for name, (size, _) in stored.items():
        groups.setdefault(size, []).append(name)
    return list(groups.values())


@contextmanager
def _quiet(pycolmap: ModuleType) -> Iterator[None]:
    """Without COLMAP's log on the screen; what matters is returned or raised."""
    level = pycolmap.logging.minloglevel
    pycolmap.logging.minloglevel = pycolmap.logging.FATAL.value
    try:
        yield
    finally:
        pycolmap.logging.minloglevel = level
