import math

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ripe.geometry.epipolar import epipolar_distance, fundamental_from_pose, sampson_distance
from ripe.geometry.homography import (
    apply_homography,
    homography_from_corner_origin,
    intrinsics_from_corner_origin,
    mean_transfer_error,
    outer_corners,
    resizing_matrix,
)
from ripe.geometry.pose import RelativePose, pose_error, rotation_angle, translation_angle, view_of_second
from ripe.geometry.robust import estimate_geometry, estimate_relative_pose
from ripe.images import rescale_keypoints

K0 = torch.tensor([[800.0, 0, 320], [0, 780, 240], [0, 0, 1]], dtype=torch.float64)
K1 = torch.tensor([[900.0, 0, 300], [0, 910, 250], [0, 0, 1]], dtype=torch.float64)
angles = st.floats(0, 180)
directions = st.tuples(*[st.floats(-1, 1)] * 3).filter(lambda axis: math.hypot(*axis) > 0.1)


def rotation_about(axis, degrees):
    x, y, z = (torch.tensor(axis, dtype=torch.float64) / math.hypot(*axis)).tolist()
    cross = torch.tensor([[0, -z, y], [z, 0, -x], [-y, x, 0]], dtype=torch.float64)
    return torch.linalg.matrix_exp(math.radians(degrees) * cross)


def project(intrinsics, points):
    homogeneous = points @ intrinsics.mT
    return homogeneous[:, :2] / homogeneous[:, 2:]


@pytest.fixture
def scene():
    """Two views of 200 points: rotation, translation, and the points' positions in both images."""
    generator = torch.Generator().manual_seed(0)
    points = torch.rand(200, 3, generator=generator, dtype=torch.float64) * torch.tensor([4.0, 3, 4]) - 1.5
    points[:, 2] += 7
    rotation, translation = rotation_about((0.1, 1, -0.2), 15), torch.tensor([-1.5, 0.2, 0.4], dtype=torch.float64)
    return rotation, translation, project(K0, points), project(K1, points @ rotation.mT + translation)


def spoil(points, share, seed=1):
    """The points with a share of them moved anywhere, and which ones stayed."""
    generator = torch.Generator().manual_seed(seed)
    wrong = torch.arange(len(points)) < share * len(points)
    elsewhere = torch.rand(points.shape, generator=generator, dtype=torch.float64) * torch.tensor([640.0, 480])
    return torch.where(wrong[:, None], elsewhere, points), ~wrong


def test_matches_of_a_scene_obey_its_fundamental_matrix(scene):
    rotation, translation, points0, points1 = scene
    fundamental = fundamental_from_pose(K0, K1, rotation, translation)
    assert torch.linalg.matrix_rank(fundamental, rtol=1e-9) == 2
    assert sampson_distance(fundamental, points0, points1).max() < 1e-8


def test_epipolar_distances_are_pixels():
    # A camera that moves sideways: epipolar lines are rows, so a match that is 3 rows off is 3 px from both lines.
    sideways = torch.tensor([1.0, 0, 0], dtype=torch.float64)
    fundamental = fundamental_from_pose(K0, K0, torch.eye(3, dtype=torch.float64), sideways)
    points0, points1 = torch.tensor([[100.0, 50]]).double(), torch.tensor([[180.0, 53]]).double()
    # Both points may give way by half, each at a right angle: 3/√2.
    assert sampson_distance(fundamental, points0, points1).item() == pytest.approx(3 / math.sqrt(2))


