"""HPatches: 116 sequences of six photos, homographies from the first to each other; protocol of Glue Factory.

`<folder>/<i_…|v_…>/{1..6}.ppm` and `H_1_{2..6}`, 3×3 numbers. Balntas et al., "HPatches: A Benchmark and Evaluation of
Handcrafted and Learned Local Descriptors", CVPR 2017.
"""

from pathlib import Path

import numpy as np
import torch

from ripe.evaluation.pair_sets import HomographyPair, PairSet
from ripe.evaluation.protocol import Protocol
from ripe.geometry.homography import apply_homography, homography_from_corner_origin, outer_corners
from ripe.images import open_image
from ripe.resizing import Resizing

# Left out since D2-Net's evaluation, as their photos are too large for some networks.
LARGE_SEQUENCES = frozenset(
    {
        "i_contruction",
        "i_crownnight",
        "i_dc",
        "i_pencils",
        "i_whitebuilding",
        "v_artisans",
        "v_astronautis",
        "v_talent",
    }
)
PROTOCOL = Protocol(
    kind="homography",
    resizing=Resizing("short", 480, enlarge=True, blur=True),
    estimator_threshold=0.5,
    limits=(1.0, 3.0, 5.0),
    correct_match=3.0,
    in_resized_pixels=True,
    error="mean distance of the four image corners, in resized pixels",
    published_threshold=1.0,
    max_keypoints=1024,
)


def read(folder: Path) -> list[PairSet]:
    """The 540 pairs of 108 sequences.

    Raises:
        FileNotFoundError: the folder holds no sequences, or a file of one is missing.
        ValueError: a homography's file does not hold 3×3 numbers.
    """
    sequences = sorted(path for path in folder.glob("[iv]_*") if path.is_dir() and path.name not in LARGE_SEQUENCES)
    if not sequences:
        raise FileNotFoundError(f"{folder}: holds no sequences i_… or v_…")
    pairs = [_pair(sequence, index) for sequence in sequences for index in range(2, 7)]
    return [PairSet("hpatches", folder, "homography", list(pairs))]


def _pair(sequence: Path, index: int) -> HomographyPair:
    path = sequence / f"H_1_{index}"
    try:
        matrix = np.loadtxt(path, dtype=np.float64)
    except ValueError as error:
        raise ValueError(f"{path}: not a matrix ({error})") from error
    if matrix.shape != (3, 3) or not np.isfinite(matrix).all():
        raise ValueError(f"{path}: must hold 3×3 finite numbers")
    # Glue Factory applies these matrices to coordinates with the first pixel's centre at (0.5, 0.5).
    homography = homography_from_corner_origin(torch.from_numpy(matrix))
    with open_image(sequence / "1.ppm") as photo:
        corners = outer_corners(photo.size)
    names = f"{sequence.name}/1.ppm", f"{sequence.name}/{index}.ppm"
    return HomographyPair(
        f"{sequence.name}/{index}", *names, homography, corners, apply_homography(homography, corners)
    )
