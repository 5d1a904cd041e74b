"""The robust network: starts as the compact one, and sees further."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import ripe
from ripe.networks.folding import fold
from ripe.networks.robust import RobustNet
from ripe.pretrained import build
from ripe.training.initial import load_initial


@pytest.fixture(scope="module")
def trained() -> RobustNet:
    """One whose every layer says something."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = RobustNet().eval()
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                nn.init.uniform_(module.weight, 0.5, 1.5)
                nn.init.normal_(module.bias, std=0.1)
    return network


def a_photo(*size: int) -> Tensor:
    return torch.rand(1, 3, *size, generator=torch.Generator().manual_seed(1))


def test_it_starts_as_the_compact_network(photos: list[Path]) -> None:
    compact, robust = ripe.load(device="cpu"), build("robust").eval()
    load_initial(robust, "compact")
    for image in (photos[0], a_photo(96, 64)[0]):
        found, wanted = robust.extract(image)[0], compact.extract(image)[0]
        torch.testing.assert_close(found.keypoints, wanted.keypoints)
        torch.testing.assert_close(found.descriptors, wanted.descriptors)
    assert robust.detection == compact.detection


def test_a_compact_network_does_not_start_as_a_robust_one(tmp_path: Path) -> None:
    ripe.save_weights(build("robust"), tmp_path / "robust.safetensors")
    with pytest.raises(ValueError, match="weights of robust cannot start a compact network"):
        load_initial(build("compact"), tmp_path / "robust.safetensors")


def test_what_starts_silent_learns() -> None:
    network = RobustNet()
    silent = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d) and not module.weight.any()]
    assert len(silent) == 6
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    for _ in range(2):  # the widest map is heard first, and then what is behind it
        maps = network(a_photo(64, 64))
        (maps.logits.mean() + maps.pyramid[4].square().mean()).backward()
        optimizer.step()
    assert all(module.weight.any() for module in silent)


@pytest.mark.parametrize("at", [(512, 512), (527, 529), (511, 543), (520, 497)], ids=str)
def test_scores_depend_on_no_pixel_beyond_its_reach(trained: RobustNet, at: tuple[int, int]) -> None:
    image = a_photo(1056, 1056)
    height, width = at
    # What is far away changes by less than the statistics of the whole image do: none at all if they are kept.
    changed = image.clone()
    reach = trained.reach
    changed[..., : height - reach, :] = changed[..., : height - reach, :].flip(-1)
    changed[..., height + reach + 1 :, :] = changed[..., height + reach + 1 :, :].flip(-1)
    with torch.no_grad():
        here, there = (trained(each).logits[0, 0, height, width] for each in (image, changed))
    torch.testing.assert_close(there, here, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("size", [(16, 16), (17, 31), (40, 333), (480, 640)], ids=str)
def test_inference_gives_what_training_sees(trained: RobustNet, size: tuple[int, int]) -> None:
    with torch.no_grad():
        fast, plain = trained.infer(a_photo(*size)), trained(a_photo(*size))
    torch.testing.assert_close(fast.logits, plain.logits, rtol=1e-4, atol=1e-4)
    for one, other in zip(fast.pyramid, plain.pyramid, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)
    assert fast.logits.shape == (1, 1, *size)


@pytest.mark.parametrize("size", [(16, 16), (97, 45), (128, 160)], ids=str)
def test_the_exported_network_has_the_same_maps(trained: RobustNet, size: tuple[int, int]) -> None:
    network = fold(trained)
    with torch.no_grad():
        expected = network(a_photo(*size))
        found = network.for_export()(a_photo(*size))
    torch.testing.assert_close(found.logits, expected.logits, rtol=1e-4, atol=1e-4)
    for one, other in zip(found.pyramid, expected.pyramid, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)
