"""Files, arrays and settings that are not what they should be: each is refused by name, whoever reads it.

What `make fuzz` and reading found; each case stands for its kind.
"""

import json
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from PIL import ExifTags, Image

import ripe
from ripe import matchers, runtime
from ripe.data.photo_pairs import read_pairs
from ripe.data.sets import megadepth
from ripe.detection import DetectionSettings
from ripe.download import verify
from ripe.evaluation.benchmarks import annotated, imw2020, megadepth1500
from ripe.features import Features
from ripe.images import as_rgb, read_image
from ripe.matchers import save_matcher
from ripe.pretrained import build
from ripe.recipe.config import TrainConfig
from ripe.storage import FeatureFile, FeatureReader, MatchFile, read_features, read_matches
from ripe.stored_weights import write_weights
from ripe.training.checkpoint import load_checkpoint, save_checkpoint
from ripe.training.loop import starting_state
from ripe.training.presets import compose

SQUARE = np.random.default_rng(0).random((20, 24)).astype(np.float32)
SECRET = b"nobody's business"


def test_a_program_is_no_photo_whatever_it_is_called(tmp_path: Path) -> None:
    """Pillow hands EPS, which is one, to Ghostscript."""
    path = tmp_path / "photo.jpg"
    Image.fromarray((SQUARE * 255).astype(np.uint8)).save(path, "EPS")
    with Image.open(path) as opened:
        assert opened.format == "EPS"
    for read in (read_image, as_rgb, build("compact").extract, runtime.load().extract):
        with pytest.raises(ValueError, match=r"photo\.jpg: not an image"):
            read(path)


@pytest.mark.parametrize("mode", ["L", "F", "I", "I;16", "1", "RGB"])
def test_an_image_without_pixels_is_too_small(mode: str) -> None:
    with pytest.raises(ValueError, match="0×20 pixels"):
        as_rgb(Image.new(mode, (0, 20)))


def features_with(path: Path, **parts: Any) -> Path:
    """A feature file with one image, and with some of its data replaced; None leaves them out."""
    whole = {
        "keypoints": np.ones((3, 2), np.float32),
        "scores": np.ones(3, np.float32),
        "descriptors": np.eye(8, 3, dtype=np.float32),
        "image_size": np.array([24, 20]),
    }
    with h5py.File(path, "w") as file:
        file.attrs["model"] = "compact"
        group = file.create_group("a.jpg")
        for key, value in (whole | parts).items():
            if callable(value):
                value(group, key)
            elif value is not None:
                group[key] = value
    return path


def secret_outside(group: h5py.Group, key: str) -> None:
    path = Path(group.file.filename).with_name("secret")
    path.write_bytes(SECRET * 10)
    group.create_dataset(key, (3, 2), "f4", external=[(str(path), 0, 24)])


def secret_elsewhere(group: h5py.Group, key: str) -> None:
    group[key] = h5py.ExternalLink(str(another(group)), "a.jpg/keypoints")


def secret_mapped(group: h5py.Group, key: str) -> None:
    layout = h5py.VirtualLayout((3, 2), "f4")
    layout[:] = h5py.VirtualSource(str(another(group)), "a.jpg/keypoints", (3, 2))
    group.create_virtual_dataset(key, layout)


def another(group: h5py.Group) -> Path:
    return features_with(Path(group.file.filename).with_name("other.h5"))


HOSTILE_DATA: dict[str, Any] = {
    "a file elsewhere": secret_outside,
    "a link to another file": secret_elsewhere,
    "a mapping of another file": secret_mapped,
    "a link within": h5py.SoftLink("/a.jpg/scores"),
    "a link to nothing": h5py.SoftLink("/nowhere"),
    "a terabyte of nothing": lambda group, key: group.create_dataset(key, (10**11, 2), "f4", chunks=(10**6, 2)),
    "a group": lambda group, key: group.create_group(key),
    "nothing": h5py.Empty("f4"),
    "texts": np.array([[b"a", b"b"]] * 3),
    "objects": lambda group, key: group.create_dataset(key, data=[["a", "b"]] * 3, dtype=h5py.string_dtype()),
    "records": np.zeros(3, [("x", "f4"), ("y", "f4")]),
    "complex numbers": np.zeros((3, 2), np.complex64),
    "three columns": np.ones((3, 3)),
    "one number": 3.0,
    "NaN": np.full((3, 2), np.nan),
    "too many": np.ones((4, 2)),
}


