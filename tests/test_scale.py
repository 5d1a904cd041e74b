"""Tables of features and matches at any address, without Ray: contents, continuing, errors and conversions."""

import functools
import threading
from collections import Counter
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from ripe.cli import main
from ripe.features import Features
from ripe.storage import FeatureFile, read_features, read_matches

pytest.importorskip("pyarrow")

from ripe.scale import matching
from ripe.scale.feature_tables import Extracted, FeatureTable, encode, feature_shards
from ripe.scale.match_tables import MatchTable

COUNT = 7


@pytest.fixture
def folder(tmp_path: Path, photos: list[Path]) -> Path:
    """Photos in sub-folders that overlap, a file that is none, and a hidden one."""
    root = tmp_path / "photos"
    (root / "sub").mkdir(parents=True)
    with Image.open(photos[0]) as photo:
        for index in range(COUNT):
            part = photo.crop((10 * index, 0, 200 + 10 * index, 150))
            part.save(root / ("sub" if index % 2 else "") / f"{index}.png")
    (root / "bad.jpg").write_text("no image")
    (root / ".hidden.jpg").write_text("no image")
    return root


@pytest.fixture
def http(folder: Path) -> Iterator[str]:
    """The folder's address at a server of HTTP."""
    handler = functools.partial(SimpleHTTPRequestHandler, directory=str(folder))
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


def extract(folder: Path | str, output: str, weights: Path, *options: str) -> int:
    return main(
        [
            "extract",
            str(folder),
            "-o",
            output,
            "--model",
            str(weights),
            "--max-keypoints",
            "50",
            "--shard-size",
            "3",
            *options,
        ]
    )


def assert_same(table: FeatureTable, expected: dict[str, dict[str, np.ndarray]]) -> None:
    """A table holds what a feature file does."""
    assert table.names() == sorted(expected)
    for name, features in table.items():
        arrays = features.numpy()
        arrays["descriptors"] = arrays["descriptors"].T
        for key, values in expected[name].items():
            np.testing.assert_allclose(arrays[key], values, atol=1e-4, err_msg=f"{name}/{key}")


def test_a_table_holds_what_a_feature_file_holds(folder: Path, tmp_path: Path, random_weights: Path) -> None:
    (folder / "0.png").rename(folder / "a [0-9] * #.png")  # which is no pattern
    assert extract(folder, str(tmp_path / "f.h5"), random_weights) == 1
    address = f"file://{tmp_path}/features"
    assert extract(folder, address, random_weights) == 1
    table = FeatureTable(address)
    assert_same(table, read_features(tmp_path / "f.h5"))
    assert table.errors() == {"bad.jpg": "not an image, or of a kind that is not read"}
    assert len(feature_shards(address).names()) == 3
    assert table.settings["max_keypoints"] == 50
    assert len(table.settings["weights"]) == 64


def test_photos_come_by_http(http: str, folder: Path, tmp_path: Path, random_weights: Path) -> None:
    pytest.importorskip("aiohttp")
    assert extract(http, f"file://{tmp_path}/a", random_weights) == 1
    assert extract(folder, f"file://{tmp_path}/b", random_weights) == 1
    assert FeatureTable(f"{tmp_path}/a").names() == FeatureTable(f"{tmp_path}/b").names()
    expected = FeatureTable(f"{tmp_path}/b")
    for name, found in FeatureTable(f"{tmp_path}/a").items():
        torch.testing.assert_close(found.descriptors, expected.read(name).descriptors)


def test_only_what_is_missing_is_done(
    folder: Path, tmp_path: Path, random_weights: Path, caplog: pytest.LogCaptureFixture
) -> None:
    output = tmp_path / "features"
    address = f"file://{output}"
    assert extract(folder, address, random_weights) == 1
    before = {path.name: path.stat().st_mtime_ns for path in output.iterdir()}
    (folder / "bad.jpg").unlink()
    Image.open(folder / "0.png").rotate(180).save(folder / "bad.jpg")  # which can be read now
    Image.open(folder / "2.png").rotate(180).save(folder / "2.png")
    Image.open(folder / "2.png").save(folder / "9.png")
    lost = next(
        name for name in before if "sub/1.png" in feature_shards(address)._read(name, ["name"])["name"].to_pylist()
    )
    (output / lost).unlink()
    assert extract(folder, address, random_weights) == 0
    assert "1 photos are extracted anew, as their files have changed" in caplog.text
    untouched = [
        name for name, time in before.items() if (output / name).exists() and (output / name).stat().st_mtime_ns == time
    ]
    table = FeatureTable(address)
    assert len(table.names()) == len(table.rows) == COUNT + 2
    assert len(untouched) <= 1
    rows = [
        name
        for shard in feature_shards(address).names()
        for name in feature_shards(address)._read(shard, ["name"])["name"].to_pylist()
    ]
    assert Counter(rows) == Counter(table.names())  # no name is there twice
    assert extract(folder, str(tmp_path / "f.h5"), random_weights) == 0
    assert_same(table, read_features(tmp_path / "f.h5"))


