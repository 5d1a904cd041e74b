"""From photos to figures: extractors, the two steps of an evaluation, and known answers."""

import math
import subprocess
import sys
import time
from dataclasses import replace

import cv2
import numpy as np
import pytest
import skimage.data
import torch
from made_sets import SIZE0, SIZE1, write_annotated, write_hpatches, write_imw, write_megadepth
from PIL import Image

from ripe.evaluation import predictions
from ripe.evaluation.baselines import BASELINES, LEARNED, baseline
from ripe.evaluation.benchmarks import BENCHMARKS
from ripe.evaluation.benchmarks.annotated import PROTOCOLS
from ripe.evaluation.pair_sets import MatchedPair, PairSet, PosePair
from ripe.evaluation.predictions import Candidate
from ripe.evaluation.scoring import score_pairs
from ripe.extractors import describer, shrinking
from ripe.features import Features
from ripe.images import as_rgb, read_image
from ripe.matching import match, mutual_nearest_neighbours
from ripe.pretrained import build
from ripe.resizing import Resizing


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """All data sets. Do not change them."""
    root = tmp_path_factory.mktemp("sets")
    write_annotated(root / "annotated")
    write_hpatches(root)
    write_megadepth(root, packaged=True)
    write_imw(root)
    return root


PLACES = {
    "pairs": "annotated",
    "hpatches": "hpatches-sequences-release",
    "megadepth1500": "megadepth1500",
    "imw2020": "disk-data/imw2020-val",
}


def sets(root, name):
    benchmark = BENCHMARKS[name]
    return [(pairs, benchmark.protocols[pairs.kind]) for pairs in benchmark.read(root / PLACES[name])]


def candidate(describe, **settings):
    return Candidate("test", "test", {"extractor": "test", **settings}, describe, "this machine")


def evaluate(pairs, protocol, describe, folder):
    rival = candidate(describe)
    unreadable = predictions.extract_images(rival, pairs, protocol, folder)
    predictions.match_images(rival, pairs, protocol, folder)
    matched = list(predictions.matched_pairs(pairs.pairs, predictions.read_predictions(pairs, folder), protocol))
    return score_pairs(matched, protocol), unreadable


@pytest.mark.parametrize("name", PLACES)
def test_sift_recovers_known_homographies_and_poses(root, tmp_path, name):
    for number, (pairs, protocol) in enumerate(sets(root, name)):
        (tmp_path / str(number)).mkdir()
        describe = baseline("sift", protocol.max_keypoints)
        score, unreadable = evaluate(pairs, protocol, describe, tmp_path / str(number))
        assert unreadable == {}
        assert set(score.pairs) == {pair.name for pair in pairs.pairs}
        largest = max(max(pair.errors) for pair in score.pairs.values())
        assert largest < (1 if pairs.kind == "homography" else 3)
        assert score.precision > 0.7
        assert all(len(pair.errors) == 3 for pair in score.pairs.values())
        assert score.auc[-1] > 85
        assert list(score.auc) == sorted(score.auc)


def exact_pose_pair():
    """Random points in front of two cameras, as keypoints that match one to one."""
    generator = torch.Generator().manual_seed(0)
    points = torch.rand(300, 3, generator=generator, dtype=torch.float64) * 4 + torch.tensor([-2.0, -2, 12])
    turned = torch.linalg.matrix_exp(torch.tensor([[0.0, 0.1, 0], [-0.1, 0, 0.05], [0, -0.05, 0]]).double())
    shift = torch.tensor([1.0, 0.2, -0.1]).double()
    k = torch.tensor([[500.0, 0, 255.5], [0, 500, 255.5], [0, 0, 1]], dtype=torch.float64)
    pair = PosePair("exact", "a", "b", k, k, turned, 5 * shift)
    seen = (view @ k.T for view in (points, points @ turned.T + shift))
    first, second = ((view[:, :2] / view[:, 2:]).float() for view in seen)
    return MatchedPair(pair, first, second, torch.arange(300)[:, None].repeat(1, 2), ((512, 512), (512, 512)))


def test_true_points_give_a_true_pose():
    score = score_pairs([exact_pose_pair()], PROTOCOLS["pose"])
    assert max(score.pairs["exact"].errors) < 0.1
    assert score.pairs["exact"].correct == score.pairs["exact"].matches == 300
    assert score.auc[0] > 99


def test_a_pose_does_not_depend_on_the_photo_size():
    whole = exact_pose_pair()
    halved = whole.resized(((256, 200), (1024, 512)))
    assert max(score_pairs([halved], PROTOCOLS["pose"]).pairs["exact"].errors) < 0.1
    assert halved.points0[:, 0].max() < 256


