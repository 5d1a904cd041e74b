"""Hands whatever Hypothesis makes up to everything that calls native code: a `ValueError` or a result, no other end.

A program of its own (see `test_checks.py`), as what is looked for ends the process.
"""

import math
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import numpy as np
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ripe.drawing import draw_matches
from ripe.geometry.robust import estimate_geometry, estimate_relative_pose
from ripe.integrations import opencv

PHOTOS = (torch.zeros(3, 40, 60), torch.zeros(3, 50, 30))
CALLS: dict[str, Callable[..., Any]] = {
    "fundamental": lambda a, b, m, e: estimate_geometry("fundamental", a, b, max_error=e, max_iterations=50),
    "homography": lambda a, b, m, e: estimate_geometry("homography", a, b, max_error=e, max_iterations=50),
    "pose": lambda a, b, m, e: estimate_relative_pose(a, b, m, m, max_epipolar_error=e, max_iterations=50),
    "essential": lambda a, b, m, e: estimate_geometry(
        "essential", a, b, max_error=e, intrinsics=(m, m), max_iterations=50
    ),
    "keypoints": lambda a, b, m, e: opencv.keypoints_of(a, b[:, 0]),
    "matches": lambda a, b, m, e: opencv.matches_of(a[:, 0], b),
    "drawing": lambda a, b, m, e: draw_matches(PHOTOS, (a, b)),
}
numbers = st.sampled_from([0.0, 1.0, 0.5, -1.0, 1e300, 1e-300, math.nan, math.inf])


@st.composite
def arrays(draw: st.DrawFn) -> torch.Tensor:
    """Points as they should be, but for shape, scale, type or one number."""
    rows, columns = draw(st.sampled_from([0, 1, 4, 5, 8, 20, 5000])), draw(st.sampled_from([2, 2, 2, 2, 1, 3]))
    values = np.random.default_rng(draw(st.integers(0, 9))).random((rows, columns))
    values *= draw(st.sampled_from([1.0, 500.0, 500.0, 1e9, 1e300, 1e-300]))
    if rows and draw(st.booleans()):
        values[draw(st.integers(0, rows - 1))] = draw(numbers)
    dtype = draw(st.sampled_from([torch.float64, torch.float32, torch.float16, torch.int64]))
    return torch.from_numpy(values).to(dtype)


@st.composite
def cameras(draw: st.DrawFn) -> torch.Tensor:
    """A camera matrix with one number of another kind."""
    matrix = torch.tensor([[500.0, 0, 250], [0, 500, 250], [0, 0, 1]], dtype=torch.float64)
    matrix[draw(st.integers(0, 2)), draw(st.integers(0, 2))] = draw(numbers)
    return matrix


@settings(max_examples=300, deadline=None, database=None, derandomize=True)
@example("fundamental", torch.rand(5000, 2), torch.rand(20, 2), torch.eye(3), 1.0)
@example("homography", torch.rand(5000, 2), torch.rand(20, 2), torch.eye(3), 1.0)
@example("pose", torch.rand(5000, 2), torch.rand(20, 2), torch.eye(3), 1.0)
@given(st.sampled_from(sorted(CALLS)), arrays(), arrays(), cameras(), numbers)
def search(name: str, first: torch.Tensor, second: torch.Tensor, camera: torch.Tensor, threshold: float) -> None:
    """One call."""
    with suppress(ValueError):
        CALLS[name](first, second, camera, threshold)


if __name__ == "__main__":
    search()
