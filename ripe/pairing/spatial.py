"""Photos that were taken near each other, by the positions that cameras have noted in EXIF."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import ExifTags

from ripe.photos import open_image

EARTH_RADIUS = 6_371_008.8
"""Metres, the mean one; distances between near places are wrong by up to half a percent, GPS by more."""

Position = tuple[float, float]
"""Latitude and longitude in degrees, north and east positive."""


def exif_position(path: str | Path) -> Position | None:
    """Where a photo was taken; None where EXIF does not say it, or cannot be read.

    Raises:
        FileNotFoundError, ValueError: there is no such file, or it is no photo.
    """
    with open_image(path) as photo:
        try:
            tags = photo.getexif().get_ifd(ExifTags.IFD.GPSInfo)
            latitude = _degrees(tags[ExifTags.GPS.GPSLatitude], tags[ExifTags.GPS.GPSLatitudeRef], "S")
            longitude = _degrees(tags[ExifTags.GPS.GPSLongitude], tags[ExifTags.GPS.GPSLongitudeRef], "W")
        except Exception:  # broken tags make Pillow raise almost anything, and none of it is about the photo
            return None
    known = abs(latitude) <= 90 and abs(longitude) <= 180  # False for NaN, too
    # Receivers that have not found their place yet write zeros.
    return (latitude, longitude) if known and (latitude, longitude) != (0, 0) else None


def nearby(positions: np.ndarray, max_distance: float, neighbours: int) -> Iterator[tuple[int, list[int]]]:
    """For each place the nearest others as the crow flies, nearest first.

    Args:
        positions: N×2, latitude and longitude in degrees.
        max_distance: in metres; what is farther is left out.
        neighbours: how many others at most.

    Returns:
        The index of each place, and the indices of those near it.
    """
    points = _on_the_globe(positions)
    # Places that are near are so along each axis, too: only those in a slice of the globe need be looked at.
    axis = int(np.ptp(points, axis=0).argmax())
    order = points[:, axis].argsort(kind="stable")
    along = points[order, axis]
    for index, point in enumerate(points):
        start = np.searchsorted(along, point[axis] - max_distance, side="left")
        stop = np.searchsorted(along, point[axis] + max_distance, side="right")
        others = order[start:stop]
        others = others[others != index]
        distances = np.linalg.norm(points[others] - point, axis=1)
        nearest = distances.argsort(kind="stable")[:neighbours]
        yield index, others[nearest[distances[nearest] <= max_distance]].tolist()


def _degrees(parts: tuple[float, float, float], reference: str, negative: str) -> float:
    degrees, minutes, seconds = map(float, parts)
    size = degrees + minutes / 60 + seconds / 3600
    return -size if reference.strip("\0 ").upper() == negative else size


def _on_the_globe(positions: np.ndarray) -> np.ndarray:
    """N×3 places in metres from the middle of the earth, of N×2 latitudes and longitudes.

    Straight lines between them are shorter than the way on the ground by a millimetre in 10 km.
    """
    latitude, longitude = np.radians(positions).T
    unit = [np.cos(latitude) * np.cos(longitude), np.cos(latitude) * np.sin(longitude), np.sin(latitude)]
    return EARTH_RADIUS * np.stack(unit, axis=1)