def test_scoring_again_gives_the_same_and_seeds_differ(root, tmp_path):
    pairs, protocol = sets(root, "pairs")[0]
    first, _ = evaluate(pairs, protocol, baseline("sift", 300), tmp_path)

    def never(image):
        raise AssertionError("extracted again")

    again, _ = evaluate(pairs, protocol, never, tmp_path)
    assert again == first
    assert len({error for pair in first.pairs.values() for error in pair.errors}) > len(first.pairs)


def test_an_extractor_without_keypoints_fails_every_pair(root, tmp_path):
    def blind(image):
        return Features(torch.zeros(0, 2), torch.zeros(0), torch.zeros(0, 8), (image.shape[2], image.shape[1]))

    for number, ((pairs, protocol), failure) in enumerate(zip(sets(root, "pairs"), (math.inf, 180), strict=True)):
        (tmp_path / str(number)).mkdir()
        score, _ = evaluate(pairs, protocol, blind, tmp_path / str(number))
        assert score.auc == (0, 0, 0)
        assert {error for pair in score.pairs.values() for error in pair.errors} == {failure}
        assert score.precision == score.mean_matches == 0


def test_an_unreadable_photo_costs_its_pairs_only(tmp_path):
    (tmp_path / "out").mkdir()
    write_annotated(tmp_path / "annotated")
    pairs, protocol = sets(tmp_path, "pairs")[0]
    pairs.path("turn_1.png").write_bytes(b"no photo")
    score, unreadable = evaluate(pairs, protocol, baseline("orb", 500), tmp_path / "out")
    assert set(score.pairs) == {"shift", "tilt"}
    assert list(unreadable) == ["turn_1.png"]


def test_a_full_disk_is_no_unreadable_photo(tmp_path):
    """A limit on the size of files, which acts as a full disk does, ends the evaluation after some photos."""
    write_annotated(tmp_path / "annotated")
    folder, output = tmp_path / "annotated" / "homography", tmp_path / "out"
    words = [
        "eval",
        "pairs",
        str(folder),
        "--model",
        "none",
        "--baseline",
        "orb",
        "--max-keypoints",
        "50",
        "-o",
        str(output),
    ]
    Image.new("RGB", SIZE0).save(folder / "shift_0.png")  # without keypoints: its part is small
    code = (
        "import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (20000, 20000))\nfrom ripe.cli import main\n"
    )
    command = [sys.executable, "-c", f"{code}sys.exit(main({words!r}))"]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 1
    assert result.stderr.splitlines()[-1].startswith("ripe: error: [Errno 27] File too large")
    assert "left out" not in result.stderr
    assert not (output / "results.json").exists()


def test_no_photo_is_read_while_the_extractor_is_timed(tmp_path, monkeypatch):
    write_annotated(tmp_path / "annotated")
    pairs, protocol = sets(tmp_path, "pairs")[0]
    read, begun = [], []

    def counted(path, **limits):
        read.append(path)
        return read_image(path, **limits)

    def describe(image):
        time.sleep(0.05)  # in which a reader would go on
        begun.append(len(read))
        return orb(image)

    orb = baseline("orb", 50)
    monkeypatch.setattr("ripe.images.read_image", counted)
    evaluate(pairs, protocol, describe, tmp_path)
    assert begun == list(range(1, len(pairs.images) + 1))


def test_a_photo_that_has_changed_is_scored_anew(tmp_path):
    """Another photo of the same size in bytes, by which sets are told apart, and then none."""
    write_annotated(tmp_path / "annotated")
    pairs, protocol = sets(tmp_path, "pairs")[0]
    first, _ = evaluate(pairs, protocol, baseline("orb", 500), tmp_path)
    photo = pairs.path("turn_1.png")
    content = photo.read_bytes()
    Image.new("RGB", SIZE0).save(photo)
    photo.write_bytes(photo.read_bytes().ljust(len(content), b"\0"))
    second, _ = evaluate(pairs, protocol, baseline("orb", 500), tmp_path)
    assert first.pairs["turn"].matches > second.pairs["turn"].matches == 0
    assert first.pairs["tilt"] == second.pairs["tilt"]
    photo.write_bytes(b"no photo".ljust(len(content)))
    third, unreadable = evaluate(pairs, protocol, baseline("orb", 500), tmp_path)
    assert list(unreadable) == ["turn_1.png"]
    assert set(third.pairs) == {"shift", "tilt"}


def test_nothing_readable_is_an_error(tmp_path):
    write_annotated(tmp_path / "annotated")
    pairs, protocol = sets(tmp_path, "pairs")[0]
    for name in pairs.images:
        pairs.path(name).write_bytes(b"no photo")
    with pytest.raises(ValueError, match=r"none of 6 photos could be read; the first, .*shift_0\.png: not an image"):
        predictions.extract_images(candidate(baseline("orb", 9)), pairs, protocol, tmp_path)


