"""Which pairs are matched: `ripe pairs`, and the ways of choosing them, each against a slow one or a closed form."""

import math
import shlex
import shutil
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
import skimage.data
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import ExifTags, Image

from ripe.cli import main
from ripe.features import Features
from ripe.pair_lists import read_pair_list, write_pair_list
from ripe.pairing import retrieval
from ripe.pairing.choice import PairChoice
from ripe.pairing.choose import alike, choose_pairs, exhaustive, sequential
from ripe.pairing.spatial import EARTH_RADIUS, exif_position, nearby
from ripe.storage import FeatureFile, FeatureReader

SUBJECTS = ("astronaut", "coffee", "chelsea", "brick", "camera", "coins")


def units(shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    return retrieval.unit(np.random.default_rng(seed).standard_normal(shape, dtype=np.float32))


def features(descriptors: np.ndarray) -> Features:
    count = len(descriptors)
    return Features(torch.rand(count, 2), torch.rand(count), torch.from_numpy(descriptors), (64, 48))


def test_every_pair_and_those_that_follow() -> None:
    names = list("abcde")
    assert len(exhaustive(names)) == 10
    assert sequential(names, 2) == [
        ("a", "b"), ("a", "c"), ("b", "c"), ("b", "d"), ("c", "d"), ("c", "e"), ("d", "e")
    ]  # fmt: skip


def test_a_vlad_is_what_its_definition_says() -> None:
    descriptors, centres = units((50, 8)), units((4, 8), seed=1)
    sums = np.zeros((4, 8))
    for descriptor in descriptors:
        nearest = int(np.argmin([np.linalg.norm(descriptor - centre) for centre in centres]))
        sums[nearest] += descriptor - centres[nearest]
    sums = np.array([row / np.linalg.norm(row) if row.any() else row for row in sums])
    expected = np.array([math.copysign(math.sqrt(abs(number)), number) for number in sums.ravel()])
    np.testing.assert_allclose(retrieval.vlad(descriptors, centres), expected / np.linalg.norm(expected), atol=1e-5)


def test_global_descriptors_are_ordered_by_what_differs_most() -> None:
    """Whitened by a power of the deviation: the variance along each direction keeps the rest, up to a factor."""
    photos = [units((30, 8), seed) for seed in range(40)]
    names = [str(index) for index in range(40)]
    vocabulary = retrieval.learn_vocabulary(names, lambda name: photos[int(name)], np.random.default_rng(0))
    vlads = np.stack([retrieval.vlad(photo, vocabulary.centres) for photo in photos])
    true = np.sort(np.linalg.eigvalsh(np.cov(vlads.T)))[::-1][: vocabulary.projection.shape[1]]
    found = np.var((vlads - vocabulary.mean) @ vocabulary.projection, axis=0)
    ratio = found / true ** (1 - retrieval.WHITENING)
    np.testing.assert_allclose(ratio, ratio[0], rtol=1e-2)
    assert len(true) == 39
    described = vocabulary.describe(photos[0])
    assert described.dtype == np.float32
    assert np.linalg.norm(described) == pytest.approx(1, abs=1e-5)


def test_how_descriptors_turn_is_learnt() -> None:
    maps = [np.linalg.qr(units((8, 8), seed))[0] for seed in (1, 2, 3)]
    photos = [(upright, [upright @ way for way in maps]) for upright in (units((20, 8), 4), units((30, 8), 5))]
    np.testing.assert_allclose(retrieval.learn_turns(photos), maps, atol=1e-4)


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 40), st.integers(1, 50), st.integers(1, 100))
def test_all_are_compared(count: int, wanted: int, block: int) -> None:
    database, queries = units((count, 6), 1), units((7, 6), 2)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(retrieval, "BLOCK", block)
        similarities, found = retrieval.searching(database)(queries, wanted)
    order = np.argsort(-(queries @ database.T), axis=1)[:, :wanted]
    np.testing.assert_array_equal(found, order)
    np.testing.assert_allclose(similarities, np.take_along_axis(queries @ database.T, order, axis=1), atol=1e-6)


def test_the_graph_finds_nearly_what_comparing_all_does(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("faiss")
    vectors = retrieval.unit(np.repeat(units((200, 32)), 10, axis=0) + 0.15 * units((2000, 32), 1) * math.sqrt(32))
    exact = retrieval.most_similar(vectors, 5)
    monkeypatch.setattr(retrieval, "EXACT_UP_TO", 1999)
    found = retrieval.most_similar(vectors, 5)
    shared = [len(set(one) & set(other)) for one, other in zip(exact, found, strict=True)]
    assert np.mean(shared) > 4.8
    assert all(index not in chosen and len(set(chosen)) == 5 for index, chosen in enumerate(found))


def test_without_faiss_the_message_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retrieval, "EXACT_UP_TO", 3)
    monkeypatch.setitem(__import__("sys").modules, "faiss", None)
    with pytest.raises(ValueError, match=r"more than 3 photos: pip install 'ripe-keypoints\[scale\]'"):
        retrieval.searching(units((4, 8)))