def test_what_a_killed_worker_left_is_no_shard_and_goes(folder: Path, tmp_path: Path, random_weights: Path) -> None:
    table = tmp_path / "features"
    extract(folder, f"file://{table}", random_weights)
    whole = {path.name: path.read_bytes() for path in table.iterdir()}
    names, one = FeatureTable(str(table)).names(), next(iter(whole))
    left = table / f".{one}.tmp"
    left.mkdir()
    (left / one).write_bytes(whole[one][:100])
    (table / f".{one}.lock").touch()
    assert FeatureTable(str(table)).names() == names
    extract(folder, f"file://{table}", random_weights)
    assert FeatureTable(str(table)).names() == names
    assert not any(path.name.startswith(".") for path in table.iterdir())


def test_other_settings_are_refused_and_can_be_overwritten(
    folder: Path, tmp_path: Path, random_weights: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    address = f"file://{tmp_path}/features"
    assert extract(folder, address, random_weights) == 1
    assert extract(folder, address, random_weights, "--resize", "100") == 1
    assert "was begun with other settings (--resize 1600 there, 100 now)" in capsys.readouterr().err
    assert extract(folder, address, random_weights, "--resize", "100", "--overwrite") == 1
    assert FeatureTable(address).settings["max_side"] == 100


def test_masks_and_their_changes_are_heeded(folder: Path, tmp_path: Path, random_weights: Path) -> None:
    (folder / "bad.jpg").unlink()
    (tmp_path / "masks").mkdir()
    mask = np.zeros((150, 200), dtype=np.uint8)
    mask[:, :100] = 255
    Image.fromarray(mask).save(tmp_path / "masks" / "0.png")
    address = f"file://{tmp_path}/features"
    for left, size in ((True, 150), (False, 150), (False, 20)):
        Image.fromarray(mask[:size] if left else 255 - mask[:size]).save(tmp_path / "masks" / "0.png")
        assert extract(folder, address, random_weights, "--masks", f"{tmp_path}/masks") == int(size == 20)
        table = FeatureTable(address)
        if size == 150:
            x = table.read("0.png").keypoints[:, 0]
            assert len(x) > 3
            assert ((x < 100) == left).all()
            assert (table.read("2.png").keypoints[:, 0] > 100).any()
        else:
            assert "must have the size of its photo" in table.errors()["0.png"]


@pytest.mark.parametrize(
    ("source", "message"),
    [("nothing", "no such folder"), ("empty", "holds no photo"), ("foo://bucket", "cannot be opened by fsspec")],
)
def test_what_cannot_be_read_is_named(
    source: str, message: str, tmp_path: Path, random_weights: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty").mkdir()
    folder = source if "://" in source else str(tmp_path / source)
    assert extract(folder, f"file://{tmp_path}/features", random_weights) == 1
    assert message in capsys.readouterr().err
    assert not (tmp_path / "features").exists()


def random_features(seed: int, count: int = 30) -> Features:
    generator = torch.Generator().manual_seed(seed)
    descriptors = torch.nn.functional.normalize(torch.randn(count, 8, generator=generator), dim=1)
    return Features(torch.rand(count, 2, generator=generator), torch.arange(count, 0, -1.0), descriptors, (64, 48))


def test_a_row_gives_its_features_back_whatever_their_number_and_type(tmp_path: Path) -> None:
    expected = {f"{count}": random_features(count, count) for count in range(20)}
    expected["half"] = random_features(3)
    expected["half"].descriptors = expected["half"].descriptors.half()
    shards = feature_shards(str(tmp_path))
    shards.write(encode([Extracted(name, "", found) for name, found in expected.items()], {"max_side": None}))
    table = FeatureTable(str(tmp_path))
    assert table.settings == {"max_side": "none"}
    for name, found in table.items():
        for key, values in expected[name].numpy().items():
            np.testing.assert_array_equal(found.numpy()[key], values.astype(found.numpy()[key].dtype))
    assert table.rows["half"].shard == table.rows["0"].shard


def test_hloc_files_become_tables_and_tables_hloc_files(tmp_path: Path) -> None:
    names = ["a.jpg", "sub/b.jpg", "sub/c.jpg", "d.jpg"]
    source, back, table = tmp_path / "f.h5", tmp_path / "back.h5", tmp_path / "table"
    with FeatureFile(source, {"model": "compact", "threshold": 0.5, "max_side": None}) as store:
        store.add({name: random_features(seed) for seed, name in enumerate(names)}, dict.fromkeys(names, 2.5))
    assert main(["convert", str(source), "-o", str(table)]) == 0
    assert main(["convert", str(table), "-o", str(back)]) == 0
    one, other = read_features(source), read_features(back)
    assert list(one) == list(other)
    for name, arrays in one.items():
        for key, values in arrays.items():
            np.testing.assert_array_equal(values, other[name][key])
    import h5py

    with h5py.File(source) as first, h5py.File(back) as second:
        assert dict(first.attrs) == dict(second.attrs)
        assert second["sub/b.jpg/keypoints"].attrs["uncertainty"] == 2.5
    assert main(["convert", str(source), "-o", str(table)]) == 1  # it is there already
    assert main(["convert", str(source), "-o", str(table), "--overwrite"]) == 0


@pytest.fixture
def matched(folder: Path, tmp_path: Path) -> Path:
    """Tables of features of the shipped network and of matches, and the list of pairs."""
    (folder / "bad.jpg").unlink()
    assert main(["extract", str(folder), "-o", f"file://{tmp_path}/features", "--max-keypoints", "200"]) == 0
    names = FeatureTable(f"{tmp_path}/features").names()
    Image.new("RGB", (200, 150)).save(folder / "z.png")  # nothing is to be seen on it
    (tmp_path / "pairs.txt").write_text("".join(f"{a} {b}\n" for a, b in combinations(names, 2)))
    assert match(tmp_path) == 0
    return tmp_path


def match(tmp_path: Path, *more: str) -> int:
    words = ["match", "--pairs", f"{tmp_path}/pairs.txt", "--features", f"{tmp_path}/features"]
    return main([*words, "-o", f"file://{tmp_path}/matches", *more])


def test_matches_are_those_of_a_single_machine(matched: Path) -> None:
    assert main(["convert", f"{matched}/features", "-o", f"{matched}/f.h5"]) == 0
    words = ["--features", f"{matched}/f.h5", "-o", f"{matched}/m.h5", "--geometry", "fundamental"]
    assert main(["match", "--pairs", f"{matched}/pairs.txt", *words]) == 0
    table = MatchTable(f"{matched}/matches")
    assert len(table.rows) == COUNT * (COUNT - 1) // 2
    single = dict(read_matches(matched / "m.h5", table.rows))
    for pair, indices in table.items():
        assert set(map(tuple, indices.tolist())) == set(map(tuple, single[pair].tolist()))
    assert sum(len(indices) > 50 for indices in single.values()) > 5
    assert {row.verdict for row in table.rows.values()} >= {"matched"}
    assert main(["convert", f"{matched}/matches", "--features", f"{matched}/features", "-o", f"{matched}/c.h5"]) == 0
    for (pair, one), (_, other) in zip(
        read_matches(matched / "c.h5", table.rows), read_matches(matched / "m.h5", table.rows), strict=True
    ):
        np.testing.assert_array_equal(one, other, err_msg=str(pair))


def test_geometries_are_those_that_the_matches_agree_with(matched: Path) -> None:
    from ripe.geometry.epipolar import sampson_distance

    features = FeatureTable(f"{matched}/features")
    count = 0
    for (name0, name1), found, noted in MatchTable(f"{matched}/matches").matches():
        if len(found):
            points = found.points(features.read(name0), features.read(name1))
            errors = sampson_distance(torch.from_numpy(noted["fundamental"]), *(each.double() for each in points))
            assert errors.max() < 1.1  # the inliers are those of the model before its last refinement
            count += 1
    assert count > 5


def test_pairs_are_matched_once_and_anew_when_their_features_change(
    matched: Path, caplog: pytest.LogCaptureFixture
) -> None:
    shards = list((matched / "matches").iterdir())
    times = [path.stat().st_mtime_ns for path in shards]
    lines = (matched / "pairs.txt").read_text().splitlines()
    (matched / "pairs.txt").write_text("\n".join(" ".join(reversed(line.split())) for line in lines))
    assert match(matched) == 0  # in the other order: nothing is to be done
    assert [path.stat().st_mtime_ns for path in shards] == times
    photo = matched / "photos" / "0.png"
    Image.open(photo).transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(photo)
    assert main(["extract", f"{matched}/photos", "-o", f"file://{matched}/features", "--max-keypoints", "200"]) == 0
    assert match(matched) == 0
    assert f"{COUNT - 1} pairs are matched anew, as their features have changed" in caplog.text
    table = MatchTable(f"{matched}/matches")
    assert len({frozenset(pair) for pair in table.rows}) == len(table.rows) == COUNT * (COUNT - 1) // 2
    assert {row.features for pair, row in table.rows.items() if "0.png" in pair}.isdisjoint(
        {row.features for pair, row in table.rows.items() if "0.png" not in pair}
    )


def test_pairs_without_features_are_named(matched: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with (matched / "pairs.txt").open("a") as file:
        file.write("0.png nowhere.png\n")
    assert match(matched) == 1
    assert "1 pairs of nowhere.png" in capsys.readouterr().err


def test_colmap_maps_from_the_tables(matched: Path) -> None:
    pycolmap = pytest.importorskip("pycolmap")
    words = ["--features", f"{matched}/features", "--photos", f"{matched}/photos", "-o", f"{matched}/database.db"]
    assert main(["convert", f"{matched}/matches", *words]) == 0
    table = MatchTable(f"{matched}/matches")
    with pycolmap.Database.open(matched / "database.db") as database:
        names = {image.name: image.image_id for image in database.read_all_images()}
        assert sorted(names) == FeatureTable(f"{matched}/features").names()
        for (name0, name1), indices in table.items():
            stored = database.read_matches(names[name0], names[name1]) if len(indices) else []
            assert sorted(map(tuple, np.asarray(stored).tolist())) == sorted(map(tuple, indices.tolist()))
        assert database.num_verified_image_pairs() > 5


def test_blocks_of_pairs_share_photos() -> None:
    names = [f"{number:04}" for number in range(300)]
    pairs = [(names[i], names[j]) for i, j in combinations(range(300), 2) if (i * 7 + j * 13) % 3 == 0]
    blocks = list(matching.pair_blocks(pairs))
    assert Counter(pair for block in blocks for pair in block) == Counter(pairs)
    reads = [len({name for pair in block for name in pair}) for block in blocks]
    assert max(reads) <= matching.PHOTOS_PER_BLOCK
    assert max(map(len, blocks)) <= matching.PAIRS_PER_BLOCK
    assert sum(reads) < 0.2 * 2 * len(pairs)
    shuffled = [pairs[index] for index in torch.randperm(len(pairs)).tolist()]
    assert list(matching.pair_blocks(shuffled)) == blocks


def test_a_table_is_made_by_pairs_alone(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["match", "a.jpg", "b.jpg", "--engine", "ray"])
    assert "go with --pairs and --features" in capsys.readouterr().err


def test_s3_is_read_and_written(folder: Path, tmp_path: Path, random_weights: Path, s3: str) -> None:
    import s3fs

    files = s3fs.S3FileSystem()
    files.put(str(folder), f"{s3}/photos", recursive=True)
    assert extract(f"s3://{s3}/photos", f"s3://{s3}/features", random_weights) == 1
    assert extract(folder, f"file://{tmp_path}/features", random_weights) == 1
    here, there = FeatureTable(f"{tmp_path}/features"), FeatureTable(f"s3://{s3}/features")
    assert there.names() == here.names()
    assert there.errors() == here.errors()
    for name in there.names():
        torch.testing.assert_close(there.read(name).descriptors, here.read(name).descriptors)
    files.put(str(folder / "2.png"), f"{s3}/photos/0.png")
    files.put(str(folder / "2.png"), f"{s3}/photos/bad.jpg")
    assert extract(f"s3://{s3}/photos", f"s3://{s3}/features", random_weights) == 0
    again = FeatureTable(f"s3://{s3}/features")
    torch.testing.assert_close(again.read("0.png").descriptors, again.read("2.png").descriptors)
    assert len(again.names()) == COUNT + 1


@pytest.fixture
def s3(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The name of a bucket at a local server, which the environment names."""
    pytest.importorskip("s3fs")
    server = pytest.importorskip("moto.server").ThreadedMotoServer(port=0)
    server.start()
    host, port = server.get_host_and_port()
    for key, value in {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
    }.items():
        monkeypatch.setenv(key, value)
    import s3fs

    s3fs.S3FileSystem.clear_instance_cache()
    s3fs.S3FileSystem().mkdir("bucket")
    yield "bucket"
    s3fs.S3FileSystem.clear_instance_cache()
    server.stop()
