"""The published network against recorded outputs of the published implementation.

Both have the same reproducible weights, so the recorded numbers can be compared one by one. They were computed on crops
of scikit-image's photo of an astronaut.
"""

import functools
import json
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from skimage import data
from torch import Tensor
from torch.testing import assert_close

from ripe.detection import DetectionSettings, detect
from ripe.model import RIPE
from ripe.pretrained import build_vgg_hyper

DATA = Path(__file__).parent / "data"
REFERENCE = np.load(DATA / "reference_outputs.npz")
CASES = {  # options of the builder, rows and columns of the crop
    "vgg_hyper": ({}, slice(100, 356), slice(150, 470)),
    "vgg_hyper_odd_size": ({}, slice(40, 243), slice(60, 377)),
    "desc_shares": ({"desc_shares": [64, 64, 64, 64]}, slice(100, 356), slice(150, 470)),
    "interpolate_sparse": ({"interpolation": "interpolate_sparse2D"}, slice(100, 356), slice(150, 470)),
}


def reproducible(key: str, shape: tuple[int, ...]) -> np.ndarray:
    """The weights that the recorded outputs were computed with: a function of the key and the shape alone."""
    generator = np.random.RandomState(zlib.crc32(key.encode()) & 0x7FFFFFFF)
    name = key.rsplit(".", 1)[-1]
    if name == "num_batches_tracked":
        return np.zeros(shape)
    if name == "running_var":
        return 0.5 + generator.random_sample(shape)
    normal = generator.standard_normal(shape)
    if name == "running_mean":
        return 0.1 * normal
    if name == "bias":
        return 0.05 * normal
    if len(shape) == 1:
        return 1 + 0.1 * normal
    gain = 2.0 if ".encoder." in key else 0.8
    return normal * np.sqrt(gain / np.prod(shape[1:]))


class Case:
    """A recorded case, with the model and the image that it belongs to."""

    def __init__(self, name: str) -> None:
        options, rows, columns = CASES[name]
        self.model: RIPE = build_vgg_hyper(**options).eval()
        state = self.model.state_dict()
        self.model.load_state_dict(
            {key: torch.from_numpy(np.asarray(reproducible(key, value.shape))) for key, value in state.items()}
        )
        self.image = torch.from_numpy(data.astronaut())[rows, columns].permute(2, 0, 1).float() / 255
        self.threshold = float(REFERENCE[f"{name}/threshold"])
        self.top_k = int(REFERENCE[f"{name}/top_k"])
        self.heatmap, self.keypoints, self.scores, self.descriptors = (
            torch.from_numpy(REFERENCE[f"{name}/{field}"])
            for field in ("heatmap", "keypoints", "scores", "descriptors")
        )

    def check(self, keypoints: Tensor, descriptors: Tensor, scores: Tensor) -> None:
        """1e-4 relative for the numbers, whose largest are about 1; the same keypoints in the same order.

        Two recorded scores differ by 1e-6, which is rounding: such neighbours may change places.
        """
        place = {position: index for index, position in enumerate(map(tuple, self.keypoints.tolist()))}
        order = torch.tensor([place[position] for position in map(tuple, keypoints.tolist())])
        assert order.unique().tolist() == list(range(len(self.keypoints)))
        assert_close(self.scores[order], self.scores, rtol=0, atol=5e-6)
        assert_close(scores, self.scores[order], rtol=1e-4, atol=1e-5)
        assert_close(descriptors, self.descriptors[order], rtol=1e-4, atol=1e-5)


recorded = functools.cache(Case)


@pytest.fixture(params=list(CASES))
def case(request: pytest.FixtureRequest) -> Case:
    return recorded(request.param)


def test_state_dict_has_the_published_names_and_shapes() -> None:
    published = json.loads((DATA / "state_dict_shapes.json").read_text())
    state = build_vgg_hyper().state_dict()
    assert {key: list(value.shape) for key, value in state.items()} == published
    assert sum(value.numel() for value in state.values()) == 14_830_005


def test_plain_network_computes_the_published_results(case: Case) -> None:
    with torch.no_grad():
        maps = case.model(case.image[None])
        keypoints, scores = detect(maps.logits[0, 0], DetectionSettings(case.threshold), case.top_k)
        descriptors = case.model.describe(maps, keypoints[None])[0]
    assert_close(maps.logits[0, 0], case.heatmap, rtol=1e-4, atol=1e-4)
    case.check(keypoints, descriptors, scores / maps.logits.max())


def test_detect_and_compute_gives_the_published_results(case: Case) -> None:
    case.check(*case.model.detectAndCompute(case.image, threshold=case.threshold, top_k=case.top_k))


def test_an_image_in_a_batch_gives_what_it_gives_alone() -> None:
    case = recorded("vgg_hyper_odd_size")
    results = case.model.detectAndCompute(torch.stack([case.image, case.image.flip(2)]), case.threshold, case.top_k)
    assert len(results) == 2
    case.check(*results[0])


def test_half_precision_finds_about_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    case = recorded("vgg_hyper_odd_size")
    monkeypatch.setattr(case.model, "compute_dtype", torch.bfloat16)
    keypoints, descriptors, scores = case.model.detectAndCompute(case.image, case.threshold, case.top_k)
    assert torch.isfinite(descriptors).all()
    assert torch.isfinite(scores).all()
    nearest = torch.cdist(keypoints, case.keypoints).min(dim=1).values
    assert (nearest < 1.5).float().mean() > 0.9


def test_no_reduction_keeps_all_samples() -> None:
    model = build_vgg_hyper(descriptor_dim=None).eval()
    assert model.descriptor_dim == 960
    assert not any(key.startswith("conv_dim") for key in model.state_dict())
    _, descriptors, _ = model.detectAndCompute(torch.rand(3, 32, 48), threshold=-1e9, top_k=10)
    assert descriptors.shape == (10, 960)
    assert_close(descriptors.norm(dim=1), torch.ones(10))


def test_options_that_do_not_go_together_are_refused() -> None:
    with pytest.raises(ValueError, match="sum"):
        build_vgg_hyper(desc_shares=[64, 64, 64, 64], descriptor_dim=128)
    with pytest.raises(ValueError, match="interpolate_sparse2D"):
        build_vgg_hyper(interpolation="bilinear")  # type: ignore[arg-type]


def test_input_normalisation_makes_the_range_of_values_irrelevant_and_can_be_left_out() -> None:
    images = torch.rand(1, 3, 32, 32)
    normalised, bare = (build_vgg_hyper(normalise_input=switch).eval() for switch in (True, False))
    bare.load_state_dict(normalised.state_dict())
    with torch.no_grad():
        assert_close(normalised(3 * images + 1).logits, normalised(images).logits, rtol=1e-3, atol=1e-3)
        standard = torch.nn.functional.instance_norm(images)
        assert_close(bare(standard).logits, normalised(images).logits)
        assert not torch.allclose(bare(images).logits, normalised(images).logits, atol=1e-3)
