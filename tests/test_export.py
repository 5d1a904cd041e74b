"""ONNX files of our networks compute what PyTorch computes."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torch.testing import assert_close

import ripe
from ripe import runtime
from ripe.cli import main
from ripe.detection import DetectionSettings, detect, detect_padded
from ripe.export import export
from ripe.networks import vgg
from ripe.networks.dense import DescriptorHead
from ripe.networks.descriptors import sample_map, sample_rows
from ripe.networks.folding import fold
from ripe.networks.lightglue import Points, normalised
from ripe.networks.vgg import VggNet, descriptor_head
from ripe.pretrained import weights_hash

onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")


@pytest.mark.parametrize("subpixel", [False, True])
@pytest.mark.parametrize("most", [1, 7, 10_000])
def test_a_padded_batch_holds_what_single_maps_give(subpixel: bool, most: int) -> None:
    """Also where scores are equal within a map, where a map has none, and where nothing lies inside the border."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(3, 33, 47, generator=generator)
    logits[2] = -5
    settings = DetectionSettings(threshold=0.3, nms_radius=2, border=3, subpixel=subpixel)
    keypoints, scores, counts = detect_padded(logits, settings, torch.tensor(0.3), torch.tensor(most))
    assert counts[2] == 0
    assert scores.shape[1] == counts.max() <= most
    for index, count in enumerate(counts):
        expected_keypoints, expected_scores = detect(logits[index], settings, most)
        assert torch.equal(keypoints[index, :count], expected_keypoints)
        assert torch.equal(scores[index, :count], expected_scores)
        assert (scores[index, count:] == -torch.inf).all()


@pytest.mark.parametrize("size", [(16, 16), (97, 45), (128, 160)])
def test_the_exported_network_has_the_same_maps(model: ripe.RIPE, size: tuple[int, int]) -> None:
    network = fold(model).net
    images = torch.rand(2, 3, *size, generator=torch.Generator().manual_seed(0))
    expected = network(images)
    found = network.for_export()(images)
    assert_close(found.logits, expected.logits, rtol=1e-4, atol=1e-4)
    for ours, theirs in zip(found.pyramid, expected.pyramid, strict=True):
        assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("size", [(1, 1), (1, 4), (5, 3)])
