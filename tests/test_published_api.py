"""The published interface, called as its users call it."""

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from ripe import vgg_hyper
from ripe.images import as_rgb
from ripe.pretrained import build
from ripe.utils.utils import cv2_matches_from_kornia, resize_image, to_cv_kpts


@pytest.mark.parametrize(
    ("size", "expected"),
    [((100, 200), (256, 512)), ((600, 700), (600, 700)), ((1536, 1000), (768, 500)), ((512, 512), (512, 512))],
)
def test_resize_image_brings_the_longer_side_into_the_range(size: tuple[int, int], expected: tuple[int, int]) -> None:
    assert resize_image(torch.rand(3, *size)).shape[1:] == expected


def test_resize_image_is_antialiased() -> None:
    stripes = (torch.arange(1536) % 2).float().expand(3, 64, -1)
    inner = resize_image(stripes)[:, :, 8:-8]
    assert (inner - 0.5).abs().max() < 0.1


def test_keypoints_and_matches_become_opencvs() -> None:
    keypoints = to_cv_kpts(torch.tensor([[1.5, 2.0], [3.0, 4.0]]), torch.tensor([0.5, 0.25]))
    assert [point.pt for point in keypoints] == [(1.5, 2.0), (3.0, 4.0)]
    assert [point.response for point in keypoints] == [0.5, 0.25]
    [match] = cv2_matches_from_kornia(torch.tensor([[0.75]]), torch.tensor([[3, 7]]))
    assert (match.queryIdx, match.trainIdx, match.distance) == (3, 7, 0.75)
    assert to_cv_kpts(torch.zeros(0, 2), torch.zeros(0)) == []
    assert list(cv2_matches_from_kornia(torch.zeros(0, 1), torch.zeros(0, 2, dtype=torch.long))) == []


@pytest.mark.slow
def test_the_published_example(tmp_path: Path, photos: list[Path]) -> None:
    """Two photos through the published calls; random weights, so that only the plumbing is judged."""
    kornia_feature = pytest.importorskip("kornia.feature")
    ransac = pytest.importorskip("kornia.geometry.ransac")
    torch.save(build("vgg_hyper").state_dict(), tmp_path / "weights.pth")

    model = vgg_hyper(model_path=tmp_path / "weights.pth").to("cpu")
    model.eval()
    image1, image2 = (resize_image(as_rgb(path)[:, :240, :320], 128, 160) for path in photos)
    kpts_1, desc_1, score_1 = model.detectAndCompute(image1, threshold=-1e6, top_k=256)
    kpts_2, desc_2, score_2 = model.detectAndCompute(image2, threshold=-1e6, top_k=256)
    match_dists, match_idxs = kornia_feature.DescriptorMatcher("mnn")(desc_1, desc_2)
    matched_1, matched_2 = kpts_1[match_idxs[:, 0]], kpts_2[match_idxs[:, 1]]
    _, mask = ransac.RANSAC(model_type="fundamental", inl_th=1.0)(matched_1, matched_2)
    assert len(mask) == len(match_dists) > 8

    arrays = [(image.permute(1, 2, 0).numpy() * 255).astype(np.uint8) for image in (image1, image2)]
    drawn = cv2.drawMatches(
        arrays[0],
        to_cv_kpts(kpts_1, score_1),
        arrays[1],
        to_cv_kpts(kpts_2, score_2),
        cv2_matches_from_kornia(match_dists, match_idxs),
        None,
        matchesMask=mask.int().flatten().tolist(),
    )
    assert drawn.shape[1] == arrays[0].shape[1] + arrays[1].shape[1]
