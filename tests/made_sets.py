"""Small data sets in the published layouts, made of real photos, with known homographies and poses."""

import json
from pathlib import Path

import cv2
import h5py
import numpy as np
import skimage.data
from PIL import Image

WARPS = {
    "shift": [[1, 0, 14], [0, 1, -9], [0, 0, 1]],
    "turn": [[0.94, -0.34, 90], [0.34, 0.94, -60], [0, 0, 1]],
    "tilt": [[0.8, 0.1, 20], [-0.05, 0.9, 30], [2e-4, -1e-4, 1]],
    "zoom": [[1.4, 0, -90], [0, 1.4, -60], [0, 0, 1]],
    "shear": [[0.9, 0.2, 10], [0.05, 1.0, -10], [-1e-4, 1e-4, 1]],
}
# To coordinates in which the first pixel's centre is at (0.5, 0.5), as the published files have it.
CORNER_ORIGIN = np.array([[1, 0, 0.5], [0, 1, 0.5], [0, 0, 1]])
K0 = np.array([[450.0, 0, 259], [0, 460, 181], [0, 0, 1]])
K1 = np.array([[500.0, 0, 322], [0, 490, 230], [0, 0, 1]])
SIZE0, SIZE1 = (512, 360), (640, 480)
ROTATION = cv2.Rodrigues(np.array([0.03, -0.12, 0.04]))[0]
TRANSLATION = np.array([0.3, -0.05, 0.1])
# The first camera in the world; any will do.
WORLD_ROTATION = cv2.Rodrigues(np.array([0.5, 1.0, -0.3]))[0]
WORLD_TRANSLATION = np.array([2.0, -1, 4])


def astronaut() -> np.ndarray:
    return skimage.data.astronaut()[: SIZE0[1]]


def move(homography, points) -> np.ndarray:
    homogeneous = np.column_stack([points, np.ones(len(points))]) @ np.asarray(homography, dtype=float).T
    return homogeneous[:, :2] / homogeneous[:, 2:]


def two_views() -> tuple[np.ndarray, np.ndarray]:
    """A photo glued to a folded wall, and the same wall seen by the second camera.

    One plane alone would leave two poses possible.
    """
    photo = astronaut()
    height, width = photo.shape[:2]
    left = np.zeros((height, width), dtype=bool)
    left[:, : int(K0[0, 2])] = True
    view = np.zeros((SIZE1[1], SIZE1[0], 3), dtype=np.uint8)
    for half, slope in ((left, 0.6), (~left, -0.6)):
        normal = np.array([slope, 0.1, 1])  # points X of the plane: normal · X = 1
        homography = K1 @ (ROTATION + np.outer(TRANSLATION, normal)) @ np.linalg.inv(K0)
        warped = cv2.warpPerspective(photo, homography, SIZE1, flags=cv2.INTER_LINEAR)
        seen = cv2.warpPerspective(half.astype(np.uint8), homography, SIZE1, flags=cv2.INTER_NEAREST) > 0
        view[seen] = warped[seen]
    return photo, view


def wall_in_second_view(points) -> np.ndarray:
    """Where the second view of `two_views` shows points of the first."""
    left = np.asarray(points)[:, 0] < int(K0[0, 2])
    moved = []
    for slope in (0.6, -0.6):
        normal = np.array([slope, 0.1, 1])
        moved.append(move(K1 @ (ROTATION + np.outer(TRANSLATION, normal)) @ np.linalg.inv(K0), points))
    return np.where(left[:, None], *moved)


