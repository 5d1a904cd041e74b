"""How long each stage of a reconstruction of many photos takes.

    python benchmarks/reconstruction.py --render 500 --pairs sequential retrieval --mapper global incremental
    python benchmarks/reconstruction.py --photos photos/ --pairs retrieval

Rendered photos, 480×360 px, are those of a camera that goes along a wall whose panels, each with a part of one of the
bundled photos, stand at three depths; their true places are known. Printed are seconds of processor and clock, and for
rendered photos how far the cameras are from their places, in steps between two photos, after the best similarity.
"""

import argparse
import tempfile
import time
from collections import defaultdict
from pathlib import Path

import cv2
import numpy as np
import pycolmap
from PIL import Image

import ripe
from ripe.extractors import describer, shrinking
from ripe.folders import photos_below
from ripe.pairing.choice import METHODS, PairChoice
from ripe.pretrained import load, model_settings
from ripe.reconstruction.mapping import MAPPERS
from ripe.reconstruction.pipeline import MappingSettings, Source, reconstruct
from ripe.tables import markdown_table

SIZE = (480, 360)
CAMERA = np.array([[450.0, 0, 239.5], [0, 450, 179.5], [0, 0, 1]])
STEP, PANEL, HEIGHT, DEPTHS, TEXTURE = 0.2, 1.5, 3.0, (0.0, 0.5, 0.25, 0.8), 480  # metres, and pixels of a panel
STAGES = ("extract", "describe", "match", "verify", "map")


def panels(count: int, rng: np.random.Generator) -> list[np.ndarray]:
    """Parts of the bundled photos, no two alike."""
    assets = Path(ripe.__file__).parent / "assets"
    photos = [np.asarray(Image.open(path).convert("RGB")) for path in sorted(assets.glob("*.jpg"))]
    found = []
    for index in range(count):
        photo = photos[index % len(photos)]
        side = int(min(photo.shape[:2]) * rng.uniform(0.4, 0.7))
        y, x = (int(rng.integers(0, length - side)) for length in photo.shape[:2])
        part = np.rot90(photo[y : y + side, x : x + side], int(rng.integers(4)))
        found.append(cv2.resize(np.ascontiguousarray(part), (TEXTURE, 2 * TEXTURE), interpolation=cv2.INTER_AREA))
    return found


def render(folder: Path, count: int, seed: int) -> dict[str, np.ndarray]:
    """Write the photos; their cameras' places by name."""
    rng = np.random.default_rng(seed)
    textures = panels(int(count * STEP / PANEL) + 6, rng)
    places = {}
    for index in range(count):
        centre = np.array([2 + index * STEP, rng.normal(scale=0.05), -2.6 + 0.3 * np.sin(index / 7)])
        rotation = cv2.Rodrigues(np.array([0.03, 0.25 * np.sin(index / 5), 0.03]) * rng.uniform(0.8, 1.2, 3))[0]
        view = np.full((SIZE[1], SIZE[0], 3), 60, dtype=np.uint8)
        for panel in sorted(range(len(textures)), key=lambda panel: -DEPTHS[panel % len(DEPTHS)]):
            corner = np.array([panel * PANEL - 1.0, -HEIGHT / 2, DEPTHS[panel % len(DEPTHS)]])
            if abs(corner[0] + PANEL / 2 - centre[0]) < 5:
                axes = np.array([[PANEL / TEXTURE, 0, 0], [0, HEIGHT / (2 * TEXTURE), 0]]).T
                homography = CAMERA @ rotation @ np.column_stack([axes, corner - centre])
                inside = np.ones((2 * TEXTURE, TEXTURE), np.uint8)
                seen = cv2.warpPerspective(inside, homography, SIZE, flags=cv2.INTER_NEAREST) > 0
                view[seen] = cv2.warpPerspective(textures[panel], homography, SIZE, flags=cv2.INTER_AREA)[seen]
        name = f"view{index:05}.jpg"
        Image.fromarray(view).save(folder / name, quality=92)
        places[name] = centre
    return places


def misplaced(model: pycolmap.Reconstruction, places: dict[str, np.ndarray]) -> float:
    """Median distance of cameras from their places, in steps, after the similarity that fits best."""
    images = [model.image(identity) for identity in model.reg_image_ids()]
    found = np.array([image.projection_center() for image in images])
    true = np.array([places[image.name] for image in images])
    fitted = pycolmap.estimate_sim3d(found, true)
    moved = np.array([fitted * point for point in found])
    return float(np.median(np.linalg.norm(moved - true, axis=1))) / STEP


class Stages:
    """Seconds of each stage, of the clock and of the processor, from when it is first reported to the next one."""

    def __init__(self) -> None:
        self.seconds: dict[str, np.ndarray] = defaultdict(lambda: np.zeros(2))
        self._stage, self._since = "extract", self._now()

    def __call__(self, stage: str, done: int = 0, total: int = 0) -> None:
        now = self._now()
        self.seconds[self._stage] += now - self._since
        self._stage, self._since = stage, now

    def _now(self) -> np.ndarray:
        return np.array([time.perf_counter(), time.process_time()])


def main() -> None:
    """Read the command line, reconstruct and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=Path)
    parser.add_argument("--render", type=int, default=500)
    parser.add_argument("--pairs", nargs="+", choices=METHODS, default=["sequential", "retrieval"])
    parser.add_argument("--neighbours", type=int, default=5)
    parser.add_argument("--mapper", nargs="+", choices=MAPPERS, default=["global"])
    parser.add_argument("--max-keypoints", type=int, default=512)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    model = load(device="cpu")
    extract = shrinking(describer(model, max_keypoints=arguments.max_keypoints), 1600)
    source = Source("compact", extract, model_settings(model), seen_side=1600)
    rows = []
    with tempfile.TemporaryDirectory() as scratch:
        folder = arguments.photos or Path(scratch) / "photos"
        places = {}
        if arguments.photos is None:
            folder.mkdir()
            places = render(folder, arguments.render, arguments.seed)
        for mapper in arguments.mapper:
            stages, output = Stages(), Path(scratch) / "model"
            choice = PairChoice(arguments.pairs, arguments.neighbours)
            settings = MappingSettings(mapper, single_camera=True)
            summary = reconstruct(
                folder, photos_below(folder), source, output, choice, settings=settings, rotations="none", report=stages
            )
            stages("end")
            row = [mapper, f"{summary.registered} of {summary.photos}", f"{summary.verified_pairs} of {summary.pairs}"]
            row += [str(summary.points), f"{summary.mean_reprojection_error or float('nan'):.2f} px"]
            best = pycolmap.Reconstruction(output / "sparse") if places and summary.registered else None
            row.append("–" if best is None else f"{misplaced(best, places):.3f}")
            rows.append(row + [" / ".join(f"{value:.0f}" for value in stages.seconds[stage]) for stage in STAGES])
    header = ["mapper", "photos", "verified pairs", "points", "error", "misplaced by"]
    print(markdown_table([*header, *(f"{stage}, s" for stage in STAGES)], rows))


if __name__ == "__main__":
    main()
