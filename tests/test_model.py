"""The extractor's interface. The weights are random: what is tested holds for any."""

import copy
import io
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

import ripe
from ripe.features import Features
from ripe.images import as_rgb, read_image


def texture(height: int, width: int, seed: int = 0) -> torch.Tensor:
    """A 3×H×W image with structure of several scales."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand((1, 3, height // 8 + 1, width // 8 + 1), generator=generator)
    image = torch.nn.functional.interpolate(coarse, size=(height, width), mode="nearest")[0]
    return 0.8 * image + 0.2 * torch.rand((3, height, width), generator=generator)


def assert_same(first: Features, second: Features) -> None:
    assert first.image_size == second.image_size
    assert_close(first.keypoints, second.keypoints)
    assert_close(first.scores, second.scores, rtol=1e-4, atol=1e-4)
    assert_close(first.descriptors, second.descriptors, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("size", [(16, 16), (16, 200), (61, 97), (64, 64), (101, 50)])
def test_features_are_what_their_documentation_says(model: ripe.RIPE, size: tuple[int, int]) -> None:
    [found] = model.extract(texture(*size), max_keypoints=50)
    count = len(found)
    assert found.keypoints.shape == (count, 2)
    assert found.scores.shape == (count,)
    assert found.descriptors.shape == (count, model.descriptor_dim)
    assert found.image_size == (size[1], size[0])
    assert {found.keypoints.dtype, found.scores.dtype, found.descriptors.dtype} == {torch.float32}
    assert (found.scores.diff() <= 0).all()
    assert_close(found.descriptors.norm(dim=1), torch.ones(count))
    assert ((found.keypoints >= 0) & (found.keypoints <= torch.tensor([size[1] - 1, size[0] - 1]))).all()


@settings(max_examples=8, deadline=None)
@given(st.lists(st.tuples(st.integers(16, 70), st.integers(16, 70)), min_size=1, max_size=4))
def test_a_batch_gives_what_single_images_give(model: ripe.RIPE, sizes: list[tuple[int, int]]) -> None:
    images = [texture(*size, seed=index) for index, size in enumerate([*sizes, sizes[0]])]
    together = model.extract(images, max_keypoints=64)
    assert len(together) == len(images)
    for image, features in zip(images, together, strict=True):
        assert_same(features, model.extract(image, max_keypoints=64)[0])


def test_descriptors_are_sampled_where_the_keypoints_lie_in_an_image_of_any_size(model: ripe.RIPE) -> None:
    """Sizes that 16 does not divide are padded inside the network; positions must not stretch with the padding."""
    images = torch.rand(1, 3, 75, 101, generator=torch.Generator().manual_seed(0))
    keypoints = torch.tensor([[[0.0, 0.0], [50.25, 37.5], [99.0, 73.0], [3.0, 60.75]]])
    with torch.no_grad():
        maps = model(images)
        described = model.describe(maps, keypoints)
    columns = []
    for level, features in enumerate(maps.pyramid):
        places = (keypoints[0] + 0.5) / 2**level - 0.5  # a coarse pixel's centre is that of the pixels it covers
        height, width = features.shape[-2:]
        x, y = places[:, 0].clamp(0, width - 1), places[:, 1].clamp(0, height - 1)
        left, top = x.floor().long().clamp(max=width - 2), y.floor().long().clamp(max=height - 2)
        dx, dy = x - left, y - top
        plane = features[0]
        upper = plane[:, top, left] * (1 - dx) + plane[:, top, left + 1] * dx
        lower = plane[:, top + 1, left] * (1 - dx) + plane[:, top + 1, left + 1] * dx
        columns.append((upper * (1 - dy) + lower * dy).T)
    with torch.no_grad():
        expected = model.conv_dim_reduction_coarse_desc.layers(torch.cat(columns, dim=1))
    torch.testing.assert_close(described[0], torch.nn.functional.normalize(expected, dim=1), rtol=1e-3, atol=1e-5)


def test_a_batch_tensor_is_many_images(model: ripe.RIPE) -> None:
    batch = torch.stack([texture(40, 56, seed) for seed in range(3)])
    for single, features in zip(batch, model.extract(batch), strict=True):
        assert_same(features, model.extract(single)[0])


def test_paths_arrays_and_tensors_agree(model: ripe.RIPE, photos: list[Path]) -> None:
    expected, *others = model.extract(
        [photos[0], str(photos[0]), read_image(photos[0]), as_rgb(photos[0])], max_keypoints=200
    )
    assert len(expected) == 200
    for features in others:
        assert_same(features, expected)


def test_no_image_gives_no_features(model: ripe.RIPE) -> None:
    assert model.extract([]) == []


@pytest.mark.parametrize("image", [torch.zeros(3, 64, 64), torch.ones(3, 40, 50), texture(64, 64)])
def test_no_keypoint_is_a_valid_result(model: ripe.RIPE, image: torch.Tensor) -> None:
    [found] = model.extract(image, threshold=1e6)
    assert found.keypoints.shape == (0, 2)
    assert found.descriptors.shape == (0, model.descriptor_dim)
    keypoints, descriptors, scores = model.detectAndCompute(image, threshold=1e6)
    assert (len(keypoints), len(descriptors), len(scores)) == (0, 0, 0)


def test_a_constant_image_has_finite_features(model: ripe.RIPE) -> None:
    [found] = model.extract(torch.full((3, 64, 64), 0.5))
    assert torch.isfinite(found.descriptors).all()


def test_max_keypoints_keeps_the_best(model: ripe.RIPE) -> None:
    image = texture(96, 96)
    [every] = model.extract(image, max_keypoints=10_000)
    [best] = model.extract(image, max_keypoints=10)
    assert len(best) == 10 < len(every)
    assert_same(best, every[:10])


def test_threshold_is_the_least_score(model: ripe.RIPE) -> None:
    image = texture(96, 96)
    [every] = model.extract(image, max_keypoints=10_000, threshold=-1e6)
    middle = float(every.scores.median())
    [upper] = model.extract(image, max_keypoints=10_000, threshold=middle)
    assert_same(upper, every[every.scores > middle])


def test_keypoints_stay_inside_the_mask(model: ripe.RIPE) -> None:
    image = texture(80, 80)
    mask = torch.zeros(80, 80, dtype=torch.bool)
    mask[:, 40:] = True
    free, masked = model.extract([image, image], masks=[None, mask], threshold=-1e6)
    assert (free.keypoints[:, 0] < 39).any()
    assert len(masked) > 0
    assert (masked.keypoints[:, 0] >= 39.5).all()


def test_masks_follow_resized_images(model: ripe.RIPE) -> None:
    mask = torch.zeros(80, 80)
    mask[:40] = 255
    [masked] = model.extract(texture(80, 80), masks=[mask], resize=160, threshold=-1e6)
    assert len(masked) > 0
    assert (masked.keypoints[:, 1] < 40).all()


def test_resized_images_give_keypoints_in_original_pixels(model: ripe.RIPE) -> None:
    image = texture(120, 160)
    [small] = model.extract(image, resize=80)
    assert small.image_size == (160, 120)
    assert small.keypoints[:, 0].max() > 80
    [direct] = model.extract(torch.nn.functional.interpolate(image[None], (60, 80), mode="bilinear", antialias=True)[0])
    assert_close(small.keypoints, (direct.keypoints + 0.5) * 2 - 0.5)


@pytest.mark.parametrize(
    "arguments",
    [
        {"max_keypoints": 0},
        {"resize": 15},
        {"masks": []},
        {"masks": [torch.ones(3, 3)]},
    ],
)
def test_unusable_arguments_are_refused(model: ripe.RIPE, arguments: dict) -> None:
    with pytest.raises(ValueError, match=r"max_keypoints|resize|mask"):
        model.extract(texture(32, 32), **arguments)


def test_a_thin_image_is_not_resized_to_nothing(model: ripe.RIPE) -> None:
    with pytest.raises(ValueError, match="resize"):
        model.extract(texture(20, 400), resize=100)


def test_changed_weights_change_the_features(model: ripe.RIPE) -> None:
    """The copy made for inference must never be stale."""
    trained = copy.deepcopy(model)
    image = texture(64, 64)
    [before] = trained.extract(image)
    with torch.no_grad():
        for parameter in trained.net.parameters():
            parameter.mul_(1.5)
    [after] = trained.extract(image)
    assert not torch.equal(before.scores, after.scores)
    assert_same(before, model.extract(image)[0])


def test_extraction_leaves_the_training_mode_alone(model: ripe.RIPE) -> None:
    trained = copy.deepcopy(model).train()
    statistics = {name: buffer.clone() for name, buffer in trained.named_buffers()}
    [features] = trained.extract(texture(64, 64))
    assert trained.training
    assert all(torch.equal(buffer, statistics[name]) for name, buffer in trained.named_buffers())
    assert_same(features, model.extract(texture(64, 64))[0])


def test_a_model_can_be_pickled(model: ripe.RIPE) -> None:
    model.extract(texture(32, 32))
    restored = pickle.load(io.BytesIO(pickle.dumps(model)))
    assert_same(restored.extract(texture(64, 64))[0], model.extract(texture(64, 64))[0])


def test_bfloat16_finds_mostly_the_same(photos: list[Path], random_weights: Path) -> None:
    exact = ripe.load(random_weights, device="cpu").extract(photos[0], max_keypoints=500)[0]
    rounded = ripe.load(random_weights, device="cpu", dtype=torch.bfloat16).extract(photos[0], max_keypoints=500)[0]
    assert rounded.scores.dtype == rounded.descriptors.dtype == torch.float32
    nearest = torch.cdist(exact.keypoints, rounded.keypoints).min(dim=1).values
    assert (nearest < 2).float().mean() > 0.7


def test_detect_and_compute_returns_the_published_tuple(model: ripe.RIPE) -> None:
    image = texture(64, 80)
    keypoints, descriptors, scores = model.detectAndCompute(image, threshold=-1e6, top_k=30)
    assert keypoints.shape == (30, 2)
    assert descriptors.shape == (30, model.descriptor_dim)
    assert scores.shape == (30,)
    assert torch.equal(keypoints, keypoints.round())
    assert np.isclose(scores.abs().max(), 1) or scores.max() <= 1
    for same, single in zip(
        model.detectAndCompute(image[None], -1e6, 30), (keypoints, descriptors, scores), strict=True
    ):
        assert_close(same, single)
    batch = model.detectAndCompute(torch.stack([image, image]), -1e6, 30)
    assert isinstance(batch, list)
    assert_close(batch[1][0], keypoints)