def test_rows_of_pixels_give_what_sampling_gives(size: tuple[int, int]) -> None:
    """Beyond the image's border, too."""
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(2, 7, *size, generator=generator)
    whole = 8 * size[0], 8 * size[1]
    keypoints = (torch.rand(2, 50, 2, generator=generator) * 1.4 - 0.2) * torch.tensor([whole[1], whole[0]])
    expected = sample_map(features, keypoints, whole, align_corners=False)
    assert_close(sample_rows(features, keypoints, whole), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_the_command_writes_a_file_that_says_what_it_is(
    photos: list[Path], random_weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "mine.onnx"
    assert main(["export", str(random_weights), "-o", str(path)]) == 0
    assert capsys.readouterr().out.startswith(f"compact in {path}, 3.")
    assert [entry.name for entry in tmp_path.iterdir()] == ["mine.onnx"]
    assert b"export.py" not in path.read_bytes()  # nor where on this machine it lies
    model = ripe.load(random_weights, device="cpu")
    extractor = runtime.load(path, threads=1)
    assert extractor.metadata["weights_sha256"] == weights_hash(model)
    assert extractor.metadata["license"] == "not stated"
    assert extractor.metadata["version"] == ripe.__version__
    assert json.loads(extractor.metadata["detection"])["nms_radius"] == 2
    with Image.open(photos[0]) as image:
        pixels = np.asarray(image.resize((200, 150)))
    [found], [expected] = (one.extract(pixels, threshold=-1e9, max_keypoints=None) for one in (extractor, model))
    assert abs(len(found) - len(expected)) < 0.01 * len(expected)
    distance = np.linalg.norm(found.keypoints[:, None] - expected.keypoints.numpy(), axis=-1)
    near = distance.min(axis=1) < 0.05
    assert near.mean() > 0.99
    cosine = (found.descriptors * expected.descriptors.numpy()[distance.argmin(axis=1)]).sum(axis=1)
    assert cosine[near].min() > 0.999


class _BothHeads(DescriptorHead):
    """The published descriptor and its variant side by side: an export takes long, so that one has to do."""

    def __init__(self) -> None:
        super().__init__()
        sparse = descriptor_head(descriptor_dim=32, interpolation="interpolate_sparse2D")
        self.heads = nn.ModuleList([descriptor_head(descriptor_dim=32), sparse])
        self.dim = 64

    def forward(
        self, pyramid: Sequence[Tensor], keypoints: Tensor, image_size: tuple[int, int], frames: None = None
    ) -> Tensor:
        return torch.cat([head(pyramid, keypoints, image_size, frames) for head in self.heads], dim=-1)


@pytest.mark.slow
def test_the_published_network_is_exported_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With random weights, two of four stages and few layers in each, as the export of all takes long."""
    for name, value in {"CHANNELS": (16, 32), "STRIDES": (1, 2), "CONVOLUTIONS": (1, 1), "HIDDEN_BLOCKS": 1}.items():
        monkeypatch.setattr(vgg, name, value)
    torch.manual_seed(0)
    model = ripe.RIPE("vgg_hyper", VggNet(), _BothHeads(), DetectionSettings(threshold=0.5)).eval()
    export(model, tmp_path / "vgg.onnx", license="none")
    images = np.random.default_rng(0).random((2, 3, 53, 70), dtype=np.float32)
    session = onnxruntime.InferenceSession(tmp_path / "vgg.onnx", providers=["CPUExecutionProvider"])
    feed = {"image": images, "threshold": np.array(-1e9, np.float32), "max_keypoints": np.array(100)}
    keypoints, scores, descriptors, counts = session.run(None, feed)
    assert counts.tolist() == [100, 100]
    for index, image in enumerate(torch.from_numpy(images)):
        expected, their_descriptors, _ = model.detectAndCompute(image, threshold=-1e9, top_k=100)
        places = {tuple(place): row for row, place in enumerate(expected.long().tolist())}
        rows = [places.get(tuple(place)) for place in keypoints[index].astype(int).tolist()]
        shared = [row for row, place in enumerate(rows) if place is not None]
        assert len(shared) >= 97
        others = their_descriptors[[rows[row] for row in shared]].numpy()
        np.testing.assert_allclose(descriptors[index, shared], others, atol=1e-3)
    assert (np.diff(scores, axis=1) <= 0).all()


def test_a_folder_that_is_not_there_is_named_before_the_work(tmp_path: Path, model: ripe.RIPE) -> None:
    with pytest.raises(FileNotFoundError, match="there is no folder"):
        export(model, tmp_path / "nowhere" / "a.onnx")


def test_without_its_packages_it_says_what_to_install(
    tmp_path: Path, model: ripe.RIPE, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "onnxscript", None)
    with pytest.raises(ValueError, match=r"pip install 'ripe-keypoints\[export\]'"):
        export(model, tmp_path / "a.onnx")
    assert not list(tmp_path.iterdir())


def features_of(count: int, seed: int) -> runtime.Features:
    """Random features of an image of 320×240 pixels."""
    rng = np.random.default_rng(seed)
    descriptors = rng.normal(size=(count, 128)).astype(np.float32)
    descriptors /= np.linalg.norm(descriptors, axis=1, keepdims=True)
    keypoints = (rng.random((count, 2)) * 200).astype(np.float32)
    return runtime.Features(keypoints, np.zeros(count, dtype=np.float32), descriptors, (320, 240))


@pytest.mark.slow
def test_a_matcher_is_exported_for_any_number_of_keypoints(
    random_matcher: ripe.Matcher, matcher_weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "matcher.onnx"
    assert main(["export", str(matcher_weights), "-o", str(path)]) == 0
    assert capsys.readouterr().out.startswith(f"lightglue in {path}, ")
    exported = runtime.load_matcher(path, threads=1)
    assert exported.metadata["extractor_sha256"] == "a hash"
    assert exported.metadata["weights_sha256"] == random_matcher.settings()["matcher_weights"]
    for counts in ((60, 50), (1, 1), (1, 40), (200, 7)):
        sides = [features_of(count, seed) for seed, count in enumerate(counts)]
        points = [
            Points(normalised(torch.from_numpy(s.keypoints), s.image_size)[None], torch.from_numpy(s.descriptors)[None])
            for s in sides
        ]
        indices, scores = random_matcher.network.match(*points, early=False)
        for least in (0.0, 0.01):
            found = exported(*sides, min_score=least)
            assert found.indices.tolist() == indices[scores >= least].tolist()
            np.testing.assert_allclose(found.scores, scores[scores >= least], rtol=1e-4, atol=1e-6)
    assert len(exported(features_of(0, 0), features_of(5, 1))) == 0
    with pytest.raises(ValueError, match="features0: the matcher is for descriptors of 128 numbers, these have 64"):
        exported(*[runtime.Features(s.keypoints, s.scores, s.descriptors[:, :64], s.image_size) for s in sides])
    with pytest.raises(ValueError, match="not an extractor that `ripe export` has written"):
        runtime.load(path)
    with pytest.raises(ValueError, match="not a matcher that `ripe export` has written"):
        runtime.load_matcher(runtime.COMPACT)