def write_annotated(root: Path) -> Path:
    """`homography` with three warps of a photo, and `pose` with one pair, as `ripe eval pairs` reads them."""
    photo = skimage.data.astronaut()
    corners = [[100, 100], [400, 110], [390, 380], [120, 400], [250, 250]]
    pairs = []
    (root / "homography").mkdir(parents=True)
    for name in ("shift", "turn", "tilt"):
        Image.fromarray(photo).save(root / "homography" / f"{name}_0.png")
        warped = cv2.warpPerspective(photo, np.asarray(WARPS[name], dtype=float), (512, 512), flags=cv2.INTER_LINEAR)
        Image.fromarray(warped).save(root / "homography" / f"{name}_1.png")
        images = {"image0": f"{name}_0.png", "image1": f"{name}_1.png"}
        pairs.append({"name": name, **images, "points0": corners, "points1": move(WARPS[name], corners).tolist()})
    write_pairs(root / "homography", pairs, "homography")
    (root / "pose").mkdir()
    for image, name in zip(two_views(), ("a.png", "b.png"), strict=True):
        Image.fromarray(image).save(root / "pose" / name)
    transform = np.eye(4)
    transform[:3, :3], transform[:3, 3] = ROTATION, 7 * TRANSLATION
    cameras = {"K0": K0.tolist(), "K1": K1.tolist(), "size0": SIZE0, "size1": SIZE1, "T_0to1": transform.tolist()}
    write_pairs(root / "pose", [{"name": "wall", "image0": "a.png", "image1": "b.png", **cameras}], "pose")
    return root


def write_pairs(folder: Path, pairs, model: str) -> None:
    (folder / "pairs.json").write_text(json.dumps({"model": model, "pairs": pairs}))


def write_hpatches(root: Path) -> Path:
    """Two sequences of HPatches, and one of those that are left out."""
    folder = root / "hpatches-sequences-release"
    coffee = skimage.data.coffee()
    for sequence, photo in (("i_coffee", coffee), ("v_astronaut", astronaut()), ("i_dc", coffee[:32, :32])):
        (folder / sequence).mkdir(parents=True)
        height, width = photo.shape[:2]
        Image.fromarray(photo).save(folder / sequence / "1.ppm")
        for index, warp in enumerate(WARPS.values(), 2):
            homography = np.eye(3) if sequence.startswith("i_") else np.asarray(warp, dtype=float)
            brightness = 1 - 0.1 * index if sequence.startswith("i_") else 1
            view = cv2.warpPerspective(photo, homography, (width, height), flags=cv2.INTER_LINEAR)
            Image.fromarray((view * brightness).astype(np.uint8)).save(folder / sequence / f"{index}.ppm")
            stored = CORNER_ORIGIN @ homography @ np.linalg.inv(CORNER_ORIGIN)
            rows = [" ".join(f"{number:.10g}" for number in row) + " \n" for row in stored]
            (folder / sequence / f"H_1_{index}").write_text("".join(rows))
    return folder


