"""Photos of a corner of a room, rendered: three planes with real photos on them, and the cameras that see them."""

from pathlib import Path

import cv2
import numpy as np
import skimage.data
from PIL import Image

SIZE = (400, 300)
CAMERA = np.array([[420.0, 0, 199.5], [0, 420, 149.5], [0, 0, 1]])
# Each plane: photo, where its top-left corner is, where its x axis points and where its y axis does; y is down.
PLANES = (
    (skimage.data.coffee, (-4, -1.5, 0), (4, 0, 0), (0, 3, 0)),
    (skimage.data.astronaut, (0, -1.5, 0), (0, 0, -4), (0, 3, 0)),
    (skimage.data.chelsea, (-4, 1.5, 0), (4, 0, 0), (0, 0, -4)),
)
ANGLES = (-20, -12, -4, 4, 12, 20)


def cameras() -> list[tuple[np.ndarray, np.ndarray]]:
    """R (3×3) and t (3) of each view, world to camera: on an arc around the middle of the room, looking into it."""
    target = np.array([-1.2, 0.3, -1.2])
    views = []
    for index, angle in enumerate(np.radians(ANGLES)):
        back = np.array([-np.sin(np.pi / 4 + angle), -0.1 + 0.08 * index, -np.cos(np.pi / 4 + angle)])
        centre = target + 4.2 * back
        z = (target - centre) / np.linalg.norm(target - centre)
        x = np.cross([0, 1, 0], z)
        x /= np.linalg.norm(x)
        rotation = np.stack([x, np.cross(z, x), z])
        views.append((rotation, -rotation @ centre))
    return views


def render(rotation: np.ndarray, translation: np.ndarray) -> np.ndarray:
    """What a camera sees, H×W×3 uint8."""
    width, height = SIZE
    view = np.full((height, width, 3), 40, dtype=np.uint8)
    for photo, corner, right, down in PLANES:
        texture = photo()
        rows, columns = texture.shape[:2]
        in_world = np.column_stack([np.array(right) / columns, np.array(down) / rows, corner])
        homography = CAMERA @ (rotation @ in_world + np.outer(translation, [0, 0, 1]))
        warped = cv2.warpPerspective(texture, homography, SIZE, flags=cv2.INTER_AREA)
        seen = cv2.warpPerspective(np.ones((rows, columns), np.uint8), homography, SIZE, flags=cv2.INTER_NEAREST) > 0
        view[seen] = warped[seen]
    return view


def write(folder: Path) -> Path:
    """`view0.png` … in `folder`, which is made."""
    folder.mkdir(parents=True)
    for index, camera in enumerate(cameras()):
        Image.fromarray(render(*camera)).save(folder / f"view{index}.png")
    return folder