@pytest.mark.parametrize("kind", HOSTILE_DATA)
def test_what_are_no_keypoints_is_named(tmp_path: Path, kind: str) -> None:
    path = features_with(tmp_path / "f.h5", keypoints=HOSTILE_DATA[kind])
    with FeatureReader(path) as reader:
        for name in reader.names():
            with pytest.raises(ValueError, match=r"f\.h5: a\.jpg"):
                reader.read(name)
        with pytest.raises((KeyError, ValueError), match=r"a\.jpg"):
            reader.read("a.jpg")
    if kind not in ("three columns", "one number", "NaN", "too many"):
        with pytest.raises((KeyError, ValueError), match=r"a\.jpg"):
            read_features(path, ["a.jpg"])


@pytest.mark.parametrize("size", [[0, 5], [-3, 5], [5], [5, 5, 5], 5, [np.nan, 5], [np.inf, 5], [2.0**40, 5]])
def test_what_is_no_size_is_named(tmp_path: Path, size: Any) -> None:
    path = features_with(tmp_path / "f.h5", image_size=size)
    with FeatureReader(path) as reader, pytest.raises(ValueError, match=r"f\.h5: a\.jpg.*image_size"):
        reader.read("a.jpg")


@pytest.mark.parametrize("matches", [[[0, 1]], [0.5], [-2], np.array([2**64 - 1], np.uint64), [b"a"], h5py.Empty("i4")])
def test_what_are_no_matches_is_named(tmp_path: Path, matches: Any) -> None:
    with h5py.File(tmp_path / "m.h5", "w") as file:
        file["a/b/matches0"] = matches
    with pytest.raises(ValueError, match=r"m\.h5: a/b"):
        list(read_matches(tmp_path / "m.h5", [("a", "b")]))


@pytest.mark.parametrize("value", [np.array([1, 2]), np.array([b"a", b"b"]), h5py.Empty("f4"), np.array(["x"], "S1")])
def test_attributes_of_other_kinds_are_none_of_ours(tmp_path: Path, value: Any) -> None:
    path = features_with(tmp_path / "f.h5")
    with h5py.File(path, "a") as file:
        for item in (file, file["a.jpg"]):
            for key in ("weights", "photo_bytes", "name0"):
                item.attrs[key] = value
        file["a.jpg/matches0"] = [0]
    with FeatureReader(path) as reader:
        assert reader.settings == {"model": "compact"}
    with FeatureFile(path, {"model": "compact"}) as store:
        assert store.holds("a.jpg", {"photo_bytes": 3})
    with pytest.raises(ValueError, match="not begun by"):
        MatchFile(path, {"matcher": "mutual"})


@pytest.mark.parametrize("scale", [0.0, -1.0, 1e-9, 1e-300])
def test_a_keypoint_of_no_size_does_not_fill_the_memory(model: ripe.RIPE, scale: float) -> None:
    points = torch.ones(3, 2)
    found = Features(points, torch.ones(3), torch.eye(128)[:3], (24, 20), torch.full((3,), scale))
    with pytest.raises(ValueError, match="scale"):
        model.describe_turned(SQUARE, found, 1)


@pytest.mark.parametrize(
    "changes",
    [
        {"keypoints": np.array([[b"a", b"b"]] * 3)},
        {"keypoints": np.zeros((3, 2), np.complex64)},
        {"image_size": np.array([24.5, 20])},
        {"image_size": np.array(24)},
        {"scores": np.zeros(3, [("x", "f4")])},
        {"scales": np.zeros(3, np.float32)},
    ],
)
def test_what_is_no_npz_of_features_is_named(tmp_path: Path, changes: dict) -> None:
    ones = np.ones((3, 2), np.float32)
    whole = {"keypoints": ones, "scores": ones[:, 0], "descriptors": ones, "image_size": np.array([24, 20])}
    np.savez(tmp_path / "f.npz", **(whole | changes))
    with pytest.raises(ValueError, match=r"f\.npz"):
        ripe.load_features(tmp_path / "f.npz")


@pytest.mark.parametrize("shape", ["(100000000000, 2)", "(-1, 2)", "((", "[" * 300 + "]" * 300])
def test_the_header_of_an_array_is_not_believed(tmp_path: Path, shape: str) -> None:
    header = f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}".encode().ljust(117) + b"\n"
    np.savez(tmp_path / "f.npz", keypoints=np.zeros((1, 2)))
    content = b"\x93NUMPY\1\0" + struct.pack("<H", len(header)) + header + bytes(8)
    with zipfile.ZipFile(tmp_path / "f.npz", "w") as archive:
        for name in ("keypoints", "scores", "descriptors", "image_size"):
            archive.writestr(f"{name}.npy", content)
    with pytest.raises(ValueError, match=r"f\.npz"):
        ripe.load_features(tmp_path / "f.npz")


