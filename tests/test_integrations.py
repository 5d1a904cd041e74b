"""Keypoints and matches inside OpenCV and kornia, by what these make of them."""

import cv2
import numpy as np
import pytest
import torch
from made_sets import WARPS, astronaut, move

import ripe
from ripe.features import Features, Matches
from ripe.integrations import opencv
from ripe.integrations.kornia import LAF_SCALE, RIPEFeature
from ripe.utils.utils import cv2_matches_from_kornia, to_cv_kpts


@pytest.fixture(scope="module")
def shifted() -> tuple[torch.Tensor, torch.Tensor]:
    """A photo and the same moved by whole pixels."""
    photo = astronaut()[:160, 100:340]
    moved = cv2.warpAffine(photo, np.float32([[1, 0, 8], [0, 1, -8]]), photo.shape[1::-1])
    first, second = (torch.from_numpy(np.ascontiguousarray(view)).permute(2, 0, 1) / 255 for view in (photo, moved))
    return first, second


def test_keypoints_and_matches_become_opencvs() -> None:
    features = Features(
        torch.tensor([[1.5, 2.0], [3.0, 4.0]]), torch.tensor([0.5, -0.25]), torch.eye(2), image_size=(20, 10)
    )
    keypoints = opencv.to_keypoints(features)
    assert [keypoint.pt for keypoint in keypoints] == [(1.5, 2.0), (3.0, 4.0)]
    assert [keypoint.response for keypoint in keypoints] == [0.5, -0.25]
    assert [keypoint.pt for keypoint in to_cv_kpts(features.keypoints, features.scores)] == [(1.5, 2.0), (3.0, 4.0)]
    [match] = cv2_matches_from_kornia(torch.tensor([[0.75]]), torch.tensor([[3, 7]]))
    assert (match.queryIdx, match.trainIdx, match.distance) == (3, 7, 0.75)


def test_a_match_has_the_distance_that_opencvs_matcher_finds() -> None:
    generator = torch.Generator().manual_seed(0)
    both = [
        Features(torch.zeros(20, 2), torch.zeros(20), torch.nn.functional.normalize(raw, dim=1), (9, 9))
        for raw in torch.randn(2, 20, 8, generator=generator)
    ]
    ours = opencv.to_matches(ripe.match(*both))
    brute = cv2.BFMatcher(cv2.NORM_L2, crossCheck=True).match(*[side.descriptors.numpy() for side in both])
    assert len(ours) > 5
    assert [(m.queryIdx, m.trainIdx) for m in ours] == [(m.queryIdx, m.trainIdx) for m in brute]
    np.testing.assert_allclose([m.distance for m in ours], [m.distance for m in brute], atol=1e-4)


def test_opencv_draws_and_fits_them() -> None:
    """Points under a known homography: drawMatches shows their lines, findHomography gives it back."""
    homography = np.asarray(WARPS["tilt"], dtype=float)
    points = np.random.default_rng(0).uniform(40, 300, (30, 2))
    descriptors = torch.eye(30)
    order = torch.randperm(30, generator=torch.Generator().manual_seed(1))
    first = Features(torch.from_numpy(points).float(), torch.ones(30), descriptors, (360, 360))
    moved = torch.from_numpy(move(homography, points)).float()
    second = Features(moved[order], torch.ones(30), descriptors[order], (360, 360))
    keypoints = opencv.to_keypoints(first), opencv.to_keypoints(second)
    matches = opencv.to_matches(ripe.match(first, second))
    assert len(matches) == 30
    found, _ = cv2.findHomography(
        np.array([keypoints[0][match.queryIdx].pt for match in matches]),
        np.array([keypoints[1][match.trainIdx].pt for match in matches]),
        cv2.RANSAC,
        1.0,
    )
    np.testing.assert_allclose(found, homography, atol=1e-2)
    blank = np.zeros((360, 360, 3), dtype=np.uint8)
    drawn = cv2.drawMatches(blank, keypoints[0], blank, keypoints[1], matches, None, matchColor=(0, 255, 0))
    assert drawn.shape == (360, 720, 3)
    assert (drawn[:, :, 1] > 0).sum() > 1000


def test_nothing_is_nothing_in_opencv() -> None:
    none = Features(torch.zeros(0, 2), torch.zeros(0), torch.zeros(0, 4), (9, 9))
    assert list(opencv.to_keypoints(none)) == []
    assert list(opencv.to_matches(Matches(torch.zeros(0, 2, dtype=torch.long), torch.zeros(0)))) == []


def test_kornias_matcher_finds_a_shift(shifted: tuple[torch.Tensor, torch.Tensor]) -> None:
    kornia = pytest.importorskip("kornia.feature")
    feature = RIPEFeature(ripe.load(device="cpu"), max_keypoints=200)
    matcher = kornia.LocalFeatureMatcher(feature, kornia.DescriptorMatcher("mnn"))
    found = matcher({"image0": shifted[0][None], "image1": shifted[1][None]})
    moves = found["keypoints1"] - found["keypoints0"]
    assert len(moves) > 30
    assert (moves.median(dim=0).values - torch.tensor([8.0, -8.0])).abs().max() < 0.5
    assert found["lafs0"].shape == (1, len(moves), 2, 3)


def test_frames_are_kornias_and_batches_end_in_empty_places(
    model: ripe.RIPE, shifted: tuple[torch.Tensor, torch.Tensor]
) -> None:
    kornia = pytest.importorskip("kornia.feature")
    feature = RIPEFeature(model, max_keypoints=150, threshold=-1e9)
    images = torch.stack(shifted)
    masks = torch.ones(2, 1, *images.shape[2:])
    masks[1, :, :, 16:] = 0
    lafs, responses, descriptors = feature(images, masks)
    alone = model.extract(images, max_keypoints=150, threshold=-1e9, masks=list(masks[:, 0]))
    assert len(alone[1]) < len(alone[0]) == lafs.shape[1] == 150
    for index, single in enumerate(alone):
        count = len(single)
        torch.testing.assert_close(kornia.get_laf_center(lafs)[index, :count], single.keypoints)
        torch.testing.assert_close(descriptors[index, :count], single.descriptors)
        torch.testing.assert_close(responses[index, :count], single.scores.sigmoid())
        assert kornia.laf_is_filled(lafs)[index].tolist() == [True] * count + [False] * (150 - count)
    torch.testing.assert_close(kornia.get_laf_scale(lafs)[0].flatten(), torch.full((150,), LAF_SCALE))
    torch.testing.assert_close(kornia.get_laf_orientation(lafs)[0].flatten(), torch.zeros(150))
    assert kornia.get_laf_center(lafs)[1, : len(alone[1]), 0].max() < 16
    again = feature(images, masks[:, 0])
    assert all(map(torch.equal, again, (lafs, responses, descriptors)))


def test_kornias_matcher_takes_batches_and_blank_images(model: ripe.RIPE) -> None:
    kornia = pytest.importorskip("kornia.feature")
    matcher = kornia.LocalFeatureMatcher(RIPEFeature(model, threshold=1e9), kornia.DescriptorMatcher("mnn"))
    found = matcher({"image0": torch.rand(2, 1, 32, 48), "image1": torch.rand(2, 1, 32, 40)})
    assert found["keypoints0"].shape == (0, 2)


def test_grey_images_and_half_precision_input(model: ripe.RIPE) -> None:
    lafs, responses, descriptors = RIPEFeature(model, max_keypoints=9, threshold=-1e9)(torch.rand(1, 1, 32, 48).half())
    assert {part.dtype for part in (lafs, responses, descriptors)} == {torch.float16}
    assert lafs.shape == (1, 9, 2, 3)
