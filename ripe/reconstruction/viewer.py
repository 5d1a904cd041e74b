"""A model to look at: one HTML file with its cameras and coloured points, for any browser, without a network."""

import html
import json
from base64 import b64encode
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import pycolmap

CAMERA_SIZE = 0.06
"""Height of a drawn camera; most points, and cameras that are not far from them, reach 1 from the middle."""


def write_viewer(path: Path, model: "pycolmap.Reconstruction", title: str) -> None:
    """Write a page that shows a model, to be turned by the mouse, fingers or keys.

    Args:
        path: of the page.
        model: COLMAP's.
        title: shown above.
    """
    points = np.array([point.xyz for point in model.points3D.values()]).reshape(-1, 3)
    colours = np.array([point.color for point in model.points3D.values()], dtype=np.uint8).reshape(-1, 3)
    images = [model.image(identity) for identity in model.reg_image_ids()]
    upright, middle, reach = _standing(images, points)

    def placed(places: np.ndarray) -> np.ndarray:
        return (places - middle) @ upright.T / reach

    cameras = [
        {"name": image.name, "corners": placed(_corners(image, CAMERA_SIZE * reach)).round(5).tolist()}
        for image in sorted(images, key=lambda image: image.name)
    ]
    scene = {
        "cameras": cameras,
        "points": b64encode(placed(points).astype("<f4").tobytes()).decode(),
        "colours": b64encode(colours.tobytes()).decode(),
    }
    page = files("ripe.reconstruction").joinpath("viewer.html").read_text(encoding="utf-8")
    # A name that holds a tag must not end the script.
    text = json.dumps(scene, separators=(",", ":")).replace("<", "\\u003c")
    path.write_text(page.replace("TITLE", html.escape(title)).replace("SCENE", text), encoding="utf-8")


def _standing(images: list[Any], points: np.ndarray) -> tuple[np.ndarray, np.ndarray, float]:
    """How a model is put up: the 3×3 rotation that turns its y axis up, its middle, and how far it reaches from there.

    Cameras are mostly held level, so up is where their y axes point away from; and they are in front, at positive z.
    """
    down = np.mean([image.cam_from_world().rotation.matrix()[1] for image in images], axis=0)
    up = -down / max(np.linalg.norm(down), 1e-9)
    centres = np.array([image.projection_center() for image in images])
    seen = np.median(points, axis=0)
    toward = centres.mean(axis=0) - seen
    toward = toward - (toward @ up) * up
    toward = toward / max(np.linalg.norm(toward), 1e-9)
    # Points and cameras far out are often wrong, and must not make the rest small.
    points_reach = np.percentile(np.linalg.norm(points - seen, axis=1), 90)
    reach = np.clip(np.linalg.norm(centres - seen, axis=1).max(), points_reach, 2 * points_reach)
    return np.stack([np.cross(up, toward), up, toward]), seen, float(reach) or 1.0


def _corners(image: Any, height: float) -> np.ndarray:
    """5×3 in the world: centre of a camera, and the corners of its photo, drawn `height` high."""
    camera = image.camera
    half_height = height / 2
    half_width = half_height * camera.width / camera.height
    depth = height * min(camera.mean_focal_length() / camera.height, 3.0)
    x = np.array([0, -1, 1, 1, -1]) * half_width
    y = np.array([0, -1, -1, 1, 1]) * half_height
    world_from_camera = image.cam_from_world().inverse()
    in_camera = np.stack([x, y, np.array([0, 1, 1, 1, 1]) * depth], axis=1)
    return in_camera @ world_from_camera.rotation.matrix().T + world_from_camera.translation
