"""Views of a small made scene: the corner of a room and a box, papered with photos that come with scikit-image.

Real photos of a scene can be put in its place; a made one costs no download, and its cameras are known exactly.
"""

from pathlib import Path

import cv2
import numpy as np
import skimage.data

SIZE = (640, 480)
FOCAL = 620.0
CAMERA = np.array([[FOCAL, 0, SIZE[0] / 2 - 0.5], [0, FOCAL, SIZE[1] / 2 - 0.5], [0, 0, 1]])
# Each surface: a photo, the corner where its top-left pixel is, and the vectors along its upper and its left side.
SURFACES = [
    ("coffee", (0, 0, 0), (4, 0, 0), (0, 4, 0)),
    ("rocket", (0, 0, 3), (4, 0, 0), (0, 0, -3)),
    ("astronaut", (0, 4, 3), (0, -4, 0), (0, 0, -3)),
    ("chelsea", (1.2, 1.2, 1), (1, 0, 0), (0, 1, 0)),
    ("retina", (1.2, 2.2, 1), (1, 0, 0), (0, 0, -1)),
    ("hubble_deep_field", (2.2, 2.2, 1), (0, -1, 0), (0, 0, -1)),
]


def poses(count: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Rotation R and position C of cameras on an arc, looking at the box; X of the scene is R·(X − C) in the camera."""
    found = []
    for angle in np.linspace(0.35, 1.2, count):
        position = np.array([1.2 + 4.6 * np.cos(angle), 1.2 + 4.6 * np.sin(angle), 2.2 + 0.5 * np.sin(4 * angle)])
        forward = np.array([1.4, 1.4, 0.8]) - position
        forward /= np.linalg.norm(forward)
        right = np.cross(forward, [0, 0, 1])
        right /= np.linalg.norm(right)
        found.append((np.stack([right, np.cross(forward, right), forward]), position))
    return found


def render(rotation: np.ndarray, position: np.ndarray) -> np.ndarray:
    """What a camera sees: 480×640×3 uint8 RGB."""
    double = (2 * SIZE[0], 2 * SIZE[1])  # drawn twice as large and shrunk, so that edges are smooth
    picture = np.full((double[1], double[0], 3), 40, dtype=np.uint8)
    zoom = np.array([[2, 0, 0.5], [0, 2, 0.5], [0, 0, 1]])
    for name, corner, right, down in SURFACES:  # the box comes last: nothing hides it
        texture = getattr(skimage.data, name)()
        if texture.shape[1] > 800:
            texture = cv2.resize(
                texture, (800, 800 * texture.shape[0] // texture.shape[1]), interpolation=cv2.INTER_AREA
            )
        height, width = texture.shape[:2]
        plane = np.stack([np.array(right) / width, np.array(down) / height, np.array(corner) - position], axis=1)
        homography = zoom @ CAMERA @ rotation @ plane
        warped = cv2.warpPerspective(texture, homography, double, flags=cv2.INTER_LINEAR)
        inside = cv2.warpPerspective(np.full((height, width), 255, np.uint8), homography, double) > 127
        picture[inside] = warped[inside]
    return cv2.resize(picture, SIZE, interpolation=cv2.INTER_AREA)


def save_views(folder: Path, count: int) -> list[np.ndarray]:
    """Write the views as PNG files; the cameras' positions are returned, in the order of the file names."""
    folder.mkdir(exist_ok=True)
    for number, (rotation, position) in enumerate(poses(count)):
        view = render(rotation, position)
        cv2.imwrite(str(folder / f"view{number}.png"), view[:, :, ::-1])
    return [position for _, position in poses(count)]