def test_sampson_distance_is_the_way_to_the_nearest_exact_match(scene):
    rotation, translation, points0, points1 = scene
    fundamental = fundamental_from_pose(K0, K1, rotation, translation)
    moved = points1 + torch.tensor([0.3, -0.4], dtype=torch.float64)
    distance = sampson_distance(fundamental, points0, moved)
    assert (distance <= 0.5).all()
    # Brute force: the constraint's gradient by finite differences.
    joined, step = torch.cat([points0, moved], dim=1), 1e-4

    def residual(positions):
        ones = torch.ones(len(positions), 1, dtype=torch.float64)
        first, second = torch.cat([positions[:, :2], ones], 1), torch.cat([positions[:, 2:], ones], 1)
        return torch.einsum("ki,ij,kj->k", second, fundamental, first)

    shifts = step * torch.eye(4, dtype=torch.float64)
    gradient = torch.stack([(residual(joined + s) - residual(joined - s)) / (2 * step) for s in shifts], dim=1)
    torch.testing.assert_close(distance, residual(joined).abs() / gradient.norm(dim=1), rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize("outliers", [0.0, 0.4])
def test_relative_pose_is_recovered(scene, outliers):
    rotation, translation, points0, points1 = scene
    spoilt, right = spoil(points1, outliers)
    pose = estimate_relative_pose(points0, spoilt, K0, K1, max_epipolar_error=1.0)
    assert pose is not None
    assert pose.translation.norm().item() == pytest.approx(1)
    assert pose_error(pose, rotation, translation) < 0.2
    assert pose.inliers[right].all()
    assert pose.inliers[~right].float().mean() < 0.1 if outliers else True


def test_an_essential_matrix_is_that_of_the_pose(scene):
    rotation, translation, points0, points1 = scene
    spoilt, right = spoil(points1, 0.4)
    found = estimate_geometry("essential", points0, spoilt, max_error=1.0, intrinsics=(K0, K1))
    assert found.inliers[right].all()
    assert found.num_inliers == int(found.inliers.sum())
    assert rotation_angle(found.rotation, rotation) < 0.2
    assert translation_angle(found.translation, translation) < 0.2
    # An essential matrix has two equal singular values and one of 0, and relates the rays of the matches.
    torch.testing.assert_close(torch.linalg.svdvals(found.model), torch.tensor([1.0, 1, 0]).double(), atol=1e-9, rtol=0)
    fundamental = torch.linalg.inv(K1).mT @ found.model @ torch.linalg.inv(K0)
    assert sampson_distance(fundamental, points0[right], points1[right]).max() < 0.1
    # OpenCV takes the same pose out of it.
    rays = [apply_homography(torch.linalg.inv(k), p[right]).numpy() for k, p in ((K0, points0), (K1, points1))]
    _, turned, moved, _ = cv2.recoverPose(found.model.numpy(), *rays)
    np.testing.assert_allclose(turned, found.rotation, atol=1e-6)
    np.testing.assert_allclose(moved[:, 0], found.translation, atol=1e-6)


def test_an_essential_matrix_needs_both_cameras(scene):
    _, _, points0, points1 = scene
    few = estimate_geometry("essential", points0[:4], points1[:4], max_error=1.0, intrinsics=(K0, K1))
    assert (few.model, few.rotation, few.translation, few.num_inliers) == (None, None, None, 0)
    with pytest.raises(ValueError, match="intrinsics must be the two images'"):
        estimate_geometry("essential", points0, points1, max_error=1.0)
    with pytest.raises(ValueError, match="intrinsics1 has shape 2×3"):
        estimate_geometry("essential", points0, points1, max_error=1.0, intrinsics=(K0, K1[:2]))
    with pytest.raises(ValueError, match="max_error is -1"):
        estimate_geometry("essential", points0, points1, max_error=-1, intrinsics=(K0, K1))
    with pytest.raises(ValueError, match="a fundamental needs none"):
        estimate_geometry("fundamental", points0, points1, max_error=1.0, intrinsics=(K0, K1))


def test_relative_pose_is_seeded(scene):
    _, _, points0, points1 = scene
    spoilt, _ = spoil(points1 + 0.5 * torch.randn(points1.shape, generator=torch.Generator().manual_seed(3)), 0.6)
    first, second = (
        estimate_relative_pose(points0, spoilt, K0, K1, max_epipolar_error=1.0, max_iterations=500, seed=7)
        for _ in range(2)
    )
    assert first is not None
    assert second is not None
    assert torch.equal(first.rotation, second.rotation)
    assert torch.equal(first.translation, second.translation)


def test_no_pose_from_too_few_or_degenerate_matches(scene):
    _, _, points0, points1 = scene
    assert estimate_relative_pose(points0[:4], points1[:4], K0, K1, max_epipolar_error=1.0) is None
    assert estimate_relative_pose(points0[:0], points1[:0], K0, K1, max_epipolar_error=1.0) is None
    one = points0[:1].expand(200, 2)
    assert estimate_relative_pose(one, one, K0, K1, max_epipolar_error=1.0, max_iterations=50) is None


def test_a_turning_camera_is_a_homography():
    rotation = rotation_about((0.3, 1, 0.1), 20)
    homography = K1 @ rotation @ torch.linalg.inv(K0)
    generator = torch.Generator().manual_seed(0)
    points = torch.rand(100, 3, generator=generator, dtype=torch.float64) * 2 - 1 + torch.tensor([0.0, 0, 5])
    points0, points1 = project(K0, points), project(K1, points @ rotation.mT)
    torch.testing.assert_close(apply_homography(homography, points0), points1)
    spoilt, _ = spoil(points1, 0.4)
    fitted = estimate_geometry("homography", points0, spoilt, max_error=2.0)
    assert fitted.model is not None
    assert fitted.num_inliers >= 60
    assert mean_transfer_error(fitted.model, points0, points1) < 1e-2
    assert corner_error(fitted.model, homography, (640, 480)) < 0.1


def test_homographies_move_batches_and_give_way_at_infinity():
    shift = torch.eye(3).repeat(2, 1, 1)
    shift[1, 0, 2] = 5
    points = torch.rand(2, 7, 2)
    torch.testing.assert_close(apply_homography(shift, points), points + torch.tensor([[[0.0, 0]], [[5.0, 0]]]))
    vanishing = torch.tensor([[1.0, 0, 0], [0, 1, 0], [1, 0, 0]])
    assert not torch.isfinite(apply_homography(vanishing, torch.tensor([[0.0, 1.0]]))).all()


def corner_error(estimated, true, size):
    """Mean distance of an image's four corners under two homographies, as HPatches' evaluation measures it."""
    corners = outer_corners(size)
    return mean_transfer_error(estimated, corners, apply_homography(true, corners))


def test_corner_and_transfer_errors_in_closed_form():
    identity = torch.eye(3, dtype=torch.float64)
    shift = torch.tensor([[1.0, 0, 3], [0, 1, -4], [0, 0, 1]], dtype=torch.float64)
    assert corner_error(shift, identity, (640, 480)).item() == pytest.approx(5)
    assert corner_error(-2 * shift, shift, (640, 480)).item() == pytest.approx(0, abs=1e-9)
    # Doubling about the pixel (0, 0) moves each corner by its distance from there.
    doubling = torch.diag(torch.tensor([2.0, 2, 1], dtype=torch.float64))
    corners = [(-0.5, -0.5), (9.5, -0.5), (9.5, 19.5), (-0.5, 19.5)]
    wanted = np.mean([math.hypot(*corner) for corner in corners])
    assert corner_error(doubling, identity, (10, 20)).item() == pytest.approx(wanted)
    points = torch.tensor([[0.0, 0], [10, 10]], dtype=torch.float64)
    assert mean_transfer_error(shift, points, points).item() == pytest.approx(5)


def test_resizing_moves_keypoints_homographies_and_cameras_alike():
    """The same scene point stays itself, whichever of the three is asked where it went."""
    small, large = (320, 200), (960, 500)
    matrix = resizing_matrix(small, large)
    points = torch.rand(5, 2, dtype=torch.float64) * 200
    torch.testing.assert_close(apply_homography(matrix, points), rescale_keypoints(points, small[::-1], large[::-1]))
    torch.testing.assert_close(apply_homography(matrix, outer_corners(small)), outer_corners(large))
    homogeneous = torch.rand(5, 3, dtype=torch.float64) + 1
    seen, seen_large = (apply_homography(camera, homogeneous[:, :2]) for camera in (K0, matrix @ K0))
    torch.testing.assert_close(apply_homography(matrix, seen), seen_large)


def test_half_a_pixel_lies_between_the_two_conventions():
    homography = torch.tensor([[1.1, 0.1, 5], [-0.1, 0.9, 7], [1e-4, -2e-4, 1]], dtype=torch.float64)
    points = torch.rand(5, 2, dtype=torch.float64) * 100
    moved = apply_homography(homography_from_corner_origin(homography), points)
    torch.testing.assert_close(moved + 0.5, apply_homography(homography, points + 0.5))
    assert intrinsics_from_corner_origin(K0)[:2, 2].tolist() == [319.5, 239.5]
    torch.testing.assert_close(intrinsics_from_corner_origin(K0)[:, :2], K0[:, :2])


@given(directions, angles, directions, angles)
def test_rotation_angle_is_the_angle_turned(axis, degrees, other_axis, other_degrees):
    start = rotation_about(other_axis, other_degrees)
    turned = start @ rotation_about(axis, degrees)
    assert rotation_angle(start, turned).item() == pytest.approx(degrees, abs=1e-5)
    assert rotation_angle(turned, start).item() == pytest.approx(degrees, abs=1e-5)


@given(angles, st.floats(0.01, 100), st.floats(0.01, 100))
def test_translation_angle_knows_directions_only(degrees, length0, length1):
    radians = math.radians(degrees)
    first = length0 * torch.tensor([1.0, 0, 0], dtype=torch.float64)
    second = length1 * torch.tensor([math.cos(radians), 0, math.sin(radians)], dtype=torch.float64)
    assert translation_angle(first, second).item() == pytest.approx(degrees, abs=1e-7)
    folded = translation_angle(first, second, ignore_sign=True).item()
    assert folded == pytest.approx(min(degrees, 180 - degrees), abs=1e-7)


def test_small_angles_keep_their_digits():
    tiny = rotation_about((0, 0, 1), 1e-6)
    assert rotation_angle(torch.eye(3, dtype=torch.float64), tiny).item() == pytest.approx(1e-6, rel=1e-6)


def test_where_the_first_camera_sees_the_second():
    """A second camera to the right, ahead and above; however it is turned."""
    turn = torch.linalg.matrix_exp(torch.tensor([[0, -0.3, 0.5], [0.3, 0, -0.2], [-0.5, 0.2, 0]], dtype=torch.float64))
    centre = torch.tensor([math.sqrt(3), -2 * math.tan(math.radians(20)), 1.0], dtype=torch.float64)
    for rotation in (torch.eye(3, dtype=torch.float64), turn):
        assert view_of_second(rotation, -rotation @ centre) == pytest.approx((60, 20))
        assert view_of_second(rotation, rotation @ centre) == pytest.approx((-120, -20))


def test_distance_from_epipolar_lines_is_measured_in_both_photos():
    generator = torch.Generator().manual_seed(0)
    fundamental = torch.randn(3, 3, generator=generator, dtype=torch.float64)
    points0, points1 = (100 * torch.rand(7, 2, generator=generator, dtype=torch.float64) for _ in range(2))
    distances = []
    for matrix, start, end in ((fundamental, points0, points1), (fundamental.T, points1, points0)):
        lines = cv2.computeCorrespondEpilines(start.numpy(), 1, matrix.numpy()).reshape(-1, 3)  # of unit normals
        distances.append(np.abs((lines[:, :2] * end.numpy()).sum(1) + lines[:, 2]))
    found = epipolar_distance(fundamental, points0, points1)
    np.testing.assert_allclose(found, np.mean(distances, axis=0), rtol=1e-4)


def test_pose_error_is_the_larger_angle():
    identity = torch.eye(3, dtype=torch.float64)
    forward = torch.tensor([0.0, 0, 1], dtype=torch.float64)
    pose = RelativePose(rotation_about((0, 1, 0), 10), forward, torch.ones(5, dtype=torch.bool))
    assert pose_error(pose, identity, forward).item() == pytest.approx(10)
    assert pose_error(pose, identity, -forward).item() == pytest.approx(180)
    assert pose_error(pose, identity, -forward, ignore_sign=True).item() == pytest.approx(10)