def test_a_camera_of_another_size_is_an_error(tmp_path):
    write_annotated(tmp_path / "annotated")
    pairs, protocol = sets(tmp_path, "pairs")[1]
    Image.new("RGB", SIZE1[::-1]).save(pairs.path("b.png"))
    with pytest.raises(ValueError, match=r"b\.png: 480×640 pixels, but its annotation is for 640×480"):
        evaluate(pairs, protocol, baseline("orb", 100), tmp_path)


def test_other_settings_are_not_mixed_in(root, tmp_path):
    pairs, protocol = sets(root, "pairs")[1]
    predictions.extract_images(candidate(baseline("orb", 100), threshold=0.5), pairs, protocol, tmp_path)
    with pytest.raises(ValueError, match=r"was begun with other settings \(--threshold 0\.5 there, 0\.7 now\)"):
        predictions.extract_images(candidate(baseline("orb", 100), threshold=0.7), pairs, protocol, tmp_path)
    Image.new("RGB", (64, 64)).save(tmp_path / "a.png")
    other = PairSet("other", tmp_path, "pose", [PosePair("p", "a.png", "a.png", *[torch.eye(3)] * 3, torch.ones(3))])
    with pytest.raises(ValueError, match=r"photos .* there, .* now"):
        predictions.extract_images(candidate(baseline("orb", 100), threshold=0.5), other, protocol, tmp_path)


def test_a_pair_listed_both_ways_is_scored_both_ways(root, tmp_path):
    pairs, protocol = sets(root, "pairs")[1]
    wall = pairs.pairs[0]
    back = PosePair(
        "back",
        wall.image1,
        wall.image0,
        wall.intrinsics1,
        wall.intrinsics0,
        wall.rotation.T,
        -wall.rotation.T @ wall.translation,
    )
    both = PairSet(pairs.name, pairs.folder, "pose", [wall, back])
    score, _ = evaluate(both, protocol, baseline("sift", 1000), tmp_path)
    assert max(score.pairs["back"].errors) < 3
    assert score.pairs["back"].correct == score.pairs["wall"].correct


def centroid(image):
    """The centre of an image's brightness, as its only keypoint."""
    weights = image[0] / image[0].sum()
    y = (weights.sum(dim=1) * torch.arange(image.shape[1])).sum()
    x = (weights.sum(dim=0) * torch.arange(image.shape[2])).sum()
    return Features(torch.stack([x, y])[None], torch.ones(1), torch.ones(1, 1), (image.shape[2], image.shape[1]))


def test_stored_keypoints_are_in_pixels_of_the_stored_photo(tmp_path):
    """Shrunk to half, extracted, stored and read: a dot is where it was, in the pixels that the protocol counts in."""
    photo = np.zeros((200, 300, 3), dtype=np.uint8)
    cv2.circle(photo, (211, 61), 9, (255, 255, 255), -1)
    Image.fromarray(photo).save(tmp_path / "dot.png")
    pair = PosePair("p", "dot.png", "dot.png", *[torch.eye(3, dtype=torch.float64)] * 3, torch.ones(3).double())
    pairs = PairSet("dot", tmp_path, "pose", [pair])
    protocol = replace(PROTOCOLS["pose"], resizing=Resizing("long", 150, enlarge=False), in_resized_pixels=True)
    predictions.extract_images(candidate(centroid), pairs, protocol, tmp_path)
    predictions.match_images(candidate(centroid), pairs, protocol, tmp_path)
    stored = predictions.read_predictions(pairs, tmp_path)
    assert stored.images["dot.png"].size == (300, 200)
    assert stored.images["dot.png"].milliseconds > 0
    torch.testing.assert_close(stored.images["dot.png"].keypoints, torch.tensor([[211.0, 61]]), atol=0.01, rtol=0)
    [seen] = predictions.matched_pairs(pairs.pairs, stored, protocol)
    assert seen.sizes == ((150, 100), (150, 100))
    torch.testing.assert_close(seen.points1, torch.tensor([[105.25, 30.25]]), atol=0.01, rtol=0)
    [seen] = predictions.matched_pairs(pairs.pairs, stored, replace(protocol, in_resized_pixels=False))
    torch.testing.assert_close(seen.points1, torch.tensor([[211.0, 61]]), atol=0.01, rtol=0)


