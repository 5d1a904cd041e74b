"""COLMAP by pycolmap: our keypoints, matches and cameras into its database.

COLMAP works on the pixels as they are stored, without EXIF orientation, and puts the centre of the top-left pixel at
(0.5, 0.5). Both differences to our keypoints are settled here, nowhere else.
"""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from ripe import checks
from ripe.features import Features
from ripe.files import replacing
from ripe.images import open_image, orientation, stored_size

PIXEL_CENTRE = 0.5
SEED = 0
BOUNDS = 0.1, 10.0, 1.0
"""Of COLMAP's mappers: least and most focal length in longer sides of a photo, and most of a distortion parameter."""


@dataclass(frozen=True)
class KnownCamera:
    """The camera that took all photos.

    Attributes:
        numbers: without a model the focal length in pixels, the principal point being the photo's centre, or fx, fy, cx
            and cy in pixels of the upright photo, the centre of the top-left pixel at (0, 0), as for
            `ripe.geometry.intrinsics.camera_matrix`; with one its parameters as in COLMAP's cameras.txt.
        model: COLMAP's name of a camera model, such as OPENCV; None for a camera without distortion.
    """

    numbers: tuple[float, ...]
    model: str | None = None

    def stored(self, size: tuple[int, int], orientation: int) -> tuple[str, tuple[float, ...]]:
        """COLMAP's model and parameters for a stored photo of (width, height) `size` and EXIF's `orientation`.

        Raises:
            ValueError: COLMAP has no such model, it has another number of parameters, or they are none of a camera for
                such a photo.
        """
        model, numbers = self._of_colmap(size, orientation)
        pycolmap = import_pycolmap()
        if model not in set(pycolmap.CameraModelId.__members__) - {"INVALID"}:
            raise ValueError(f"{self}: COLMAP has no camera model {model}; it has SIMPLE_RADIAL and OPENCV")
        camera = pycolmap.Camera(model=model, width=size[0], height=size[1], params=numbers)
        if not camera.verify_params():
            named = camera.params_info.split(", ")
            raise ValueError(f"{self}: the model has {len(named)} numbers, not {len(numbers)}: {camera.params_info}")
        if not np.isfinite(numbers).all() or camera.has_bogus_params(*BOUNDS):
            raise ValueError(
                f"{self} is no camera of a photo of {size[0]}×{size[1]} pixels: the focal length must be "
                f"{BOUNDS[0]:g} to {BOUNDS[1]:g} times the longer side, the principal point in the photo"
            )
        return model, numbers

    def __str__(self) -> str:
        numbers = ",".join(f"{number:g}" for number in self.numbers)
        return numbers if self.model is None else f"{self.model}:{numbers}"

    def _of_colmap(self, size: tuple[int, int], orientation: int) -> tuple[str, tuple[float, ...]]:
        if self.model is not None:
            return self.model, self.numbers
        if len(self.numbers) == 1:
            return "SIMPLE_PINHOLE", (*self.numbers, size[0] / 2, size[1] / 2)
        if len(self.numbers) != 4:
            raise ValueError(
                f"{len(self.numbers)} numbers are no camera; give a focal length in pixels, or fx,fy,cx,cy"
            )
        focal_x, focal_y, *centre = self.numbers
        if orientation >= 5:
            size, focal_x, focal_y = size[::-1], focal_y, focal_x
        [[x, y]] = _stored_points(np.array([centre]), size, orientation) + PIXEL_CENTRE
        return "PINHOLE", (focal_x, focal_y, float(x), float(y))


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
    known_camera: KnownCamera | None = None,
) -> list[str]:
    """Write a new COLMAP database of photos, keypoints and matches; descriptors stay outside.

    Cameras are COLMAP's: focal length from EXIF where it is there, else 1.2 times the longer side; photos whose EXIF
    names the same camera and lens setting share one. A camera that is known is COLMAP's prior.

    Args:
        database: the file; an old one is replaced.
        folder: the image names are relative to it.
        features: by image name, keypoints in pixels of the upright photo.
        matches: pairs of image names, each with K×2 indices of keypoints; photos without features must not occur.
        single_camera: all photos of one size share one camera, whatever EXIF says.
        known_camera: took all photos.

    Returns:
        The images that COLMAP cannot read; they and their matches are left out.

    Raises:
        ValueError: features or matches of an image are none that belong together, such as indices beyond its keypoints;
            COLMAP would read beyond its arrays; or the known camera is none of these photos.
    """
    for name, found in features.items():
        checks.features(found, f"{name}: what was extracted")
    pycolmap = import_pycolmap()
    stored = {name: _stored_size(folder / name) for name in features}
    with replacing(database) as new:
        pycolmap.Database.open(new).close()
        for names, options in _camera_groups(stored, single_camera, known_camera):
            mode = pycolmap.CameraMode.SINGLE if single_camera or options else pycolmap.CameraMode.AUTO
            with quiet():
                pycolmap.import_images(new, folder, mode, image_names=names, options=options)
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