def write_megadepth(root: Path, *, packaged: bool) -> Path:
    """MegaDepth-1500 of one pair, in Glue Factory's layout or in the older one."""
    folder = root / "megadepth1500"
    names = "0015_a.jpg", "sub/0022_b.jpg"
    for image, name in zip(two_views(), names, strict=True):
        (folder / "images" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(folder / "images" / name, quality=95)
    poses = [(WORLD_ROTATION, WORLD_TRANSLATION)]
    poses.append((ROTATION @ WORLD_ROTATION, ROTATION @ WORLD_TRANSLATION + TRANSLATION))
    cameras = [CORNER_ORIGIN @ K0, CORNER_ORIGIN @ K1]
    if packaged:
        views = []
        for name, (rotation, translation), k, size in zip(names, poses, cameras, (SIZE0, SIZE1), strict=True):
            numbers = [*size, k[0, 0], k[1, 1], k[0, 2], k[1, 2]]
            views.append(f"{name} {_words([*rotation.ravel(), *translation])} PINHOLE {_words(numbers)}\n")
        (folder / "views.txt").write_text("".join(views))
        (folder / "pairs.txt").write_text(" ".join(names) + "\n")
    else:
        numbers = np.concatenate([cameras[0].ravel(), cameras[1].ravel(), ROTATION.ravel(), TRANSLATION])
        (folder / "pairs_calibrated.txt").write_text(f"{' '.join(names)} {_words(numbers)}\n")
    return folder


def write_imw(root: Path) -> Path:
    """DISK's IMW2020-val with one scene of two photos and overlapping tuples."""
    folder = root / "disk-data" / "imw2020-val"
    (folder / "church" / "images").mkdir(parents=True)
    (folder / "church" / "calibration").mkdir()
    poses = [(WORLD_ROTATION, WORLD_TRANSLATION)]
    poses.append((ROTATION @ WORLD_ROTATION, ROTATION @ WORLD_TRANSLATION + TRANSLATION))
    for image, name, (rotation, translation), k in zip(two_views(), ("p0", "p1"), poses, (K0, K1), strict=True):
        Image.fromarray(image).save(folder / "church" / "images" / f"{name}.jpg", quality=95)
        with h5py.File(folder / "church" / "calibration" / f"calibration_{name}.h5", "w") as file:
            file["K"], file["R"], file["T"] = CORNER_ORIGIN @ k, rotation, translation
    scene = {
        "image_path": "church/images",
        "calib_path": "church/calibration",
        "images": ["p0", "p1"],
        "tuples": [[0, 1, 0], [1, 0, 1], [0, 1, 1]],
    }
    (folder / "dataset.json").write_text(json.dumps({"church": scene}))
    return folder


def small_photo(number: int) -> np.ndarray:
    """Photo of 64×48 pixels: some part of a real one, different for each number."""
    photo = (skimage.data.astronaut(), skimage.data.coffee(), skimage.data.chelsea())[number % 3]
    y, x = (37 * number) % (photo.shape[0] - 48), (53 * number) % (photo.shape[1] - 64)
    return photo[y : y + 48, x : x + 64]


def save_photo(path: Path, photo: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(photo).save(path, compress_level=1)


def write_disk(root: Path, scenes=("0000", "0015", "0022", "0063", "0101"), photos: int = 4) -> Path:
    """DISK's MegaDepth: scenes of a few photos, all triples of neighbours as tuples; some are of benchmarks."""
    folder = root / "disk-data" / "megadepth"
    content = {}
    for place, scene in enumerate(scenes):
        names = [f"{scene}_{index}.jpg" for index in range(photos)]
        for index, name in enumerate(names):
            save_photo(folder / "scenes" / scene / "images" / name, small_photo(photos * place + index))
        tuples = [[i, (i + 1) % photos, (i + 2) % photos] for i in range(photos)]
        content[scene] = {"image_path": f"scenes/{scene}/images", "images": names, "tuples": tuples}
    (folder / "dataset.json").write_text(json.dumps(content))
    return folder


def write_tokyo(root: Path, places: int = 3) -> Path:
    """The first places of Tokyo 24/7."""
    folder = root / "Tokyo_Query_V3"
    for number in range(1, 9 * places + 1):
        save_photo(folder / f"{number:05d}.jpg", small_photo(number))
        (folder / f"{number:05d}.csv").write_text("35.6,139.7\n")
    return folder


def write_acdc(root: Path, frames: int = 2) -> Path:
    """ACDC's training split and one photo of its validation split; the car's bonnet is white."""
    folder = root / "ACDC"
    photo = np.zeros((1080, 1920, 3), dtype=np.uint8)
    photo[:896] = cv2.resize(skimage.data.coffee(), (1920, 896)) // 2
    photo[896:] = 255
    for condition, sequence in (("fog", "GOPR0475"), ("night", "GP010356"), ("rain", "GOPR0400")):
        for frame in range(1, frames + 1):
            name = f"{sequence}_frame_{frame:06d}"
            for split, ending in (("train", "rgb_anon"), ("train_ref", "ref_anon")):
                save_photo(folder / "rgb_anon" / condition / split / sequence / f"{name}_{ending}.png", photo)
    save_photo(folder / "rgb_anon" / "fog" / "val" / "GOPR0476" / "GOPR0476_frame_000001_rgb_anon.png", photo)
    return folder


def write_own(root: Path, scenes: dict[str, int], singles: int = 0) -> Path:
    """A folder with scene folders of so many photos, and loose photos."""
    number = 0
    for place, count in [*scenes.items(), ("", singles)]:
        for index in range(count):
            save_photo(root / place / f"{index:03d}.png", small_photo(number))
            number += 1
    return root


def _words(numbers) -> str:
    return " ".join(f"{number:.10g}" for number in numbers)
