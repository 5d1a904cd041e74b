"""Which matches are right: by epipolar geometry, or by the warp that made a self-pair."""

from concurrent.futures import Executor, Future

from torch import Tensor

from ripe.features import TwoViewGeometry
from ripe.geometry.homography import apply_homography
from ripe.geometry.robust import estimate_geometry


def fit_epipolar(
    executor: Executor, points0: Tensor, points1: Tensor, *, max_error: float, seed: int, max_iterations: int = 1000
) -> Future[TwoViewGeometry]:
    """Begin to fit a fundamental matrix to K×2 matched points, in pixels; the network may compute meanwhile.

    Args:
        executor: PoseLib releases the interpreter's lock, so a thread pool fits several pairs side by side.
        points0: in the first view.
        points1: in the second.
        max_error: epipolar error of an inlier in pixels.
        seed: of RANSAC's sampling.
        max_iterations: early in training most matches are wrong, and RANSAC's own limits cost 0.4 s for such a pair.

    Returns:
        What will be the geometry; its inliers (K bool, on the CPU) are none with fewer than 8 matches.
    """
    return executor.submit(
        estimate_geometry,
        "fundamental",
        points0.cpu(),
        points1.cpu(),
        max_error=max_error,
        max_iterations=max_iterations,
        seed=seed,
    )


def warp_inliers(points0: Tensor, points1: Tensor, H_0to1: Tensor, *, max_error: float) -> Tensor:  # noqa: N803
    """Matches of a self-pair that its homography confirms: K bool.

    Args:
        points0: K×2 in the first view.
        points1: K×2 in the second.
        H_0to1: 3×3, the warp that made the second view of the first.
        max_error: largest distance in pixels between a warped point and its match.
    """
    return (apply_homography(H_0to1, points0) - points1).norm(dim=-1) <= max_error


def hardly_moves(points0: Tensor, points1: Tensor, inliers: Tensor, min_motion: float) -> bool:
    """Whether the inliers' median displacement is under `min_motion` pixels.

    Matches that do not move agree with a whole family of fundamental matrices, so a network that codes absolute
    position in its descriptors would earn full rewards for nothing.
    """
    if not inliers.any():
        return False
    return bool((points0 - points1)[inliers].norm(dim=-1).median() < min_motion)
