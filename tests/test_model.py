"""The extractor's interface. The weights are random: what is tested holds for any."""

import copy
import io
import pickle
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch.testing import assert_close

import ripe
from ripe.features import Features
from ripe.images import as_rgb, read_image
from ripe.inference import READ_AHEAD


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


@pytest.mark.parametrize("resize", [None, 61, 128, 370])
def test_no_keypoint_lies_where_the_mask_is_zero_whatever_the_network_saw(model: ripe.RIPE, resize: int | None) -> None:
    """Where keypoints end up is asked, by each way to round a position, in a mask of holes as small as a pixel."""
    image = texture(150, 200)
    mask = np.random.default_rng(0).random((150, 200)) > 0.3
    [free] = model.extract(image, resize=resize, threshold=-1e6, max_keypoints=None)
    [found] = model.extract(image, resize=resize, threshold=-1e6, max_keypoints=None, masks=[mask])
    assert 0 < len(found) < len(free)
    for rounded in (found.keypoints.round(), (found.keypoints + 0.5).floor(), (found.keypoints - 0.5).ceil()):
        columns, rows = rounded.int().T.numpy()
        assert mask[rows, columns].all()
    [best] = model.extract(image, resize=resize, threshold=-1e6, max_keypoints=20, masks=[mask])
    assert len(best) == 20
    assert_same(best, found[:20])


def test_masks_may_be_arrays_pillow_images_or_files(model: ripe.RIPE, tmp_path: Path) -> None:
    mask = np.zeros((80, 80), dtype=np.uint8)
    mask[:40] = 255
    mask.flags.writeable = False
    kinds = [mask, torch.from_numpy(mask.copy()), Image.fromarray(mask), mask > 0, mask.astype(np.float64)]
    colours = Image.fromarray(np.stack([mask, 0 * mask, 0 * mask], axis=2))
    Image.fromarray(mask > 0).save(tmp_path / "bits.png")
    colours.quantize(4).save(tmp_path / "palette.png")
    kinds += [colours, tmp_path / "bits.png", str(tmp_path / "palette.png")]
    expected, *others = model.extract([texture(80, 80)] * len(kinds), masks=kinds, threshold=-1e6)
    for found in others:
        assert_same(found, expected)


def test_a_mask_of_another_size_is_named_with_its_image(model: ripe.RIPE, tmp_path: Path) -> None:
    image, mask = tmp_path / "photo.png", tmp_path / "mask.png"
    Image.new("RGB", (64, 48)).save(image)
    Image.new("L", (48, 64)).save(mask)
    with pytest.raises(ValueError, match=r"mask\.png is 48×64 pixels, and .*photo\.png is 64×48"):
        model.extract(image, masks=[mask])
    failures: list[str] = []
    images = model.extract_stream(
        [image, image], masks=[mask, None], failed=lambda index, error: failures.append(f"{index} {error}")
    )
    assert [index for index, _ in images] == [1]
    assert failures[0].startswith("0 ")


def test_smaller_images_keep_their_size_unless_enlarged(model: ripe.RIPE) -> None:
    image = texture(60, 80)
    assert_same(model.extract(image, resize=160, enlarge=False)[0], model.extract(image)[0])
    assert_same(model.extract(image, resize=40, enlarge=False)[0], model.extract(image, resize=40)[0])


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


@pytest.mark.parametrize("part", ["net", "conv_dim_reduction_coarse_desc"])
def test_weights_changed_behind_pytorchs_back_change_the_features(model: ripe.RIPE, part: str) -> None:
    """`.data`, NumPy and buffers count no version; nor does loading what was there before."""
    trained = copy.deepcopy(model)
    image = texture(64, 64)
    [before] = trained.extract(image)
    changed = getattr(trained, part)
    state = copy.deepcopy(trained.state_dict())
    first = next(changed.parameters())

    def differs() -> bool:
        return not torch.equal(trained.extract(image)[0].descriptors, before.descriptors)

    first.data.mul_(3.0).add_(0.5)
    assert differs()
    trained.load_state_dict(state)
    assert not differs()
    first.detach().numpy()[:] += 0.5
    assert differs()
    trained.load_state_dict(state)
    for buffer in changed.buffers():
        buffer.data.mul_(2)
    assert differs() == (part == "net")


def test_the_copy_is_made_once(model: ripe.RIPE) -> None:
    made = model._folded.of(model)
    assert model._folded.of(model) is made


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


def test_scores_fall_where_the_whole_map_is_negative(model: ripe.RIPE) -> None:
    lowered = copy.deepcopy(model)
    lowered.net.cell_score.bias.data.sub_(100)
    image = texture(64, 80)
    keypoints, _, scores = lowered.detectAndCompute(image, threshold=-1e6)
    assert len(scores) > 20
    assert (scores < 0).all()
    assert (scores.diff() <= 0).all()
    expected = model.detectAndCompute(image, threshold=-1e6)[0]  # ties may differ where the numbers are large
    assert abs(len(keypoints) - len(expected)) <= 0.1 * len(expected)


def test_without_a_threshold_detect_and_compute_uses_the_networks_own_detector(model: ripe.RIPE) -> None:
    image = texture(64, 80)
    [expected] = model.extract(image)
    keypoints, descriptors, scores = model.detectAndCompute(image)
    assert not torch.equal(keypoints, keypoints.round())
    assert_close(keypoints, expected.keypoints)
    assert_close(descriptors, expected.descriptors)
    assert (scores.diff() <= 0).all()