def test_orb_descriptors_order_by_hamming_distance(root):
    path = root / "annotated" / "homography"
    features = [baseline("orb", 400)(as_rgb(path / name)) for name in ("turn_0.png", "turn_1.png")]
    binary = [np.packbits(single.descriptors.numpy() > 0, axis=1) for single in features]
    hamming = np.unpackbits(binary[0][:, None] ^ binary[1][None], axis=-1).sum(-1)
    similarity = (features[0].descriptors @ features[1].descriptors.T).numpy()
    np.testing.assert_array_equal(similarity, 1 - hamming / 128)
    opencv = cv2.BFMatcher(cv2.NORM_HAMMING, crossCheck=True).match(*binary)
    ours, _ = mutual_nearest_neighbours(features[0].descriptors, features[1].descriptors)
    shared = {(pair.queryIdx, pair.trainIdx) for pair in opencv} & {(i, j) for i, j in ours.tolist()}
    # Only ties may be settled otherwise.
    assert len(shared) >= 0.95 * max(len(opencv), len(ours))


@pytest.mark.parametrize("name", BASELINES)
def test_baselines_give_valid_features(root, name):
    features = baseline(name, 200)(as_rgb(root / "annotated" / "homography" / "shift_0.png"))
    assert 0 < len(features) <= 200
    assert features.image_size == (512, 512)
    torch.testing.assert_close(features.descriptors.norm(dim=1), torch.ones(len(features)))
    assert (features.scores.diff() <= 0).all()


@pytest.mark.parametrize("name", BASELINES)
def test_baselines_take_photos_without_texture(tmp_path, name):
    Image.new("RGB", (64, 48)).save(tmp_path / "black.png")
    features = baseline(name, 2048)(as_rgb(tmp_path / "black.png"))
    assert len(features) == 0
    assert len(match(features, features)) == 0


@pytest.mark.parametrize("name", LEARNED)
def test_networks_of_kornia_run_with_a_local_file(tmp_path, name):
    """With random weights where trained ones belong."""
    kornia = pytest.importorskip("kornia.feature")
    torch.manual_seed(0)
    path = tmp_path / LEARNED[name][1]
    state = {
        "disk": lambda: {"extractor": kornia.DISK().state_dict()},
        "aliked": lambda: kornia.ALIKED("aliked-n16").state_dict(),
        "xfeat": lambda: kornia.XFeat().net.state_dict(),
    }[name]()
    if name == "xfeat":  # its default threshold lies above what such weights give
        state["keypoint_head.3.weight"] *= 100
    torch.save(state, path)
    image = as_rgb(skimage.data.astronaut()[:120, 100:260])
    features = baseline(f"{name}={path}", 50)(image)
    assert 0 < len(features) <= 50
    assert features.image_size == (160, 120)
    assert features.keypoints.max() < 160
    assert (features.scores.diff() <= 0).all()
    torch.testing.assert_close(features.descriptors.norm(dim=1), torch.ones(len(features)))
    torch.save({"extractor": {"a": torch.zeros(1)}}, path)
    with pytest.raises(ValueError, match="not weights of"):
        baseline(f"{name}={path}", 50)
    path.write_bytes(b"damaged")
    with pytest.raises(ValueError, match="not a weights file"):
        baseline(f"{name}={path}", 50)


def test_weights_are_never_downloaded(monkeypatch, tmp_path):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    with pytest.raises(
        FileNotFoundError, match=r"depth-save\.pth: no such file; give the weights of disk as disk=FILE"
    ):
        baseline("disk", 50)


def test_unknown_baseline():
    with pytest.raises(ValueError, match="no baseline 'surf'; there are sift, orb, disk, aliked, xfeat"):
        baseline("surf", 2048)


def test_large_photos_are_shrunk_and_small_ones_are_not_enlarged(tmp_path):
    path = tmp_path / "photo.png"
    Image.fromarray(skimage.data.astronaut()[: SIZE0[1]]).save(path)
    torch.manual_seed(0)
    model = build("compact").eval()

    def extract(describe, max_side):
        [(_, extraction)] = shrinking(describe, max_side)([path], [None], pytest.fail)
        assert extraction.uncertainty == max(SIZE0) / min(max_side, max(SIZE0))
        return extraction.features

    describe = describer(model, max_keypoints=50)
    assert torch.equal(extract(describe, 1024).keypoints, model.extract(path, max_keypoints=50)[0].keypoints)
    assert torch.equal(extract(describe, 256).keypoints, model.extract(path, resize=256, max_keypoints=50)[0].keypoints)
    shrunk, full = (extract(baseline("sift", 2048), side) for side in (256, 1024))
    assert shrunk.image_size == full.image_size == SIZE0
    assert len(shrunk) < len(full)
    # Positions are given in the stored photo, so most strong points of the small one are among those of the large one.
    nearest = torch.cdist(shrunk.keypoints[:20], full.keypoints).min(dim=1).values
    assert nearest.median() < 1.0
    assert shrunk.keypoints[:, 0].max() > 256