HOSTILE_METADATA = [
    {"architecture": "other"},
    *({"architecture": "compact", "options": options} for options in ("{", "[1]", "5", '{"width": 3}', "[" * 10**5)),
    {"architecture": "vgg_hyper", "options": '{"descriptor_dim": 1000000000000}'},
    {"architecture": "vgg_hyper", "options": '{"descriptor_dim": 60000}'},
    {"architecture": "vgg_hyper", "options": '{"desc_shares": ["a"]}'},
    {"architecture": "vgg_hyper", "options": '{"desc_shares": 5}'},
    {"architecture": "vgg_hyper", "options": '{"normalise_input": [1]}'},
    {"architecture": "vgg_hyper", "options": '{"interpolation": {}}'},
    *(
        {"architecture": "compact", "detection": detection}
        for detection in (
            *("{", "[]", "{}", '{"threshold": NaN}', '{"threshold": null}', '{"threshold": 0, "nms_radius": 1e9}'),
            *('{"threshold": 0, "nms_radius": -1}', '{"threshold": 0, "subpixel": 3}', '{"threshold": 0, "x": 1}'),
        )
    ),
    *(
        {"architecture": "lightglue", "options": options, "extractor": "x"}
        for options in ("{", '{"layers": 1000000000}', '{"width": 1000000000}', '{"heads": 0}', '{"width": "a"}')
    ),
    {"architecture": "lightglue", "options": "{}"},
    {"architecture": "lightglue", "extractor": "x"},
]


@pytest.mark.parametrize("metadata", HOSTILE_METADATA, ids=range(len(HOSTILE_METADATA)))
def test_what_weights_say_of_themselves_is_not_believed(tmp_path: Path, metadata: dict[str, str]) -> None:
    write_weights(build("compact").state_dict(), tmp_path / "w.safetensors", metadata)
    load = ripe.load_matcher if metadata["architecture"] == "lightglue" else ripe.load
    with pytest.raises(ValueError, match=r"w\.safetensors"):
        load(tmp_path / "w.safetensors", device="cpu")


HOSTILE_STATES = {
    "a number for a name": {7: torch.zeros(1)},
    "no tensor": {"a": 3},
    "a list": [torch.zeros(1)],
    "sparse": {"net.a": torch.zeros(3, 2).to_sparse()},
    "quantised": {"net.a": torch.quantize_per_tensor(torch.zeros(3), 0.1, 0, torch.quint8)},
    "without numbers": {"net.a": torch.zeros(3, device="meta")},
}


@pytest.mark.parametrize("kind", HOSTILE_STATES)
def test_what_is_no_state_dict_is_named(tmp_path: Path, kind: str) -> None:
    torch.save(HOSTILE_STATES[kind], tmp_path / "w.pth")
    with pytest.raises(ValueError, match=r"w\.pth: holds no plain state dict"):
        ripe.load(tmp_path / "w.pth", device="cpu")


@pytest.mark.parametrize(
    "state",
    [[1], {7: 1}, {"step": 1}, {"step": "1", "model": {}, "config": {}}, {"step": 1, "model": {}, "config": []}],
)
@pytest.mark.parametrize("resume", ["auto", "named"])
def test_what_is_no_checkpoint_of_a_run_is_named(tmp_path: Path, state: Any, resume: str) -> None:
    path = tmp_path / "checkpoints" / "step-00000001.pt"
    save_checkpoint(state, path)
    config = TrainConfig(output=tmp_path, resume="auto" if resume == "auto" else str(path))
    with pytest.raises(ValueError, match="checkpoint"):
        starting_state(config)
    if not isinstance(state, dict) or 7 in state:
        with pytest.raises(ValueError, match=r"step-00000001\.pt: not a checkpoint"):
            load_checkpoint(path)


JSON_READERS: dict[str, Callable[[Path], object]] = {
    "pairs.json": annotated.read_annotated,
    "mined.json": lambda folder: read_pairs(folder / "mined.json"),
    "dataset.json": imw2020.read,
    "dataset.json again": lambda folder: megadepth.read(folder, 5, 0),
    "a.pth.json": lambda folder: verify(folder / "a.pth"),
}