@pytest.mark.parametrize("call", ["extract", "detectAndCompute"])
def test_results_are_ordinary_tensors(model: ripe.RIPE, call: str) -> None:
    """A head can be trained on them, and they can be changed in place."""
    if call == "extract":
        [found] = model.extract(texture(64, 64))
        keypoints, descriptors, scores = found.keypoints, found.descriptors, found.scores
    else:
        keypoints, descriptors, scores = model.detectAndCompute(texture(64, 64))
    head = torch.nn.Linear(descriptors.shape[1], 1)
    (head(descriptors).sum() + scores.sum()).backward()
    assert head.weight.grad is not None
    before = keypoints.clone()
    keypoints[:, 0] += 10
    assert_close(keypoints - before, torch.tensor([10.0, 0.0]).expand(len(before), 2))


def test_results_belong_to_the_caller(model: ripe.RIPE) -> None:
    [found] = model.extract(texture(64, 64))
    before = found.keypoints.clone()
    found.keypoints[:, 0] += 10
    found.keypoints += 1
    assert_close(found.keypoints, before + torch.tensor([11.0, 1.0]))
    found.descriptors = found.descriptors[:, :4]
    assert found[:3].descriptors.shape == (3, 4)


def test_results_can_be_compared_and_kept_in_sets(model: ripe.RIPE) -> None:
    first, second = model.extract([texture(64, 64)] * 2)
    matches = [ripe.match(first, second) for _ in range(2)]
    geometries = [ripe.estimate_geometry("homography", *m.points(first, second), max_error=2.0) for m in matches]
    for one, other in ((first, second), matches, geometries):
        assert one == one
        assert one != other
        assert {one, other, one} == {other, one}


@pytest.mark.parametrize("limit", [0, -1])
def test_all_keypoints_can_be_asked_for(model: ripe.RIPE, limit: int) -> None:
    image = texture(96, 96)
    [every] = model.extract(image, max_keypoints=None)
    assert_same(every, model.extract(image, max_keypoints=10_000)[0])
    assert len(model.detectAndCompute(image, top_k=None)[0]) == len(every)
    with pytest.raises(ValueError, match=f"max_keypoints is {limit}"):
        model.extract(image, max_keypoints=limit)
    with pytest.raises(ValueError, match=f"top_k is {limit}"):
        model.detectAndCompute(image, top_k=limit)


def test_pillow_images_and_generators_are_taken(model: ripe.RIPE, photos: list[Path]) -> None:
    with Image.open(photos[0]) as photo:
        small = photo.resize((96, 64))
    [expected] = model.extract(np.asarray(small))
    for found in (*model.extract(small), *model.extract(image for image in [small, small])):
        assert_same(found, expected)
    assert_close(model.detectAndCompute(small)[0], expected.keypoints)


def test_a_stream_is_lazy_in_order_and_goes_on_past_bad_images(model: ripe.RIPE, tmp_path: Path) -> None:
    images: list[Path] = []
    for index, size in enumerate([(64, 80), (80, 64), (64, 80)] * 5):
        path = tmp_path / f"{index}.png"
        Image.fromarray((texture(*size, seed=index) * 255).byte().permute(1, 2, 0).numpy()).save(path)
        images.append(path)
    images[4].write_text("no image")
    images[7].unlink()
    Image.new("RGB", (400, 20)).save(images[9])
    failures: dict[int, str] = {}
    found = dict(
        model.extract_stream(images, resize=100, failed=lambda index, error: failures.update({index: str(error)}))
    )
    assert list(found) == sorted(set(range(15)) - {4, 7, 9})
    assert list(failures) == [4, 7, 9]
    assert all(str(images[index]) in message for index, message in failures.items())
    for index in (0, 1, 14):
        assert_same(found[index], model.extract(images[index], resize=100)[0])
    with pytest.raises(ValueError, match=r"4\.png: not an image"):
        list(model.extract_stream(images))


def test_a_stream_takes_no_more_images_than_it_needs(model: ripe.RIPE, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ripe.inference.MAX_PIXELS_GATHERED", 3 * 64 * 64)
    taken = 0

    def images() -> Iterator[torch.Tensor]:
        nonlocal taken
        for seed in range(100):
            taken += 1
            yield texture(64, 64, seed)

    stream = model.extract_stream(images())
    assert taken == 0
    assert [next(stream)[0] for _ in range(3)] == [0, 1, 2]
    assert taken == 3 + READ_AHEAD
    stream.close()
    with pytest.raises(ValueError, match="max_keypoints"):  # at once, not when the first result is asked for
        model.extract_stream(images(), max_keypoints=0)


PEAK = """
import resource, sys
import ripe
model = ripe.load(sys.argv[1], device="cpu")
found = model.extract([sys.argv[2]] * int(sys.argv[3]), resize=320, max_keypoints=100)
assert len(found) == int(sys.argv[3])
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="tells no peak of memory")
def test_memory_does_not_grow_with_the_number_of_photos(random_weights: Path, tmp_path: Path) -> None:
    photo = tmp_path / "12_megapixels.bmp"
    Image.effect_noise((25, 19), 60).resize((4000, 3000)).convert("RGB").save(photo)

    def peak(count: int) -> int:
        command = [sys.executable, "-c", PEAK, str(random_weights), str(photo), str(count)]
        return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)

    # How many of few photos are read at the same moment is up to the threads.
    few = max(peak(4) for _ in range(2))
    assert peak(40) <= 1.3 * few
