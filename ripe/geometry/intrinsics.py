"""Camera matrices of photos, from given numbers or from the focal length that the camera has noted."""

from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import ExifTags
from torch import Tensor

from ripe.images import open_image

DIAGONAL_OF_35MM_FILM = 43.27
"""Millimetres, as COLMAP has it."""


def camera_matrix(numbers: Sequence[float], size: tuple[int, int]) -> Tensor:
    """3×3 float64 camera matrix of a photo, for pixels whose top-left centre is at (0, 0).

    Args:
        numbers: focal length in pixels, the principal point being the centre of the photo; or fx, fy, cx, cy.
        size: (width, height) of the photo.

    Raises:
        ValueError: there are neither one nor four numbers, or a focal length is not above 0.
    """
    if len(numbers) not in (1, 4):
        raise ValueError(f"{len(numbers)} numbers are no camera; give a focal length in pixels, or fx,fy,cx,cy")
    for focal in numbers[: len(numbers) // 2 or 1]:
        if not 0 < focal < float("inf"):
            raise ValueError(f"a focal length is {focal:g} pixels; it must be above 0")
    centre = (size[0] - 1) / 2, (size[1] - 1) / 2
    focal_x, focal_y, x, y = numbers if len(numbers) == 4 else (numbers[0], numbers[0], *centre)
    return torch.tensor([[focal_x, 0, x], [0, focal_y, y], [0, 0, 1]], dtype=torch.float64)


def exif_focal_length(path: str | Path) -> float | None:
    """Focal length in pixels by EXIF's 35 mm equivalent: its share of the film's diagonal, times the photo's diagonal.

    That is how COLMAP reads it. It holds for photos that were neither cropped nor straightened. None where EXIF does
    not say it, or cannot be read.
    """
    with open_image(path) as photo:
        width, height = photo.size
        try:
            equivalent = float(photo.getexif().get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.FocalLengthIn35mmFilm])
        except Exception:  # broken tags make Pillow raise almost anything, and none of it is about the photo
            return None
    if not 0 < equivalent < float("inf"):
        return None
    return equivalent / DIAGONAL_OF_35MM_FILM * (width**2 + height**2) ** 0.5