def test_turned_photos_come_beside_the_others() -> None:
    """Two places of ten photos; the last photo of each shows its place only when it is turned."""
    vectors = retrieval.unit(np.repeat(units((2, 32)), 10, axis=0) + 0.05 * units((20, 32), 1) * math.sqrt(32))
    turned = units((20, 32), 2)
    turned[[9, 19]] = vectors[[9, 19]]
    vectors[[9, 19]] = units((2, 32), 3)
    without, found = retrieval.most_similar(vectors, 4), retrieval.most_similar(vectors, 4, [turned])
    assert [chosen[:4] for chosen in found] == without
    assert all(len(chosen) == 5 == len({*chosen, index}) - 1 for index, chosen in enumerate(found))
    assert found[9][4] in range(9)
    assert found[19][4] in range(10, 19)


@pytest.fixture(scope="module")
def crops(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four overlapping crops of each of six photos; the last one of each is turned by a quarter. Do not change it."""
    folder = tmp_path_factory.mktemp("crops")
    for subject in SUBJECTS:
        photo = Image.fromarray(getattr(skimage.data, subject)()).convert("RGB").resize((300, 250))
        for index, (x, y) in enumerate(((0, 0), (60, 10), (20, 50), (40, 30))):
            crop = photo.crop((x, y, x + 240, y + 200))
            crop = crop.transpose(Image.Transpose.ROTATE_90) if index == 3 else crop
            crop.save(folder / f"{subject}{index}.png")
    return folder


@pytest.fixture(scope="module")
def stored(crops: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Their features, of the shipped weights. Do not change it."""
    path = tmp_path_factory.mktemp("features") / "features.h5"
    assert main(["extract", str(crops), "-o", str(path), "--max-keypoints", "400", "--device", "cpu"]) == 0
    return path


def together(pairs: list[tuple[str, str]], last: bool) -> float:
    """Share of the pairs of crops of one photo that are there: of the turned crop, or of the others."""
    names = [[f"{subject}{index}.png" for index in range(4)] for subject in SUBJECTS]
    wanted = [pair for each in names for pair in combinations(each, 2) if (pair[1] == each[3]) == last]
    return len(set(map(frozenset, wanted)) & set(map(frozenset, pairs))) / len(wanted)


def test_photos_of_one_thing_are_chosen(crops: Path, stored: Path, tmp_path: Path) -> None:
    """The upright ones by their features alone, the turned ones if the photos are at hand."""
    words = ["--neighbours", "4", "--device", "cpu", "-o", str(tmp_path / "pairs.txt")]
    assert main(["pairs", str(stored), *words]) == 0
    plain = read_pair_list(tmp_path / "pairs.txt")
    assert main(["pairs", str(stored), "--photos", str(crops), *words]) == 0
    turned = read_pair_list(tmp_path / "pairs.txt")
    assert together(plain, last=False) > 0.9
    assert together(turned, last=True) > together(plain, last=True) + 0.1
    assert set(plain) < set(turned)
    assert len(turned) <= 5 * 24
    assert main(["pairs", str(stored), "--photos", str(crops), "--rotations", "none", *words]) == 0
    assert read_pair_list(tmp_path / "pairs.txt") == plain


def test_a_folder_gives_what_its_feature_file_does(crops: Path, stored: Path, tmp_path: Path) -> None:
    lists = []
    for words in ([stored], [crops, "--max-keypoints", "400", "--rotations", "none"]):
        output = tmp_path / f"{len(lists)}.txt"
        assert main(["pairs", *map(str, words), "-o", str(output), "--neighbours", "3", "--device", "cpu"]) == 0
        lists.append(read_pair_list(output))
    assert lists[0] == lists[1]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["0.txt", "1.txt"]


def test_methods_are_joined_and_the_list_is_matched(
    stored: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    pairs = str(tmp_path / "pairs.txt")
    words = ["pairs", str(stored), "-o", pairs, "--neighbours", "1"]
    found = []
    for methods in (["sequential"], ["retrieval"], ["sequential", "retrieval"]):
        assert main([*words, "--method", *methods]) == 0
        found.append({frozenset(pair) for pair in read_pair_list(pairs)})
    assert found[2] == found[0] | found[1]
    assert found[0] != found[1]
    capsys.readouterr()
    assert main(["match", "--pairs", pairs, "--features", str(stored), "-o", str(tmp_path / "matches.h5")]) == 0
    assert f"{len(found[2])} of {len(found[2])} pairs" in capsys.readouterr().out


def test_what_cannot_be_used_is_left_out_and_named(crops: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    folder = tmp_path / "photos"
    shutil.copytree(crops, folder)
    (folder / "broken.png").write_text("no photo")
    Image.new("RGB", (100, 100)).save(folder / "empty.png")  # has no keypoint
    words = ["--neighbours", "2", "--max-keypoints", "100", "--device", "cpu", "--rotations", "none"]
    assert main(["pairs", str(folder), "-o", str(tmp_path / "pairs.txt"), *words]) == 1
    assert "ripe: left out: broken.png: not an image" in capsys.readouterr().err
    names = {name for pair in read_pair_list(tmp_path / "pairs.txt") for name in pair}
    assert names == {path.name for path in crops.iterdir()}


def test_features_that_are_none_are_left_out() -> None:
    rng = np.random.default_rng(0)
    found = {f"{index}": features(units((20, 8), index)) for index in range(6)}
    found["3"].descriptors[0, 0] = math.nan
    found["5"] = found["5"][:0]
    problems: dict[str, str] = {}
    pairs = alike(list(found), found.__getitem__, 1, failed=lambda name, error: problems.update({name: str(error)}))
    assert {name for pair in pairs for name in pair} == set("0124")
    assert list(problems) == ["3"]
    assert "NaN" in problems["3"]
    assert alike(["0"], found.__getitem__, int(rng.integers(1, 9))) == []
    assert alike(list(found), found.__getitem__, 1, failed=lambda name, error: None) == pairs  # and again the same


def with_position(path: Path, latitude: object, longitude: object, references: tuple[str, str]) -> Path:
    exif = Image.Exif()
    gps = exif.get_ifd(ExifTags.IFD.GPSInfo)
    gps[ExifTags.GPS.GPSLatitudeRef], gps[ExifTags.GPS.GPSLongitudeRef] = references
    gps[ExifTags.GPS.GPSLatitude], gps[ExifTags.GPS.GPSLongitude] = latitude, longitude
    Image.new("RGB", (32, 32)).save(path, exif=exif)
    return path


@pytest.mark.parametrize(
    ("latitude", "longitude", "references", "expected"),
    [
        ((52, 31, 12.5), (13, 24, 36.0), ("N", "E"), (52.520139, 13.41)),
        ((33, 51, 35.9), (151, 12, 40.0), ("S", "E"), (-33.859972, 151.211111)),
        ((22.5, 0, 0), (43, 10.5, 0), ("S", "W"), (-22.5, -43.175)),
        ((0, 0, 0), (0, 0, 0), ("N", "E"), None),  # no place was found
        ((95, 0, 0), (10, 0, 0), ("N", "E"), None),
    ],
)
def test_positions_are_read(
    latitude: object, longitude: object, references: tuple[str, str], expected: tuple | None, tmp_path: Path
) -> None:
    found = exif_position(with_position(tmp_path / "a.jpg", latitude, longitude, references))
    assert found == (None if expected is None else pytest.approx(expected, abs=1e-5))


def test_photos_without_a_position_have_none(tmp_path: Path, photos: list[Path]) -> None:
    assert exif_position(photos[0]) is None
    broken = with_position(tmp_path / "a.jpg", (1, 2, 3), (1, 2, 3), ("N", "E"))
    broken.write_bytes(broken.read_bytes().replace(b"N\0", b"\xff\xff"))
    exif_position(broken)  # whatever it is, no error
    (tmp_path / "b.jpg").write_text("no photo")
    with pytest.raises(ValueError, match=r"b\.jpg: not an image"):
        exif_position(tmp_path / "b.jpg")


def haversine(one: np.ndarray, other: np.ndarray) -> float:
    (latitude0, longitude0), (latitude1, longitude1) = np.radians(one), np.radians(other)
    squared = math.sin((latitude1 - latitude0) / 2) ** 2
    squared += math.cos(latitude0) * math.cos(latitude1) * math.sin((longitude1 - longitude0) / 2) ** 2
    return 2 * EARTH_RADIUS * math.asin(math.sqrt(squared))


@settings(max_examples=30, deadline=None)
@given(
    st.integers(0, 10_000), st.floats(10, 3000), st.integers(1, 5), st.sampled_from([(0, 180), (89.99, 0), (52, 13)])
)
def test_near_ones_are_those_of_least_distance(
    seed: int, max_distance: float, neighbours: int, middle: tuple[float, float]
) -> None:
    """Also where longitudes jump, and at the pole; against distances along the globe."""
    rng = np.random.default_rng(seed)
    places = np.array(middle) + rng.normal(scale=0.01, size=(15, 2))
    places[:, 0] = np.minimum(places[:, 0], 90)
    places[:, 1] = (places[:, 1] + 180) % 360 - 180
    for index, found in nearby(places, max_distance, neighbours):
        distances = {other: haversine(places[index], places[other]) for other in range(15) if other != index}
        expected = sorted(distance for distance in distances.values() if distance <= max_distance)
        assert [distances[other] for other in found] == pytest.approx(expected[:neighbours], abs=0.01)


def test_spatial_pairs_of_a_folder(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    """Photos each 0.001° (111 m) north of the one before; one has no position."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for index in range(4):
        with_position(folder / f"{index}.jpg", (50, 0, 3.6 * index), (8, 0, 0), ("N", "E"))
    Image.new("RGB", (32, 32)).save(folder / "nowhere.jpg")
    words = ["pairs", str(folder), "-o", str(tmp_path / "pairs.txt"), "--method", "spatial", "--max-distance"]
    assert main([*words, "120"]) == 0
    assert read_pair_list(tmp_path / "pairs.txt") == [("0.jpg", "1.jpg"), ("1.jpg", "2.jpg"), ("2.jpg", "3.jpg")]
    assert "1 of 5 photos have no position in EXIF, and no pairs by it: nowhere.jpg" in capsys.readouterr().err
    assert main([*words, "250", "--neighbours", "3"]) == 0
    assert len(read_pair_list(tmp_path / "pairs.txt")) == 5
    (folder / "broken.jpg").write_text("no photo")
    assert main([*words, "120"]) == 1
    assert "left out: broken.jpg: " in capsys.readouterr().err


NAMES = st.text(st.characters(blacklist_characters="\r\n", blacklist_categories=["Cs"]), min_size=1).filter(
    lambda name: name == Path(name).as_posix() and name.strip() == name
)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.lists(NAMES, min_size=2, max_size=2, unique=True).map(tuple), min_size=1, unique_by=frozenset))
def test_lists_are_read_as_they_were_written(tmp_path_factory: pytest.TempPathFactory, pairs: list) -> None:
    path = tmp_path_factory.getbasetemp() / "round.txt"
    write_pair_list(path, pairs)
    assert read_pair_list(path) == pairs
    if not any(set(' \t"#') & set(name) or len(name.split()) > 1 for pair in pairs for name in pair):
        lines = path.read_text(encoding="utf-8").splitlines() if path.read_text(encoding="utf-8").isascii() else []
        assert all(len(line.split(" ")) == 2 for line in lines)  # as hloc splits them


def test_a_name_with_a_line_break_cannot_be_listed(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"'a\\nb': .* line break"):
        write_pair_list(tmp_path / "pairs.txt", [("a\nb", "c")])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("nothing.h5 -o pairs.txt", "nothing.h5: no such file"),
        ("empty -o pairs.txt", "empty: holds no photo"),
        ("photos -o no/pairs.txt", "there is no folder no"),
        ("features.h5 -o pairs.txt --method spatial", "spatial pairs need the photos, whose EXIF has"),
        ("photos -o pairs.txt --method spatial", "photos: no photo's EXIF has a position (GPS)"),
        ("features.h5 -o pairs.txt --photos photos", "features.h5 was not made by compact; name the --model"),
    ],
)
def test_errors_are_one_line(
    words: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("photos", "empty"):
        (tmp_path / name).mkdir()
    Image.new("RGB", (32, 32)).save(tmp_path / "photos" / "a.png")
    with FeatureFile(tmp_path / "features.h5", {"weights": "others"}) as file:
        file.add({"a.png": features(units((20, 8)))}, {"a.png": 1.0})
    assert main(["pairs", *shlex.split(words)]) == 1
    assert message in capsys.readouterr().err
    assert not (tmp_path / "pairs.txt").exists()


def test_a_method_that_lacks_something_says_so() -> None:
    with pytest.raises(ValueError, match="retrieval need the photos' features"):
        choose_pairs(PairChoice(), ["a", "b"])


def test_the_embedded_default_needs_no_faiss(stored: Path) -> None:
    with FeatureReader(stored) as reader, pytest.MonkeyPatch.context() as patch:
        patch.setitem(__import__("sys").modules, "faiss", None)
        names = reader.names()
        assert len(choose_pairs(PairChoice(neighbours=3), names, read=reader.read)) >= 3 * len(names) / 2
