"""Pairs of photos to try the demo on, easy and hard ones: second views are made of bundled photos, or bundled, too.

`ripe/assets/README.md` says where the photos come from.
"""

import math
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps

from ripe.files import replacing
from ripe.geometry.warping import warp
from ripe.images import read_image

VIEW_SIZE = (640, 480)
THUMBNAIL_SIZE = (160, 160)
QUALITY = 90
SEED = 0  # of the noise


@dataclass(frozen=True)
class Made:
    """A second view of a photo, as a camera before it would see it as a picture on a wall.

    Attributes:
        turn: of the camera about its axis, in degrees.
        tilt: of the wall about its vertical axis, in degrees.
        zoom: 1 shows about all of the photo.
        exposure: what the light is multiplied by, 0..1.
        noise: standard deviation, in parts of the brightest value.
    """

    turn: float = 0.0
    tilt: float = 0.0
    zoom: float = 1.0
    exposure: float = 1.0
    noise: float = 0.0

    def of(self, photo: np.ndarray) -> np.ndarray:
        """The view of an H×W×3 uint8 photo, likewise."""
        warped, _ = warp(photo, torch.linalg.inv(self._to_view(photo.shape[1], photo.shape[0])), VIEW_SIZE)
        noise = np.random.default_rng(SEED).normal(0, 255 * self.noise, warped.shape)
        return np.rint((warped * self.exposure + noise).clip(0, 255)).astype(np.uint8)

    def _to_view(self, width: int, height: int) -> torch.Tensor:
        """3×3 float64, from pixels of the photo to those of the view."""
        turn, tilt, distance = math.radians(self.turn), math.radians(self.tilt), max(width, height)
        centred = torch.eye(3, dtype=torch.float64)
        centred[:2, 2] = -torch.tensor([width - 1, height - 1]) / 2
        across = [math.cos(tilt) * math.cos(turn), math.sin(turn), -math.sin(tilt) * math.cos(turn) / distance]
        down = [-math.cos(tilt) * math.sin(turn), math.cos(turn), math.sin(tilt) * math.sin(turn) / distance]
        seen = torch.tensor([across, down, [0, 0, 1]], dtype=torch.float64).T
        seen[:2] *= self.zoom
        moved = torch.eye(3, dtype=torch.float64)
        moved[:2, 2] = torch.tensor([VIEW_SIZE[0] - 1, VIEW_SIZE[1] - 1]) / 2
        return moved @ seen @ centred


@dataclass(frozen=True)
class Example:
    """A pair of photos.

    Attributes:
        title: a few words.
        about: what is easy or hard about it; one sentence.
        credit: whose the photos are, and their licence; Markdown.
        first: name of a bundled photo.
        second: name of a bundled photo, or how the second view of the first one is made.
    """

    title: str
    about: str
    credit: str
    first: str
    second: str | Made


MOTORCYCLE = (
    "“Motorcycle”, [Middlebury stereo 2014](https://vision.middlebury.edu/stereo/data/scenes2014/) by Daniel "
    "Scharstein et al., as distributed with scikit-image (BSD-3-Clause)"
)
ROCKET = "[Falcon 9 before a launch](https://www.flickr.com/photos/spacexphotos/16511594820/) by SpaceX / public domain"
PALACE = (
    "[photo](https://www.flickr.com/photos/danielbuechele/6061409035/) by danielbuechele / "
    "[CC BY 2.0](https://creativecommons.org/licenses/by/2.0/)"
)
COFFEE = "photo by Rachel Michetti, courtesy of Pikolo Espresso Bar / CC0"
BRICK = "[CC0 Textures](https://ambientcg.com), Bricks25, as distributed with scikit-image / CC0"
ASTRONAUT = "[Eileen Collins](https://flic.kr/p/r9qvLn) by NASA / public domain"

EXAMPLES = (
    Example(
        "Two cameras",
        "One scene from two places 19 cm apart.",
        MOTORCYCLE,
        "motorcycle_left.jpg",
        "motorcycle_right.jpg",
    ),
    Example(
        "Dusk, askew",
        "Little to hold on to but lattices, seen at 45° and turned by 20°.",
        ROCKET,
        "rocket.jpg",
        Made(turn=20, tilt=45, zoom=1.1),
    ),
    Example("Zoom ×3", "A third of the photo's width, slightly turned.", PALACE, "palace.jpg", Made(turn=5, zoom=3)),
    Example(
        "At night",
        "A seventh of the light, with noise.",
        COFFEE,
        "coffee.jpg",
        Made(turn=8, zoom=1.15, exposure=0.15, noise=0.03),
    ),
    Example("From the side", "A wall of like bricks, seen at 65°.", BRICK, "brick.jpg", Made(tilt=65, zoom=1.4)),
    Example("Upside down", "The camera is turned by 180°.", ASTRONAUT, "astronaut.jpg", Made(turn=180)),
    Example("Zoom ×6", "A sixth of the photo's width, slightly turned.", PALACE, "palace.jpg", Made(turn=5, zoom=6)),
    Example(
        "Unrelated",
        "Two photos that do not belong together, as the verdict should say.",
        f"{PALACE}; {COFFEE}",
        "palace.jpg",
        "coffee.jpg",
    ),
)


def photos(example: Example, folder: Path) -> tuple[Path, Path]:
    """The files of both photos; a view that has to be made is written into the folder unless it is there already."""
    first = _bundled(example.first)
    if isinstance(example.second, str):
        return first, _bundled(example.second)
    made = folder / f"{first.stem}_{example.title.lower().replace(' ', '_')}.jpg"
    if not made.is_file():
        with replacing(made) as temporary:
            Image.fromarray(example.second.of(read_image(first))).save(temporary, format="JPEG", quality=QUALITY)
    return first, made


def thumbnail(pair: tuple[Path, Path]) -> np.ndarray:
    """Both photos beside each other, small: H×W×3 uint8."""
    small = [np.asarray(ImageOps.fit(Image.fromarray(read_image(path)), THUMBNAIL_SIZE)) for path in pair]
    return np.concatenate(small, axis=1)


def _bundled(name: str) -> Path:
    return Path(str(resources.files("ripe") / "assets" / name))