@pytest.mark.parametrize(
    "content", [b"[" * 10**5, b"\xff\xfe", b"{", b"1" * 5000], ids=["deep", "bytes", "half", "long"]
)
@pytest.mark.parametrize("reader", JSON_READERS)
def test_what_is_no_json_is_named(tmp_path: Path, reader: str, content: bytes) -> None:
    name = reader.split()[0]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=name.replace(".", r"\.")):
        JSON_READERS[reader](tmp_path)


HOMOGRAPHY = {"name": "a", "image0": "a", "image1": "b", "H": [[1, 0, 0], [0, 1, 0], [0, 0, 1]]}


@pytest.mark.parametrize(
    "content",
    [
        {"model": ["homography"], "pairs": []},
        {"model": "homography", "pairs": [HOMOGRAPHY | {"H": [[10**400, 0, 0], [0, 1, 0], [0, 0, 1]]}]},
        {"model": "homography", "pairs": [HOMOGRAPHY | {"H": [[None] * 3] * 3}]},
        {"model": "homography", "pairs": [HOMOGRAPHY | {"H": {"a": 1}}]},
        {"model": "homography", "pairs": [HOMOGRAPHY | {"image1": None}]},
        {"model": "homography", "pairs": [{**HOMOGRAPHY, "points0": 3} | {"H": "one"}]},
    ],
)
def test_what_is_no_annotation_is_named(tmp_path: Path, content: dict) -> None:
    (tmp_path / "pairs.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"pairs\.json: (pair 0|`model`)"):
        annotated.read_annotated(tmp_path)


MINED = {"image0": "s/a", "image1": "s/b", "matches": 1, "inliers": 1, "planar": 1, "size0": [9, 9], "size1": [9, 9]}


@pytest.mark.parametrize("change", [{"size0": [10**400, 1e999]}, {"image0": 3}, {"homography": [[1, 2]]}, {"more": 1}])
def test_what_is_no_mined_pair_is_named(tmp_path: Path, change: dict) -> None:
    (tmp_path / "mined.json").write_text(json.dumps([MINED | change]))
    with pytest.raises(ValueError, match=r"mined\.json: is no list of pairs"):
        read_pairs(tmp_path / "mined.json")


@pytest.mark.parametrize("line", [b"\xff a b", b"a.jpg b.jpg " + b"nan " * 30, b"a.jpg"])
def test_what_is_no_calibrated_pair_is_named(tmp_path: Path, line: bytes) -> None:
    (tmp_path / "pairs_calibrated.txt").write_bytes(line)
    with pytest.raises(ValueError, match=r"pairs_calibrated\.txt"):
        megadepth1500.read(tmp_path)


@pytest.mark.parametrize(
    "values", [{"seed": 10**400}, {"optimizer": {"lr": 10**400}}, {"output": "~nobody-of-that-name/a"}]
)
def test_settings_beyond_all_numbers_and_users_are_named(values: dict) -> None:
    with pytest.raises(ValueError, match=r"^(seed|optimizer\.lr|output)="):
        TrainConfig.from_dict(values)


@pytest.mark.parametrize("content", [b"a: [", b"- 1", b"\xff\xfe\x00", b"[" * 5000, b"data: 3", b"defaults: 3", b""])
def test_a_preset_that_is_none_is_a_value_error(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "own.yaml").write_bytes(content)
    if content:
        with pytest.raises(ValueError, match="own"):
            compose("own", config_dir=tmp_path)
    else:
        assert compose("own", config_dir=tmp_path).seed == TrainConfig().seed


NUMBERS = {
    "long double": SQUARE.astype(np.longdouble),
    "foreign order": SQUARE.astype(">f4"),
    "foreign 16 bits": (SQUARE * 65535).astype(">u2"),
    "a matrix": np.asmatrix(SQUARE),
    "mirrored": SQUARE[::-1, ::-1],
    "a column": np.broadcast_to(SQUARE[:, :1], SQUARE.shape),
}


@pytest.mark.parametrize("kind", NUMBERS)
def test_arrays_of_any_layout_are_images(kind: str) -> None:
    image = NUMBERS[kind]
    top = 65535 if image.dtype.itemsize == 2 else 1
    expected = torch.from_numpy(np.array(image, dtype=np.float64) / top).float()
    torch.testing.assert_close(as_rgb(image)[0], expected)
    [found] = runtime.load().extract(image, max_keypoints=5)
    [wanted] = ripe.load(device="cpu").extract(image, max_keypoints=5)
    assert len(found) == len(wanted)


@pytest.mark.parametrize(
    "image",
    [
        *(SQUARE.astype(kind) for kind in ("U2", "S2", "O", "M8[s]", "complex64", "bool", "int64")),
        np.zeros((20, 24), [("x", "f4")]),
        np.full((20, 24), 1e300),
        *(None, 3, 2.5, b"bytes", object()),
    ],
    ids=lambda image: f"{type(image).__name__} {getattr(image, 'dtype', '')}",
)
def test_what_holds_no_image_is_a_value_error_everywhere(model: ripe.RIPE, image: object) -> None:
    for extract in (model.extract, runtime.load().extract):
        with pytest.raises(ValueError, match="image"):
            extract(image)


TENSORS = {
    "sparse": torch.ones(20, 24).to_sparse(),
    "quantised": torch.quantize_per_tensor(torch.ones(20, 24), 0.1, 0, torch.quint8),
    "without numbers": torch.ones(20, 24, device="meta"),
}


@pytest.mark.parametrize("kind", TENSORS)
def test_tensors_without_their_numbers_are_named(model: ripe.RIPE, kind: str) -> None:
    with pytest.raises(ValueError, match="image: a tensor without its numbers"):
        model.extract(TENSORS[kind])
    with pytest.raises(ValueError, match="a mask: a tensor without its numbers"):
        model.extract(SQUARE, masks=[TENSORS[kind]])


@pytest.mark.parametrize("dtype", ["U1", "S1", "O", "M8[s]"])
def test_masks_are_numbers(model: ripe.RIPE, dtype: str) -> None:
    mask = np.zeros((20, 24), "i8").astype(dtype)
    for extract in (model.extract, runtime.load().extract):
        with pytest.raises(ValueError, match="a mask: values of type"):
            extract(SQUARE, masks=[mask])


def test_a_masks_file_of_the_wrong_size_is_refused_by_its_header(model: ripe.RIPE, tmp_path: Path) -> None:
    """A few thousand bytes would decode to 64 million pixels; here there is nothing beyond the header to decode."""
    whole, cut, turned = tmp_path / "whole.png", tmp_path / "cut.png", tmp_path / "turned.tif"
    Image.new("1", (8000, 8000)).save(whole)
    cut.write_bytes(whole.read_bytes()[:100])
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    Image.fromarray(np.full((24, 20), 255, np.uint8)).save(turned, exif=exif)  # 24 wide as it is shown
    for extract in (model.extract, runtime.load().extract):
        with pytest.raises(ValueError, match=r"cut\.png is 8000×8000 pixels, and an image is 24×20"):
            extract(SQUARE, masks=[cut])
        extract(SQUARE, masks=[turned])


def test_a_mask_of_one_number_has_the_wrong_size(model: ripe.RIPE) -> None:
    for extract in (model.extract, runtime.load().extract):
        with pytest.raises(ValueError, match="must have the size of its photo"):
            extract(SQUARE, masks=[np.array(1.0)])


@pytest.mark.parametrize("changes", [{"threshold": np.nan}, {"threshold": "1"}, {"nms_radius": -1}, {"border": 0.5}])
def test_how_keypoints_are_found_is_checked(changes: dict) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(changes))} is"):
        DetectionSettings(**{"threshold": 0.0, **changes})


def test_what_comes_with_the_package_is_known_by_its_hash(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where another network of the same kind has taken its place."""
    for module, name, shipped in (
        (matchers, "shipped", matchers.shipped("compact")),
        (runtime, "COMPACT", runtime.COMPACT),
    ):
        changed = tmp_path / shipped.name
        changed.write_bytes(shipped.read_bytes() + b"\0")
        monkeypatch.setattr(module, name, changed if name == "COMPACT" else lambda _, changed=changed: changed)
    with pytest.raises(ValueError, match=r"lightglue\.safetensors: its SHA-256"):
        ripe.load_matcher()
    with pytest.raises(ValueError, match=r"compact\.onnx: damaged or not of this version"):
        runtime.load()


def test_a_matcher_still_comes_back(random_matcher: Any, tmp_path: Path) -> None:
    save_matcher(random_matcher, tmp_path / "m.safetensors")
    assert ripe.load_matcher(tmp_path / "m.safetensors", device="cpu").settings() == random_matcher.settings()
