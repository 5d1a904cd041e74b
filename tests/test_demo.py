"""The web demo: what it lets in, what it keeps, what it hands out; and a real server that hostile files do not end."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import h5py
import numpy as np
import pytest
import torch
from PIL import Image

import ripe
from ripe import matching
from ripe.cli import main
from ripe.demo import examples, intake, outputs
from ripe.demo.intake import read_upload
from ripe.demo.pipeline import DemoSettings, Pipeline
from ripe.download import sha256_of
from ripe.drawing import RED, UNVERIFIED
from ripe.filters import METHODS
from ripe.matchers import SHA256, Matcher, save_matcher
from ripe.model import RIPE
from ripe.networks.compact import CompactNet
from ripe.pretrained import build_compact, weights_hash
from ripe.two_views import LONG_SIDE


def bomb(path: Path, side: int) -> None:
    """A PNG file of a few bytes whose header promises side×side pixels."""
    header = b"IHDR" + side.to_bytes(4, "big") * 2 + b"\x08\x02\x00\x00\x00"
    chunks = [header, b"IDAT" + zlib.compress(bytes(1000)), b"IEND"]
    packed = [(len(chunk) - 4).to_bytes(4, "big") + chunk + zlib.crc32(chunk).to_bytes(4, "big") for chunk in chunks]
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(packed))


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory, photos: list[Path]) -> Path:
    """Files that a visitor may send by mistake or on purpose."""
    folder = tmp_path_factory.mktemp("hostile")
    bomb(folder / "bomb.png", 60_000)
    bomb(folder / "large.png", 6_000)
    (folder / "text.jpg").write_text("no image")
    (folder / "drawing.svg").write_text('<svg xmlns="http://www.w3.org/2000/svg" width="99" height="99"/>')
    (folder / "empty.png").write_bytes(b"")
    (folder / "cut.jpg").write_bytes(photos[0].read_bytes()[:20_000])
    frames = [Image.new("RGB", (40, 40), colour) for colour in ("red", "blue")]
    for name in ("animated.gif", "animated.webp", "animated.png"):
        frames[0].save(folder / name, save_all=True, append_images=frames[1:])
    Image.new("RGB", (1, 1)).save(folder / "pixel.png")
    return folder


REFUSED = {
    "bomb.png": "more than the 25 million pixels",
    "large.png": "6000×6000 pixels: more than the 25 million pixels",
    "text.jpg": "not a photo",
    "drawing.svg": "not a photo",
    "empty.png": "not a photo",
    "cut.jpg": "damaged",
    "animated.gif": "an animation",
    "animated.webp": "an animation",
    "animated.png": "an animation",
    "pixel.png": "1×1 pixels; both sides need 16 or more",
}


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("name", REFUSED)
def test_files_that_are_no_photos_are_refused_in_plain_words(hostile: Path, name: str) -> None:
    with pytest.raises(ValueError, match=re.escape(REFUSED[name])) as refusal:
        read_upload(hostile / name)
    assert str(refusal.value).startswith(f"{name}: ")
    assert "\n" not in str(refusal.value)


def test_files_beyond_the_size_limit_are_refused_unread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(intake, "MAX_FILE_BYTES", 2_000_000)
    (tmp_path / "big.jpg").write_bytes(bytes(3_000_000))
    with pytest.raises(ValueError, match=r"^big.jpg: 3 MB; files may have 2 MB at most$"):
        read_upload(tmp_path / "big.jpg")


def test_cmyk_is_converted_and_16_bits_are_kept(tmp_path: Path, photos: list[Path]) -> None:
    with Image.open(photos[0]) as photo:
        photo.convert("CMYK").save(tmp_path / "cmyk.jpg", quality=95)
        rgb = np.asarray(photo)
    assert np.abs(read_upload(tmp_path / "cmyk.jpg").astype(int) - rgb).mean() < 6
    ramp = np.arange(40 * 40, dtype=np.uint16).reshape(40, 40) * 40
    Image.fromarray(ramp).save(tmp_path / "deep.png")
    read = read_upload(tmp_path / "deep.png")
    assert read.dtype == np.uint16
    assert (read == ramp[:, :, None]).all()


@pytest.fixture
def network_calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """Shapes of what the network is given from here on."""
    calls: list[tuple[int, ...]] = []
    infer = CompactNet.infer

    def counted(self: CompactNet, images: torch.Tensor) -> object:
        calls.append(tuple(images.shape))
        return infer(self, images)

    monkeypatch.setattr(CompactNet, "infer", counted)
    return calls


@pytest.fixture
def settings(random_weights: Path) -> DemoSettings:
    return DemoSettings(model=str(random_weights), max_keypoints=300)


def changed(settings: DemoSettings, **values: object) -> DemoSettings:
    return DemoSettings(**{**vars(settings), **values})


def new_folder(path: Path) -> Path:
    (path / "files").mkdir()
    return path / "files"


def test_only_what_a_setting_changes_is_computed_again(
    photos: list[Path], settings: DemoSettings, network_calls: list[tuple[int, ...]], tmp_path: Path
) -> None:
    pipeline = Pipeline("cpu")
    first = pipeline.run(*photos, settings)
    assert set(first.milliseconds) == {"load", "read", "extract", "match", "geometry"}
    assert len(network_calls) == 2
    looser = pipeline.run(*photos, changed(settings, inlier_threshold=8.0))
    assert set(looser.milliseconds) == {"geometry"}
    assert looser.geometry.num_inliers > first.geometry.num_inliers
    plane = pipeline.run(*photos, changed(settings, geometry="homography"))
    assert set(plane.milliseconds) == {"geometry"}
    again = pipeline.run(*photos, settings)
    assert again.milliseconds == {}
    assert torch.equal(again.geometry.inliers, first.geometry.inliers)
    assert len(network_calls) == 2
    fewer = pipeline.run(*photos, changed(settings, max_keypoints=200))
    assert set(fewer.milliseconds) == {"extract", "match", "geometry"}
    pipeline.run(*photos, changed(settings, threshold=1e6))  # without keypoints: three scales are tried, too
    assert len(network_calls) == 12
    renamed = shutil.copy(photos[0], tmp_path / "renamed.jpg")  # the same photo, sent under another name
    assert pipeline.run(renamed, photos[1], settings).views[0].name == "renamed.jpg"
    pipeline.run(*reversed(photos), settings)
    assert len(network_calls) == 12


def test_what_is_kept_is_what_a_fresh_run_finds(photos: list[Path], settings: DemoSettings) -> None:
    kept = Pipeline("cpu")
    kept.run(*photos, settings)
    asked = changed(settings, inlier_threshold=3.0)
    documents = [pipeline.run(*photos, asked).document() for pipeline in (kept, Pipeline("cpu"))]
    for document in documents:
        del document["milliseconds"]
    assert documents[0] == documents[1]


def test_large_photos_are_shrunk_for_the_network_and_keypoints_stay_in_their_pixels(
    tmp_path: Path, photos: list[Path], settings: DemoSettings, network_calls: list[tuple[int, ...]]
) -> None:
    with Image.open(photos[0]) as photo:
        photo.resize((2000, 1000)).save(tmp_path / "large.jpg")
    view = Pipeline("cpu").run(tmp_path / "large.jpg", photos[0], settings).views[0]
    assert network_calls[0][2:] == view.shown.shape[1:] == (800, LONG_SIDE)
    assert view.features.image_size == (2000, 1000)
    assert view.features.keypoints[:, 0].max() > LONG_SIDE
    shown = view.on_shown(view.features.keypoints)
    assert torch.allclose((shown + 0.5) * 1.25, view.features.keypoints + 0.5, atol=1e-3)


def test_the_inlier_threshold_follows_the_resize_as_that_of_the_command_does(
    tmp_path: Path, photos: list[Path], random_weights: Path
) -> None:
    large = [tmp_path / photo.name for photo in photos]
    for photo, enlarged in zip(photos, large, strict=True):
        with Image.open(photo) as image:
            image.resize((2400, 1600)).save(enlarged)
    settings = DemoSettings(model=str(random_weights), max_keypoints=100)
    found = Pipeline("cpu").run(*large, settings).document()
    assert found["settings"]["inlier_threshold"] == 1.5
    command = ["match", *map(str, large), "--model", str(random_weights), "--max-keypoints", "100"]
    main([*command, "--json", str(tmp_path / "command.json")])
    by_command = json.loads((tmp_path / "command.json").read_text())
    assert by_command["settings"]["inlier_threshold"] == 1.5
    assert found["inliers"] == by_command["inliers"]


def test_sift_sees_the_same_photos_and_not_the_network(
    photos: list[Path], settings: DemoSettings, network_calls: list[tuple[int, ...]]
) -> None:
    pipeline = Pipeline("cpu")
    found = pipeline.run(*photos, settings.with_sift())
    assert network_calls == []
    assert found.verdict.name == "matched"
    grey = cv2.imread(str(photos[0]), cv2.IMREAD_GRAYSCALE)
    keypoints = cv2.SIFT.create(300).detect(grey)
    expected = np.array([keypoint.pt for keypoint in keypoints])
    distances = np.abs(expected[:, None] - found.views[0].features.keypoints.numpy()[None]).max(axis=-1).min(axis=-1)
    assert (distances < 0.1).mean() > 0.9  # the two read grey values in their own ways
    assert set(pipeline.run(*photos, settings.with_sift()).milliseconds) == set()


@pytest.fixture
def compact_matcher(
    random_matcher: Matcher, model: RIPE, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[None]:
    """In place of the matcher `compact`: one with random weights, for the features of the random model."""
    save_matcher(Matcher(random_matcher.network, weights_hash(model)), tmp_path / "matcher.safetensors")
    monkeypatch.setattr("ripe.filters.MIN_SCORE", 0.0)
    monkeypatch.setattr("ripe.matchers.shipped", lambda name: tmp_path / "matcher.safetensors")
    monkeypatch.setitem(SHA256, "compact", sha256_of(tmp_path / "matcher.safetensors"))
    matching._learned.cache_clear()
    yield
    matching._learned.cache_clear()


@pytest.mark.usefixtures("compact_matcher")
def test_every_method_matches_and_a_learned_one_keeps_its_probabilities(
    photos: list[Path], settings: DemoSettings, tmp_path: Path, random_matcher: Matcher
) -> None:
    pipeline = Pipeline("cpu")
    for method in METHODS:
        assert pipeline.run(*photos, changed(settings, method=method)).settings.how.method == method
    asked = changed(settings, method="lightglue")
    assert pipeline.run(*photos, asked.with_sift()).verdict.name == "matched"
    result = pipeline.run(*photos, asked)
    assert len(result.matches) > 0
    paths = outputs.write_files(result, outputs.pictures(result)[2], new_folder(tmp_path))
    with h5py.File(paths[3]) as matches:
        assert matches.attrs["matcher_weights"] == random_matcher.settings()["matcher_weights"]
        stored = matches["motorcycle_left.jpg/motorcycle_right.jpg/matching_scores0"][()]
    assert stored.max() == pytest.approx(float(result.matches.scores.max()), abs=1e-3)
    again = ["match", "--pairs", str(tmp_path / "pairs.txt"), "--features", str(paths[2]), "--matcher", "lightglue"]
    (tmp_path / "pairs.txt").write_text("motorcycle_left.jpg motorcycle_right.jpg\n")
    assert main([*again, "-o", str(tmp_path / "again.h5")]) == 0  # the file says whose features it holds


@pytest.mark.usefixtures("compact_matcher")
def test_a_learned_matcher_beside_other_features_is_refused_in_one_line(
    photos: list[Path], settings: DemoSettings, tmp_path: Path
) -> None:
    ripe.save_weights(build_compact(), tmp_path / "other.safetensors")
    asked = changed(settings, model=str(tmp_path / "other.safetensors"), method="lightglue")
    with pytest.raises(ValueError, match="trained for the features of the model compact") as refusal:
        Pipeline("cpu").run(*photos, asked)
    assert "\n" not in str(refusal.value)


def test_turned_photos_get_what_the_command_says_of_them(
    photos: list[Path], settings: DemoSettings, tmp_path: Path
) -> None:
    pair = [tmp_path / "upright.png", tmp_path / "turned.png"]
    with Image.open(photos[0]) as photo:
        small = photo.resize((368, 248))
        small.save(pair[0])
        small.transpose(Image.Transpose.ROTATE_90).save(pair[1])
    asked = changed(settings, max_keypoints=200)
    pipeline = Pipeline("cpu")
    result = pipeline.run(*pair, asked)
    document = result.document()
    command = ["match", *map(str, pair), "--model", settings.model, "--max-keypoints", "200"]
    main([*command, "--json", str(tmp_path / "command.json")])
    by_command = json.loads((tmp_path / "command.json").read_text())
    for key in ("keypoints0", "keypoints1", "matches", "inliers", "verdict", "quarter_turns"):
        assert document[key] == by_command[key], key
    assert result.quarter_turns == 1
    assert "the first photo turned by 90° counter-clockwise, seen at several scales" in outputs.banner(result)
    assert pipeline.run(*pair, asked).milliseconds == {}
    written = outputs.write_files(result, outputs.pictures(result)[2], new_folder(tmp_path))
    with h5py.File(written[2]) as features:
        assert features.attrs["scales"] == "1,0.5,0.25"


def test_made_views_turn_and_enlarge(photos: list[Path]) -> None:
    photo = np.asarray(Image.open(photos[0]).resize(examples.VIEW_SIZE))
    assert np.abs(examples.Made().of(photo).astype(int) - photo).max() <= 1
    assert np.abs(examples.Made(turn=180).of(photo).astype(int) - photo[::-1, ::-1]).max() <= 1
    middle = np.asarray(Image.fromarray(photo[120:360, 160:480]).resize(examples.VIEW_SIZE, Image.Resampling.BILINEAR))
    assert np.abs(examples.Made(zoom=2).of(photo).astype(int) - middle)[5:-5, 5:-5].mean() < 2
    assert examples.Made(exposure=0.5).of(photo).mean() == pytest.approx(photo.mean() / 2, abs=0.5)


def test_examples_are_photos_that_say_whose_they_are(tmp_path: Path) -> None:
    assert 6 <= len(examples.EXAMPLES) <= 8
    for example in examples.EXAMPLES:
        pair = examples.photos(example, tmp_path)
        assert all(max(read_upload(path).shape) <= 800 for path in pair)
        assert pair == examples.photos(example, tmp_path)
        assert re.search(r"CC BY \d|CC0|public domain|BSD", example.credit)


def test_overlays_show_the_second_photo_in_the_frame_of_the_first(tmp_path: Path, settings: DemoSettings) -> None:
    pairs = {example.title: examples.photos(example, tmp_path) for example in examples.EXAMPLES}
    pipeline = Pipeline("cpu")
    aligned = outputs.align(pipeline.run(*pairs["Upside down"], settings.with_sift()))
    assert aligned is not None
    assert aligned.ground.shape == aligned.warped.shape == (*aligned.valid.shape, 3) == (512, 512, 3)
    assert aligned.valid.mean() > 0.9
    assert np.abs(aligned.ground.astype(int) - aligned.warped)[aligned.valid].mean() < 8
    unrelated = pipeline.run(*pairs["Unrelated"], settings.with_sift())
    assert outputs.align(unrelated) is None
    assert 'class="verdict chance"' in outputs.banner(unrelated)
    assert "No better than chance" in outputs.banner(unrelated)


def test_weights_under_another_licence_are_fetched_only_where_it_is_agreed_to(
    photos: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import gradio as gr

    from ripe.demo.page import _Answer, _Shown

    monkeypatch.setenv("RIPE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("ripe.pretrained.RELEASE_URL", f"http://127.0.0.1:{free_port()}/weights.pth")
    answer = _Answer(Pipeline("cpu"), {"vgg_hyper": "vgg_hyper"}, tmp_path)
    asked = (_Shown((), {}), *map(str, photos), "vgg_hyper", "mutual", 200, "", "fundamental", 1.0)
    with pytest.raises(gr.Error, match="agree to the licence"):
        answer.match(*asked, False)
    assert answer.match_again(*asked, False) == [gr.skip()] * 3
    with pytest.raises(gr.Error, match=r"127\.0\.0\.1"):  # nobody answers there, but it was asked
        answer.match(*asked, True)


def test_a_refused_photo_leaves_the_pipeline_as_it_was(
    photos: list[Path], settings: DemoSettings, hostile: Path
) -> None:
    pipeline = Pipeline("cpu")
    for name in REFUSED:
        with pytest.raises(ValueError, match=name):
            pipeline.run(photos[0], hostile / name, settings)
    with pytest.raises(ValueError, match="inlier threshold is nan"):
        pipeline.run(*photos, changed(settings, inlier_threshold=float("nan")))
    with pytest.raises(ValueError, match="1 to 8192 can be had"):
        pipeline.run(*photos, changed(settings, max_keypoints=10**9))
    with pytest.raises(ValueError, match="geometry is 'none'"):
        pipeline.run(*photos, changed(settings, geometry="none"))
    assert len(pipeline.run(*photos, settings).matches) > 0


def test_requests_of_several_threads_do_not_mix(photos: list[Path], settings: DemoSettings) -> None:
    pipeline = Pipeline("cpu")
    counts: dict[int, int] = {}

    def ask(number: int) -> None:
        counts[number] = len(pipeline.run(*photos, changed(settings, max_keypoints=number)).views[0].features)

    threads = [threading.Thread(target=ask, args=(number,)) for number in (50, 100, 150)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert counts == {50: 50, 100: 100, 150: 150}


def count_pixels(picture: np.ndarray, colour: tuple[int, int, int]) -> int:
    return int((np.abs(picture.astype(int) - colour).max(axis=2) < 60).sum())


def test_pictures_figures_and_files(photos: list[Path], settings: DemoSettings, tmp_path: Path) -> None:
    result = Pipeline("cpu").run(*photos, settings)
    keypoints, everything, inliers = outputs.pictures(result)
    assert keypoints.shape == everything.shape == inliers.shape
    assert count_pixels(keypoints, UNVERIFIED) > count_pixels(inliers, UNVERIFIED) + 300
    assert count_pixels(everything, RED) > count_pixels(inliers, RED) + 300
    assert (inliers != everything).any()
    figures = dict(outputs.figures({"RIPE": result}))
    assert figures["Keypoints"] == "300 and 300"
    assert figures["Inliers"].startswith(f"{result.geometry.num_inliers} (")
    assert figures["Time to extract"] == f"{result.milliseconds['extract']:.0f} ms"

    paths = outputs.write_files(result, inliers, tmp_path)
    assert sorted(tmp_path.iterdir()) == sorted(paths)
    with Image.open(tmp_path / "matches.png") as picture:
        assert (np.asarray(picture) == inliers).all()
    document = json.loads((tmp_path / "matches.json").read_text())
    command = ["match", *map(str, photos), "--model", settings.model, "--max-keypoints", "300"]
    assert main([*command, "--json", str(tmp_path / "command.json")]) == 0
    by_command = json.loads((tmp_path / "command.json").read_text())
    for key in ("keypoints0", "keypoints1", "matches", "inliers", "model"):
        assert document[key] == by_command[key]
    with h5py.File(tmp_path / "features.h5") as features, h5py.File(tmp_path / "matches.h5") as matches:
        assert np.allclose(features["motorcycle_left.jpg/keypoints"][()], document["keypoints0"])
        matched = matches["motorcycle_left.jpg/motorcycle_right.jpg/matches0"][()]
        assert (matched >= 0).sum() == len(document["matches"])


def test_the_same_photo_twice_and_photos_without_keypoints(
    photos: list[Path], settings: DemoSettings, tmp_path: Path
) -> None:
    twice = Pipeline("cpu").run(photos[0], photos[0], settings)
    paths = outputs.write_files(twice, outputs.pictures(twice)[2], tmp_path)
    with h5py.File(paths[2]) as features:
        assert set(features) == {"0", "1"}
    none = Pipeline("cpu").run(*photos, changed(settings, threshold=1e9))
    assert ("Inliers", "0: no geometry fits") in outputs.figures({"RIPE": none})
    assert "0 of 0 matches" in outputs.banner(none)
    assert all(picture.shape[2] == 3 for picture in outputs.pictures(none))


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture(scope="module")
def server(random_weights: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """Address of a running `ripe demo` and the folder that holds its temporary files."""
    folder = tmp_path_factory.mktemp("server")
    command = [sys.executable, "-m", "ripe.cli", "demo", "--port", str(free_port()), "--model", str(random_weights)]
    environment = {"TMPDIR": str(folder), "PYTHONUNBUFFERED": "1", "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={**os.environ, **environment}) as process:
        try:
            assert process.stdout is not None
            yield process.stdout.readline().split()[1], folder
            assert process.poll() is None
        finally:
            process.send_signal(signal.SIGTERM)
    assert not list(folder.iterdir())


def test_a_real_server_refuses_queues_answers_and_cleans_up(
    server: tuple[str, Path], hostile: Path, photos: list[Path], random_weights: Path, tmp_path: Path
) -> None:
    import gradio_client
    import httpx

    address, folder = server
    assert address.startswith("http://127.0.0.1:")
    client = gradio_client.Client(address, verbose=False, download_files=False)
    left, right = (gradio_client.handle_file(photo) for photo in photos)
    chosen = (random_weights.name, "mutual", 200, "", "fundamental", 1.0)

    def ask(first: object, second: object, *rest: object) -> gradio_client.client.Job:
        return client.submit(first, second, *rest, api_name="/match")

    for name in REFUSED:
        error = str(ask(left, gradio_client.handle_file(hostile / name), *chosen).exception(timeout=60))
        assert REFUSED[name] in error
        assert name in error
        assert str(folder) not in error
    assert "Give two photos" in str(ask(left, None, *chosen).exception(timeout=60))
    assert "least score is 'high'" in str(ask(left, right, *chosen[:3], "high", *chosen[4:]).exception(timeout=60))
    assert ask(left, right, "/etc/passwd", *chosen[1:]).exception(timeout=60) is not None
    huge = {"files": ("huge.png", bytes(intake.MAX_FILE_BYTES + 1))}
    assert httpx.post(f"{address}gradio_api/upload", files=huge).status_code == 413

    jobs = [ask(left, right, *chosen) for _ in range(3)]
    banners, figures = zip(*(job.result(timeout=60) for job in jobs), strict=True)
    assert all("matches agree" in banner for banner in banners)
    assert all("200 and 200" in shown for shown in figures)
    assert sum("Time to extract | kept | kept" in shown for shown in figures) == 2
    assert not list(Path(ripe.__file__).parent.rglob("*.pyi"))  # Gradio writes some where it is let
    assert any(folder.rglob("*.jpg"))


TRAVERSALS = (
    "gradio_api/file=/etc/passwd",
    "gradio_api/file=..%2f..%2f..%2fetc/passwd",
    "gradio_api/file=/proc/self/environ",
    "gradio_api/file=http://127.0.0.1:1/",
    "gradio_api/proxy=http://127.0.0.1:1/",
    "assets/%2e%2e/%2e%2e/%2e%2e/etc/passwd",
    "static/..%2f..%2f..%2fetc/passwd",
    "monitoring",
)


def test_other_files_and_forged_data_are_refused_and_half_a_photo_is_deleted(
    server: tuple[str, Path], photos: list[Path], random_weights: Path
) -> None:
    import httpx

    address, folder = server
    with httpx.Client(base_url=address, timeout=60) as client:
        functions = {each["api_name"]: each["id"] for each in client.get("/config").json()["dependencies"]}
        for path in TRAVERSALS:
            assert client.get(path).is_client_error, path

        def ask(function: str, data: list, event: object = None) -> dict:
            body = {"fn_index": functions[function], "data": data, "event_data": event, "session_hash": "forged"}
            assert client.post("/gradio_api/queue/join", json=body).status_code == 200
            events = client.get("/gradio_api/queue/data", params={"session_hash": "forged"}).text
            return next(json.loads(line[6:]) for line in events.splitlines() if '"process_completed"' in line)

        for forged in ("/etc/passwd", str(photos[0]), "http://127.0.0.1:1/a.jpg", "\0"):
            photo = {"path": forged, "meta": {"_type": "gradio.FileData"}}
            answer = ask(
                "match", [None, photo, photo, random_weights.name, "mutual", 200, "", "fundamental", 1.0, True]
            )
            assert not answer["success"]
        for event in ({"index": -1}, {"index": 99}, {"index": "x"}, {"index": [0]}, []):
            assert not ask("example", [], event)["success"]
        # What a page sends as its state is passed over: nothing has been matched in this session.
        assert ask("files", [{"asked": [], "results": {"RIPE": str(photos[0])}}])["output"]["data"] == [None]

    url = httpx.URL(address)
    with socket.create_connection((url.host, url.port)) as connection:
        head = "POST /gradio_api/upload HTTP/1.1\r\nHost: demo\r\nContent-Length: 1000000\r\n"
        head += "Content-Type: multipart/form-data; boundary=x\r\n\r\n"
        head += '--x\r\nContent-Disposition: form-data; name="files"; filename="a.jpg"\r\n\r\n'
        connection.sendall(head.encode() + bytes(200_000))
        assert wait_for(lambda: any(folder.rglob("tmp*")))
    assert wait_for(lambda: not any(folder.rglob("tmp*")))


def wait_for(condition: Callable[[], bool]) -> bool:
    """Whether it comes true in time."""
    return any(condition() or time.sleep(0.05) for _ in range(600))


def test_a_taken_port_is_one_line(server: tuple[str, Path], random_weights: Path) -> None:
    port = server[0].rstrip("/").rsplit(":", 1)[1]
    command = [sys.executable, "-m", "ripe.cli", "demo", "--port", port, "--model", str(random_weights)]
    ended = subprocess.run(command, capture_output=True, text=True)
    assert ended.returncode == 1
    assert ended.stderr.startswith("ripe: error: ")
    assert port in ended.stderr
    assert ended.stderr.count("\n") == 1


def test_without_gradio_one_line_says_what_to_install() -> None:
    code = "import sys; sys.modules['gradio'] = None; from ripe.cli import main; sys.exit(main(['demo']))"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert ended.returncode == 1
    assert "pip install 'ripe-keypoints[demo]'" in ended.stderr
    assert ended.stderr.count("\n") == 1
