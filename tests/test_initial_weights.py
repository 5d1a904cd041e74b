"""What a run starts from: a trained model's weights, or an encoder that was trained on ImageNet."""

import hashlib
from pathlib import Path

import pytest
import torch
from test_pretrained import Server, server  # noqa: F401 (a fixture)
from torch import nn

import ripe
from ripe.pretrained import build, weights_hash
from ripe.training import initial
from ripe.training.initial import load_imagenet_encoder, load_initial

# Configuration E of Simonyan and Zisserman (ICLR 2015): output channels of the convolutions, M for a pool.
VGG19 = [64, 64, "M", 128, 128, "M", *[256] * 4, "M", *[512] * 4, "M", *[512] * 4, "M"]


def made_vgg19_bn() -> dict[str, torch.Tensor]:
    """A state dict as torchvision's vgg19_bn has it (but for a small classifier): features, a flat list of layers."""
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    previous = 3
    for width in VGG19:
        if width == "M":
            layers.append(nn.MaxPool2d(2, 2))
        else:
            layers += [nn.Conv2d(previous, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU()]
            previous = width
    for layer in layers:
        if isinstance(layer, nn.BatchNorm2d):
            layer.running_mean.uniform_(-1, 1)
            layer.running_var.uniform_(0.5, 2)
    state = {f"features.{key}": value for key, value in nn.Sequential(*layers).state_dict().items()}
    assert len(layers) == 53
    return {**state, "classifier.0.weight": torch.zeros(2, 2)}


@pytest.fixture(scope="module")
def imagenet_state() -> dict[str, torch.Tensor]:
    return made_vgg19_bn()


@pytest.fixture(scope="module")
def imagenet_file(imagenet_state: dict[str, torch.Tensor], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Like the published file: of an old format, and without counts of batches."""
    path = tmp_path_factory.mktemp("imagenet") / "vgg19_bn.pth"
    kept = {key: value for key, value in imagenet_state.items() if not key.endswith("num_batches_tracked")}
    torch.save(kept, path, _use_new_zipfile_serialization=False)
    return path


def test_the_encoder_computes_what_the_first_stages_of_vgg19_compute(
    imagenet_state: dict[str, torch.Tensor], imagenet_file: Path
) -> None:
    model = build("vgg_hyper", normalise_input=False).eval()
    decoder = {key: value.clone() for key, value in model.net.decoder.state_dict().items()}
    load_imagenet_encoder(model, imagenet_file)
    features = image = torch.rand(1, 3, 48, 32, generator=torch.Generator().manual_seed(1))
    maps, index = [], 0
    for width in VGG19[:16]:
        if width == "M":
            maps.append(features)
            features = nn.functional.max_pool2d(features, 2)
            index += 1
            continue
        conv, norm = f"features.{index}.", f"features.{index + 1}."
        features = nn.functional.conv2d(
            features, imagenet_state[conv + "weight"], imagenet_state[conv + "bias"], padding=1
        )
        statistics = (imagenet_state[norm + name] for name in ("running_mean", "running_var", "weight", "bias"))
        features = nn.functional.batch_norm(features, *statistics).relu()
        index += 3
    with torch.no_grad():
        pyramid = model(image).pyramid
    assert len(maps) == len(pyramid) == 4
    for ours, theirs in zip(pyramid, maps, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
    assert all(torch.equal(value, decoder[key]) for key, value in model.net.decoder.state_dict().items())


def test_the_published_file_is_fetched_once_and_checked(
    server: Server,  # noqa: F811
    imagenet_file: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    server.content = imagenet_file.read_bytes()
    monkeypatch.setenv("RIPE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(initial, "IMAGENET_URL", server.url)
    model = build("vgg_hyper")
    before = weights_hash(model)
    with pytest.raises(ValueError, match=r"SHA-256 is .* should begin with c79401a0"):
        load_imagenet_encoder(model)
    assert [path.suffix for path in (tmp_path / "cache").glob("*") if path.suffix != ".json"] == []
    assert weights_hash(model) == before
    monkeypatch.setattr(initial, "IMAGENET_SHA256", hashlib.sha256(server.content).hexdigest()[:8])
    for _ in range(2):
        load_imagenet_encoder(model)
    assert server.requests == 2
    by_path = build("vgg_hyper")
    load_imagenet_encoder(by_path, imagenet_file)
    first, second = (each.net.encoder.state_dict() for each in (model, by_path))
    assert all(torch.equal(value, second[key]) for key, value in first.items())


def test_files_of_other_networks_are_refused(imagenet_state: dict[str, torch.Tensor], tmp_path: Path) -> None:
    model = build("vgg_hyper")
    before = weights_hash(model)
    path = tmp_path / "other.pth"
    torch.save({key: value for key, value in imagenet_state.items() if "features.36" not in key}, path)
    with pytest.raises(ValueError, match=r"other\.pth: not weights of .* \(no features\.36\.weight\)"):
        load_imagenet_encoder(model, path)
    torch.save({**imagenet_state, "features.3.weight": torch.zeros(64, 3, 3, 3)}, path)
    with pytest.raises(ValueError, match=r"features\.3\.weight is \(64, 3, 3, 3\) instead of \(64, 64, 3, 3\)"):
        load_imagenet_encoder(model, path)
    with pytest.raises(FileNotFoundError, match=r"none\.pth: no such weights file"):
        load_imagenet_encoder(model, tmp_path / "none.pth")
    with pytest.raises(ValueError, match="the compact network has no VGG encoder"):
        load_imagenet_encoder(build("compact"), path)
    assert weights_hash(model) == before


def test_a_run_starts_from_trained_weights(random_weights: Path) -> None:
    model = build("compact")
    load_initial(model, random_weights)
    assert weights_hash(model) == weights_hash(ripe.load(random_weights, device="cpu"))
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_weights_of_another_network_do_not_start_a_run(random_weights: Path, tmp_path: Path) -> None:
    model = build("vgg_hyper")
    before = weights_hash(model)
    with pytest.raises(ValueError, match=r"random\.safetensors: weights of compact cannot start a vgg_hyper network"):
        load_initial(model, random_weights)
    options = {"desc_shares": [64, 64, 64, 64]}
    ripe.save_weights(build("vgg_hyper", **options), tmp_path / "shared.safetensors", options=options)
    with pytest.raises(ValueError, match="built with other options"):
        load_initial(model, tmp_path / "shared.safetensors")
    assert weights_hash(model) == before
