"""Extraction below a ceiling of memory: parts of a photo give what the whole photo gives."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor, nn

import ripe
from ripe.ceiling import Ceiling, parse_bytes
from ripe.cli import main
from ripe.features import Features
from ripe.images import as_rgb, resize
from ripe.networks.windows import Part, Window
from ripe.parts import cores
from ripe.photos import decoding_bytes, open_image, read_image
from ripe.pretrained import build
from ripe.regions import Resized, Stored, moments

MOST = "8G"


@pytest.fixture(scope="module")
def published() -> ripe.RIPE:
    """The published network with random weights."""
    return random("vgg_hyper")


@pytest.fixture(scope="module")
def robust() -> ripe.RIPE:
    """The robust network with random weights."""
    return random("robust")


def random(name: str) -> ripe.RIPE:
    """A network with random weights, whose scores spread as trained ones' do."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = build(name).eval()
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                nn.init.uniform_(module.weight, 0.5, 1.5)
                nn.init.normal_(module.bias, std=0.1)
    return model


@pytest.fixture
def parts_of(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Sets the side of parts' cores, whatever the ceiling."""

    def set_side(side: int) -> None:
        monkeypatch.setattr(Ceiling, "side", lambda *_: side)

    return set_side


def assert_equal(found: Features, whole: Features) -> None:
    """The same keypoints to a hundredth of a pixel, in an order that may differ where scores do by rounding."""
    assert len(found) == len(whole) > 0
    assert found.image_size == whole.image_size
    torch.testing.assert_close(found.scores, whole.scores, rtol=0, atol=1e-4)
    exact = "donot_use_mm_for_euclid_dist"
    apart = torch.cdist(whole.keypoints, found.keypoints, compute_mode=exact)
    apart += 1000 * (whole.scales[:, None] - found.scales).abs()
    nearest = apart.min(dim=1)
    assert nearest.values.max() < 0.01
    assert len(nearest.indices.unique()) == len(found)
    torch.testing.assert_close(found.descriptors[nearest.indices], whole.descriptors, rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    "how",
    [
        {"max_keypoints": 200},
        {"max_keypoints": 100_000, "scales": (1, 0.5, 0.25)},
        {"max_keypoints": 300, "resize": 230, "scales": (1, 0.5)},
        {"max_keypoints": 300, "resize": 340},
    ],
    ids=str,
)
def test_parts_give_what_the_whole_photo_gives(photos: list[Path], parts_of: Callable[[int], None], how: dict) -> None:
    model = ripe.load(device="cpu")
    image = as_rgb(photos[0])[:, 130:350, 11:312]
    mask = torch.arange(301) % 100 > 30
    parts_of(110)
    for masks in (None, [mask.expand(220, -1)]):
        whole = model.extract(image, **how, masks=masks)[0]
        assert_equal(model.extract(image, **how, masks=masks, max_memory=MOST)[0], whole)


def check_part(model: ripe.RIPE, image: Tensor, wanted: Window) -> None:
    """Scores and descriptors in a window of an image, from a part and from the whole."""
    size = (image.shape[1], image.shape[2])
    network, head = model.net, model.describe
    seen = network.seen(wanted, size)
    generator = torch.Generator().manual_seed(0)
    places = torch.rand(20, 2, generator=generator) * torch.tensor(wanted.size[::-1]).sub(1)
    places = (places + torch.tensor([wanted.left, wanted.top]))[None]
    with torch.no_grad():
        whole = network.infer(image[None])
        maps = network.infer(seen.of(image)[None], Part(seen, wanted, size, *moments(Stored(image))))
        assert maps.frames is not None
        scores = wanted.within(maps.frames[0].window).of(maps.logits)
        torch.testing.assert_close(scores, wanted.of(whole.logits), rtol=0, atol=1e-4 * float(whole.logits.std()))
        torch.testing.assert_close(head(maps, places), head(whole, places), rtol=0, atol=1e-4)


def a_window(height: int, width: int, corner: tuple[float, float]) -> Window:
    """Of 20 pixels to a side, or what there is."""
    top, left = int(corner[0] * (height - 16)), int(corner[1] * (width - 16))
    return Window(top, min(top + 20, height), left, min(left + 20, width))


shares = st.floats(0, 1)


@settings(max_examples=10, deadline=None)
@given(st.integers(16, 450), st.integers(16, 450), st.tuples(shares, shares))
def test_any_part_of_any_size_of_the_compact_network(height: int, width: int, corner: tuple[float, float]) -> None:
    model = ripe.load(device="cpu").eval()
    image = torch.rand(3, height, width, generator=torch.Generator().manual_seed(height))
    check_part(model, image, a_window(height, width, corner))


@pytest.mark.parametrize(
    ("size", "corner"), [((901, 23), (0.5, 0.0)), ((30, 805), (1.0, 0.45)), ((817, 800), (0.0, 1.0))]
)
def test_any_part_of_the_robust_network(robust: ripe.RIPE, size: tuple[int, int], corner: tuple[float, float]) -> None:
    image = torch.rand(3, *size, generator=torch.Generator().manual_seed(1))
    wanted = a_window(*size, corner)
    assert robust.net.seen(wanted, size).area < size[0] * size[1]
    check_part(robust, image, wanted)


@pytest.mark.parametrize(
    ("size", "corner"), [((901, 23), (0.5, 0.0)), ((30, 805), (1.0, 0.45)), ((17, 803), (0.0, 1.0))]
)
def test_any_part_of_the_published_network(
    published: ripe.RIPE, size: tuple[int, int], corner: tuple[float, float]
) -> None:
    """Sizes that 8 does not divide: its maps are then not where half the size would put them."""
    image = torch.rand(3, *size, generator=torch.Generator().manual_seed(1))
    wanted = a_window(*size, corner)
    assert published.net.seen(wanted, size).area < size[0] * size[1]
    check_part(published, image, wanted)


def test_parts_of_the_published_network_give_what_the_whole_gives(
    published: ripe.RIPE, photos: list[Path], parts_of: Callable[[int], None]
) -> None:
    image = as_rgb(photos[0])[:, 200:221, :741]
    whole = published.extract(image, max_keypoints=100, threshold=-1e9)[0]
    parts_of(260)
    assert_equal(published.extract(image, max_keypoints=100, threshold=-1e9, max_memory=MOST)[0], whole)


@given(st.integers(16, 3000), st.integers(16, 3000), st.integers(64, 1000))
def test_cores_cover_every_pixel_once(height: int, width: int, side: int) -> None:
    windows = list(cores((height, width), side))
    assert sum(window.area for window in windows) == height * width
    assert max(max(window.size) for window in windows) <= side
    corners = {(window.top, window.left) for window in windows}
    beside = {(window.top, window.right) for window in windows} | {(window.bottom, window.left) for window in windows}
    assert all(top == height or left == width for top, left in beside - corners)


@settings(max_examples=25, deadline=None)
@given(*[st.integers(16, 120)] * 4, shares, shares)
def test_regions_are_those_of_the_resized_image(
    height: int, width: int, rows: int, columns: int, top: float, left: float
) -> None:
    image = torch.rand(3, height, width, generator=torch.Generator().manual_seed(width))
    window = Window(int(top * (rows - 1)), rows, int(left * (columns - 1)), columns)
    found = Resized(Stored(image), (rows, columns)).read(window)
    torch.testing.assert_close(found, window.of(resize(image, (rows, columns))), rtol=0, atol=1e-5)


@pytest.mark.skipif(sys.platform != "linux", reason="the peak is read from Linux's /proc")
def test_a_large_photo_stays_below_the_ceiling(tmp_path: Path) -> None:
    """Peak of a fresh process; without a ceiling it takes more."""
    photo = np.tile(read_image(Path(ripe.__file__).parent / "assets" / "motorcycle_left.jpg"), (4, 4, 1))
    Image.fromarray(photo).save(tmp_path / "large.jpg")  # 6 million pixels
    code = (
        "import pathlib, sys, ripe; ripe.load(device='cpu').extract(sys.argv[1], max_memory=sys.argv[2] or None);"
        "print(pathlib.Path('/proc/self/status').read_text().split('VmHWM:')[1].split()[0])"
    )
    # Not `ru_maxrss`, which a child has from the process that started it.
    peaks = [
        1024
        * int(
            subprocess.run(
                [sys.executable, "-c", code, str(tmp_path / "large.jpg"), most], capture_output=True, check=True
            ).stdout
        )
        for most in ("600M", "")
    ]
    assert peaks[0] < 600e6 < peaks[1]


def test_a_ceiling_that_cannot_be_kept_is_said(model: ripe.RIPE, tmp_path: Path) -> None:
    Image.new("RGB", (4000, 5000)).save(tmp_path / "a.png")
    with pytest.raises(ValueError, match=r"max_memory is 0\.1G; this model needs 0\.\d+G and what the photo takes"):
        model.extract_stream([], max_memory="100M")
    with pytest.raises(ValueError, match=r"a\.png: needs 0\.5\d?G of memory, and max_memory is 0\.52G: raise it"):
        model.extract(tmp_path / "a.png", max_memory="520M")
    with pytest.raises(ValueError, match="max_memory needs a number of max_keypoints"):
        model.extract([], max_memory="1G", max_keypoints=None)
    with pytest.raises(ValueError, match="'two' is no amount of memory"):
        model.extract([], max_memory="two")
    failed: list[int] = []
    images = [tmp_path / "a.png", torch.zeros(3, 32, 32)]
    stream = model.extract_stream(images, max_memory="520M", failed=lambda index, _: failed.append(index))
    assert [index for index, _ in stream] == [1]
    assert failed == [0]


@pytest.mark.parametrize(
    ("text", "count"), [("1500", 1500), ("2G", 2e9), ("1.5 gb", 1.5e9), ("300m", 3e8), ("12K", 12e3), ("0.5T", 5e11)]
)
def test_amounts_of_memory(text: str, count: float) -> None:
    assert parse_bytes(text) == count


def test_decoding_is_counted_by_the_kind_of_file(tmp_path: Path) -> None:
    image = Image.new("RGB", (40, 30))
    image.save(tmp_path / "a.jpg")
    image.save(tmp_path / "progressive.jpg", progressive=True)
    image.save(tmp_path / "a.webp")
    Image.fromarray(np.zeros((30, 40), dtype=np.uint16)).save(tmp_path / "deep.png")
    counted = []
    for name in ("a.jpg", "progressive.jpg", "a.webp", "deep.png"):
        with open_image(tmp_path / name) as opened:
            counted.append(decoding_bytes(opened) / 1200)
    assert counted == [7, 10, 16, 24]


def test_the_command_and_what_it_refuses(
    photos: list[Path], random_weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["extract", str(photos[0]), "--model", str(random_weights), "--device", "cpu", "--max-keypoints", "200"]
    assert main([*words, "-o", str(tmp_path / "whole.h5")]) == 0
    assert main([*words, "-o", str(tmp_path / "parts.h5"), "--max-memory", "1G"]) == 0
    with h5py.File(tmp_path / "whole.h5") as whole, h5py.File(tmp_path / "parts.h5") as parts:
        assert dict(whole.attrs) == dict(parts.attrs)  # the same features, so either file is continued with either
        name = "motorcycle_left.jpg/scores"
        np.testing.assert_allclose(whole[name][()], parts[name][()], atol=1e-4)
    assert (
        main(["extract", str(photos[0]), "-o", str(tmp_path / "o.h5"), "--backend", "onnx", "--max-memory", "1G"]) == 1
    )
    assert "leave out --max-memory" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main([*words, "-o", str(tmp_path / "b.h5"), "--max-memory", "much"])
    assert "no amount of memory" in capsys.readouterr().err