def stored_keypoints(features: Features, orientation: int) -> np.ndarray:
    """Keypoints N×2 float32 in the pixels of the stored file, the centre of the top-left one at (0, 0).

    Args:
        features: in pixels of the upright photo.
        orientation: EXIF's, 1 to 8.
    """
    keypoints = features.keypoints.cpu().numpy().astype(np.float32)
    return _stored_points(keypoints, features.image_size, orientation)


def _with_shapes(features: Features, orientation: int) -> np.ndarray:
    """COLMAP's own six columns, N×6 float32: x, y, and row by row the matrix from a unit square to the keypoint.

    A keypoint is an upright square of `Features.scales` pixels, turned as the stored pixels are.
    """
    corners = np.array([[0, 0], [1, 0], [0, 1]], dtype=np.float32)
    origin, right, down = _stored_points(corners, (1, 1), orientation)
    axes = np.stack([right - origin, down - origin], axis=1).reshape(1, 4)
    shapes = features.scales.cpu().numpy().astype(np.float32)[:, None] * axes
    return np.hstack([stored_keypoints(features, orientation) + PIXEL_CENTRE, shapes])


def check_camera(camera: KnownCamera, folder: Path, names: Iterable[str]) -> None:
    """Raise a `ValueError` if photos, those that can be read, cannot have been taken by one camera.

    That is if COLMAP has no such camera, or if its principal point is given and the photos have several sizes.
    """
    sizes: dict[tuple[int, int], str] = {}
    for name in names:
        try:
            size, turned = _stored_size(folder / name)
        except (OSError, ValueError):
            continue
        camera.stored(size, turned)
        sizes.setdefault(size[::-1] if camera.model is None and turned >= 5 else size, name)
    if len(camera.numbers) > 1 and len(sizes) > 1:
        seen = ", ".join(f"{name} of {width}×{height}" for (width, height), name in list(sizes.items())[:2])
        raise ValueError(f"one principal point cannot hold for photos of several sizes ({seen}); give a focal length")


def _stored_points(points: np.ndarray, size: tuple[int, int], orientation: int) -> np.ndarray:
    """N×2 points of an upright photo of (width, height) `size` in the pixels of its stored file."""
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


def _camera_groups(
    stored: Mapping[str, tuple[tuple[int, int], int]], single_camera: bool, known_camera: KnownCamera | None
) -> list[tuple[list[str], dict[str, str]]]:
    """The photos that are imported together, a camera of COLMAP's having one size, and the options that name it."""
    if not single_camera and known_camera is None:
        return [(list(stored), {})]
    groups: dict[Any, list[str]] = {}
    for name, (size, turned) in stored.items():
        camera = None if known_camera is None else known_camera.stored(size, turned)
        groups.setdefault((size, camera), []).append(name)
    return [(names, _reader_options(camera)) for (_, camera), names in groups.items()]


def _reader_options(camera: tuple[str, tuple[float, ...]] | None) -> dict[str, str]:
    if camera is None:
        return {}
    return {"camera_model": camera[0], "camera_params": ", ".join(f"{number:.17g}" for number in camera[1])}


@contextmanager
def quiet() -> Iterator[None]:
    """Without COLMAP's log on the screen; what matters is returned or raised."""
    logging = import_pycolmap().logging
    level = logging.minloglevel
    logging.minloglevel = logging.FATAL.value
    try:
        yield
    finally:
        logging.minloglevel = level
