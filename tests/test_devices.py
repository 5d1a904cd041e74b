"""Extraction on every device and in every precision, against float32 on the CPU."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import ripe
from ripe.features import Features
from ripe.pretrained import build

CONVERSIONS = {
    "float32": torch.nn.Module.float,
    "float64": torch.nn.Module.double,
    "float16": torch.nn.Module.half,
    "bfloat16": torch.nn.Module.bfloat16,
}


@pytest.fixture(scope="module")
def photo(photos: list[Path]) -> np.ndarray:
    with Image.open(photos[0]) as image:
        return np.array(image.resize((320, 240)))


@pytest.fixture(scope="module")
def expected(photo: np.ndarray) -> Features:
    return ripe.load(device="cpu").extract(photo, max_keypoints=300)[0]


def assert_close(found: Features, expected: Features, device: torch.device, dtype: str) -> None:
    """The same to rounding in full precision; mostly the same keypoints, and about their descriptors, in half."""
    assert {part.dtype for part in (found.keypoints, found.scores, found.descriptors)} == {torch.float32}
    assert {part.device.type for part in (found.keypoints, found.scores, found.descriptors)} == {device.type}
    assert (found.scores.diff() <= 0).all()
    found = found.to("cpu")
    # Computed as a product of matrices, small distances would lose their digits.
    distances = torch.cdist(expected.keypoints, found.keypoints, compute_mode="donot_use_mm_for_euclid_dist")
    distance, nearest = distances.min(dim=1)
    tolerance, share, similarity = (0.01, 0.98, 0.999) if dtype in ("float32", "float64") else (1.0, 0.8, 0.95)
    same = distance < tolerance
    assert same.float().mean() > share
    cosine = (expected.descriptors[same] * found.descriptors[nearest[same]]).sum(dim=1)
    assert cosine.median() > similarity


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_the_precision_that_load_is_asked_for(
    device: torch.device, dtype: str, photo: np.ndarray, expected: Features
) -> None:
    model = ripe.load(device=device, dtype=getattr(torch, dtype))
    assert_close(model.extract(photo, max_keypoints=300)[0], expected, device, dtype)


@pytest.mark.parametrize("dtype", CONVERSIONS)
def test_a_converted_model_extracts(device: torch.device, dtype: str, photo: np.ndarray, expected: Features) -> None:
    model = CONVERSIONS[dtype](ripe.load(device=device))
    assert_close(model.extract(photo, max_keypoints=300)[0], expected, device, dtype)
    keypoints, descriptors, scores = model.detectAndCompute(torch.from_numpy(photo).permute(2, 0, 1), top_k=300)
    assert_close(Features(keypoints, scores, descriptors, (320, 240)), expected, device, dtype)


@pytest.mark.parametrize("dtype", CONVERSIONS)
def test_the_converted_published_network_extracts(device: torch.device, dtype: str, photo: np.ndarray) -> None:
    """Random weights: how half precision rounds their scores says nothing, so only the form is judged."""
    model = CONVERSIONS[dtype](build("vgg_hyper").eval().to(device))
    [found] = model.extract(photo[:48, :64], max_keypoints=50, threshold=-1e6)
    assert len(found) == 50
    assert found.descriptors.dtype == torch.float32
    torch.testing.assert_close(found.descriptors.norm(dim=1).cpu(), torch.ones(50), rtol=1e-3, atol=1e-3)


@pytest.fixture
def double_by_default() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.mark.usefixtures("double_by_default")
def test_another_default_type_changes_nothing(device: torch.device, photo: np.ndarray, expected: Features) -> None:
    model = ripe.load(device=device)
    [found] = model.extract(photo, max_keypoints=300)
    assert_close(found, expected, device, "float32")
    [small] = model.extract(photo, max_keypoints=300, resize=200, masks=[np.ones((240, 320))])
    matches = ripe.match(found, small)
    geometry = ripe.estimate_geometry("homography", *matches.points(found, small), max_error=2.0)
    assert small.keypoints.dtype == matches.scores.dtype == torch.float32
    assert geometry.num_inliers > 20


def test_images_masks_and_model_may_be_on_different_devices(device: torch.device, photo: np.ndarray) -> None:
    model = ripe.load(device="cpu")
    image = torch.from_numpy(photo).permute(2, 0, 1).to(device)
    mask = torch.ones(240, 320, device=device)
    mask[:, :160] = 0
    for images in ([image, photo], [image, photo.astype(np.uint16) * 257]):
        first, second = model.extract(images, masks=[mask, mask.cpu()])
        torch.testing.assert_close(first.keypoints, second.keypoints, rtol=0, atol=1e-2)
        assert (first.keypoints[:, 0] >= 159.5).all()


def test_a_model_that_is_moved_extracts_where_it_is(
    device: torch.device, photo: np.ndarray, expected: Features
) -> None:
    model = ripe.load(device="cpu")
    model.extract(photo)
    assert_close(model.to(device).extract(photo, max_keypoints=300)[0], expected, device, "float32")
