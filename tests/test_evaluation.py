import argparse
import json
import math
import shutil

import cv2
import numpy as np
import pytest
import skimage.data
import torch
from PIL import Image

from ripe.architectures import build
from ripe.cli import evaluate
from ripe.evaluation.annotations import PosePair, find_pairs_folders, read_pairs
from ripe.evaluation.baselines import baseline_extractor
from ripe.evaluation.extractors import model_extractor
from ripe.evaluation.pairs import Protocol, evaluate_pairs, extract_features, match_pairs, score_pairs
from ripe.features import Features
from ripe.matching import match, mutual_nearest_neighbours
from ripe.pretrained import save_weights

WARPS = {
    "shift": [[1, 0, 14], [0, 1, -9], [0, 0, 1]],
    "turn": [[0.94, -0.34, 90], [0.34, 0.94, -60], [0, 0, 1]],
    "tilt": [[0.8, 0.1, 20], [-0.05, 0.9, 30], [2e-4, -1e-4, 1]],
}
K = [[500.0, 0, 255.5], [0, 500, 255.5], [0, 0, 1]]


def move(homography, points):
    homogeneous = np.column_stack([points, np.ones(len(points))]) @ np.asarray(homography, dtype=float).T
    return homogeneous[:, :2] / homogeneous[:, 2:]


@pytest.fixture(scope="session")
def photo():
    return skimage.data.astronaut()


@pytest.fixture(scope="session")
def written_once(tmp_path_factory, photo):
    root = tmp_path_factory.mktemp("pairs")
    corners = [[100, 100], [400, 110], [390, 380], [120, 400], [250, 250]]
    (root / "homography").mkdir()
    (root / "pose").mkdir()
    pairs = []
    for name, warp in WARPS.items():
        Image.fromarray(photo).save(root / "homography" / f"{name}_0.png")
        warped = cv2.warpPerspective(photo, np.asarray(warp, dtype=float), (512, 512), flags=cv2.INTER_LINEAR)
        Image.fromarray(warped).save(root / "homography" / f"{name}_1.png")
        images = {"image0": f"{name}_0.png", "image1": f"{name}_1.png"}
        pairs.append({"name": name, **images, "points0": corners, "points1": move(warp, corners).tolist()})
    write_pairs(root / "homography", pairs, "homography")
    write_pairs(root / "pose", [plane_seen_twice(root / "pose", photo)], "pose")
    return root


@pytest.fixture
def folder(tmp_path, written_once):
    """A data set in the published layout: `homography` with three warps of a photo, and `pose` with one known pose."""
    return shutil.copytree(written_once, tmp_path, dirs_exist_ok=True)


def plane_seen_twice(folder, photo):
    """A pair of poses: the photo as a slanted plane, seen by a camera before and after it moved and turned."""
    intrinsics, rotation = np.asarray(K), cv2.Rodrigues(np.array([0.02, 0.12, 0.01]))[0]
    translation, normal = np.array([-0.35, 0.05, 0.1]), np.array([0.4, 0.1, 1.0])
    homography = intrinsics @ (rotation + np.outer(translation, normal)) @ np.linalg.inv(intrinsics)
    Image.fromarray(photo).save(folder / "a.png")
    Image.fromarray(cv2.warpPerspective(photo, homography, (512, 512))).save(folder / "b.png")
    transform = np.eye(4)
    transform[:3, :3], transform[:3, 3] = rotation, 7 * translation
    cameras = {"K0": K, "K1": K, "size0": [512, 512], "size1": [512, 512], "T_0to1": transform.tolist()}
    return {"name": "plane", "image0": "a.png", "image1": "b.png", **cameras}


def write_pairs(folder, pairs, model):
    (folder / "pairs.json").write_text(json.dumps({"model": model, "pairs": pairs}))


def edit_pairs(folder, change):
    content = json.loads((folder / "pairs.json").read_text())
    change(content)
    (folder / "pairs.json").write_text(json.dumps(content))


def command(*words):
    parser = argparse.ArgumentParser()
    evaluate.add_parser(parser.add_subparsers())
    args = parser.parse_args(["eval", "pairs", *map(str, words)])
    return args.run(args)


def test_sift_is_almost_exact_on_known_homographies(folder):
    result = evaluate_pairs(baseline_extractor("sift"), folder / "homography")
    assert result.model == "homography"
    assert set(result.errors) == set(WARPS)
    assert max(max(errors) for errors in result.errors.values()) < 0.3
    assert result.auc[0] > 90
    assert result.inlier_ratio > 0.7
    assert result.mean_matches > 200
    assert 0 < result.mean_keypoints <= 2048
    assert result.milliseconds > 0
    assert "PoseLib homography 2 px" in result.protocol


def test_orb_finds_known_homographies(folder):
    assert evaluate_pairs(baseline_extractor("orb"), folder / "homography").auc[-1] > 70


def test_known_pose_is_found(folder):
    result = evaluate_pairs(baseline_extractor("sift"), folder / "pose")
    assert result.limits == (5, 10, 20)
    # A plane leaves two poses possible, so only the share of right matches and one of the seeds are certain.
    assert result.inlier_ratio > 0.7
    assert len(result.errors["plane"]) == 3


def test_true_points_give_a_true_pose(folder):
    pair = read_pairs(folder / "pose").pairs[0]
    assert isinstance(pair, PosePair)
    generator = torch.Generator().manual_seed(0)
    points = torch.rand(300, 3, generator=generator, dtype=torch.float64) * 4 + torch.tensor([-2.0, -2, 12])
    seen = [points, points @ pair.rotation.T + pair.translation]
    positions = [(view @ pair.intrinsics0.T)[:, :2] / view[:, 2:] for view in seen]
    codes = torch.eye(300)
    features = {
        path: Features(place.float(), torch.ones(300), codes, (512, 512))
        for path, place in zip((pair.image0, pair.image1), positions, strict=True)
    }
    score = score_pairs(match_pairs([pair], features))
    assert max(score.errors["plane"]) < 0.1
    assert score.inlier_ratio == 1
    assert score.auc[0] > 99


def test_scoring_again_needs_no_extraction(folder):
    annotated = read_pairs(folder / "homography")
    calls = []
    extract = baseline_extractor("sift", max_keypoints=300)
    extraction = extract_features(lambda path: calls.append(path) or extract(path), annotated.images)
    assert len(calls) == 6
    matched = match_pairs(annotated.pairs, extraction.features)
    loose, strict = score_pairs(matched), score_pairs(matched, Protocol(homography_threshold=0.5, repeats=1))
    assert loose.errors != strict.errors
    assert score_pairs(matched) == loose
    assert len(calls) == 6


def test_an_extractor_without_keypoints_fails_every_pair(folder):
    def blind(path):
        return Features(torch.zeros(0, 2), torch.zeros(0), torch.zeros(0, 8), (512, 512))

    homography, pose = (evaluate_pairs(blind, folder / kind) for kind in ("homography", "pose"))
    assert homography.auc == pose.auc == (0, 0, 0)
    assert homography.errors["shift"] == (math.inf,) * 3
    assert pose.errors["plane"] == (180,) * 3
    assert homography.inlier_ratio == homography.mean_matches == 0


def test_unreadable_photo_costs_its_pairs_only(folder):
    broken = folder / "homography" / "turn_1.png"
    broken.write_bytes(b"no photo")
    result = evaluate_pairs(baseline_extractor("sift", max_keypoints=500), folder / "homography")
    assert set(result.errors) == {"shift", "tilt"}
    assert list(result.unreadable) == [broken]


def test_nothing_readable_is_an_error(folder):
    for path in (folder / "homography").glob("*.png"):
        path.write_bytes(b"no photo")
    with pytest.raises(ValueError, match=r"none of 6 photos .*_0\.png"):
        evaluate_pairs(baseline_extractor("sift"), folder / "homography")


def test_camera_of_another_size_is_an_error(folder):
    edit_pairs(folder / "pose", lambda content: content["pairs"][0].update(size1=[640, 480]))
    with pytest.raises(ValueError, match=r"b\.png: 512×512 pixels, but its annotation is for 640×480"):
        evaluate_pairs(baseline_extractor("orb"), folder / "pose")


BAD_PAIRS = {
    "`model` is 'essential'": lambda content: content.update(model="essential"),
    "list `pairs`": lambda content: content.pop("pairs"),
    "lists no pairs": lambda content: content.update(pairs=[]),
    "pair 0: `image1` is missing": lambda content: content["pairs"][0].pop("image1"),
    "pair 1: `points0` must be K×2 numbers": lambda content: content["pairs"][1].update(points0=[[1, "x"]]),
    "pair 1: `points1` holds NaN": lambda content: content["pairs"][1].update(points1=[[math.nan, 1]] * 5),
    "pair 2: 4 and 5 points": lambda content: content["pairs"][2]["points0"].pop(),
    "pair 2: another pair is named 'shift'": lambda content: content["pairs"][2].update(name="shift"),
    "pair 0: its points do not determine": lambda content: content["pairs"][0].update(points0=[[1, 1]] * 5),
    "pair 0: must be an object": lambda content: content.update(pairs=["shift"]),
}


@pytest.mark.parametrize("message", BAD_PAIRS)
def test_bad_annotations_are_named(folder, message):
    edit_pairs(folder / "homography", BAD_PAIRS[message])
    with pytest.raises(ValueError, match=f"pairs.json: .*{message}".replace(".", r"\.").replace(r"\.*", ".*")):
        read_pairs(folder / "homography")


@pytest.mark.parametrize(
    ("change", "message"),
    [({"K0": [[0] * 3] * 3}, "camera matrices"), ({"T_0to1": [[0] * 4] * 4}, "no translation"), ({"K1": 3}, "`K1`")],
)
def test_bad_cameras_are_named(folder, change, message):
    edit_pairs(folder / "pose", lambda content: content["pairs"][0].update(change))
    with pytest.raises(ValueError, match=f"pair 0: .*{message}"):
        read_pairs(folder / "pose")


def test_missing_things_are_named(folder, tmp_path_factory):
    empty = tmp_path_factory.mktemp("empty")
    with pytest.raises(FileNotFoundError, match="nowhere: no such folder"):
        find_pairs_folders(folder / "nowhere")
    with pytest.raises(FileNotFoundError, match=f"{empty.name}: holds no pairs.json"):
        find_pairs_folders(empty)
    with pytest.raises(FileNotFoundError, match=r"pairs\.json: no such file"):
        read_pairs(empty)
    (folder / "homography" / "turn_0.png").unlink()
    with pytest.raises(FileNotFoundError, match=r"turn_0\.png: no such file"):
        read_pairs(folder / "homography")
    (folder / "pose" / "pairs.json").write_text("{")
    with pytest.raises(ValueError, match=r"pairs\.json: not valid JSON"):
        read_pairs(folder / "pose")


def test_orb_descriptors_order_by_hamming_distance(folder):
    path = folder / "homography"
    features = [baseline_extractor("orb", max_keypoints=400)(path / name) for name in ("turn_0.png", "turn_1.png")]
    binary = [np.packbits(single.descriptors.numpy() > 0, axis=1) for single in features]
    hamming = np.unpackbits(binary[0][:, None] ^ binary[1][None], axis=-1).sum(-1)
    similarity = (features[0].descriptors @ features[1].descriptors.T).numpy()
    np.testing.assert_array_equal(similarity, 1 - hamming / 128)
    opencv = cv2.BFMatcher(cv2.NORM_HAMMING, crossCheck=True).match(*binary)
    ours, _ = mutual_nearest_neighbours(features[0].descriptors, features[1].descriptors)
    shared = {(pair.queryIdx, pair.trainIdx) for pair in opencv} & {(i, j) for i, j in ours.tolist()}
    # Only ties may be settled otherwise.
    assert len(shared) >= 0.95 * max(len(opencv), len(ours))


@pytest.mark.parametrize("name", ["sift", "orb"])
def test_baselines_give_valid_features(folder, name):
    features = baseline_extractor(name, max_keypoints=200)(folder / "homography" / "shift_0.png")
    assert 0 < len(features) <= 200
    assert features.image_size == (512, 512)
    torch.testing.assert_close(features.descriptors.norm(dim=1), torch.ones(len(features)))
    assert (features.scores.diff() <= 0).all()


@pytest.mark.parametrize("name", ["sift", "orb"])
def test_baselines_take_photos_without_texture(tmp_path, name):
    Image.new("RGB", (64, 48)).save(tmp_path / "black.png")
    features = baseline_extractor(name)(tmp_path / "black.png")
    assert len(features) == 0
    assert len(match(features, features)) == 0


def test_unknown_baseline():
    with pytest.raises(ValueError, match="no baseline 'surf'; there are sift, orb"):
        baseline_extractor("surf")


def compact():
    torch.manual_seed(0)
    return build("compact").eval()


def test_large_photos_are_shrunk_and_small_ones_are_not_enlarged(tmp_path, photo):
    path = tmp_path / "photo.png"
    Image.fromarray(photo[:300]).save(path)
    model = compact()
    extract_small, extract_large = (model_extractor(model, max_side=side, max_keypoints=50) for side in (256, 1024))
    assert torch.equal(extract_large(path).keypoints, model.extract(path, max_keypoints=50)[0].keypoints)
    assert torch.equal(extract_small(path).keypoints, model.extract(path, resize=256, max_keypoints=50)[0].keypoints)
    shrunk = baseline_extractor("sift", max_side=256)(path)
    full = baseline_extractor("sift", max_side=1024)(path)
    assert shrunk.image_size == full.image_size == (512, 300)
    assert len(shrunk) < len(full)
    # Positions are given in the stored photo, so most strong points of the small one are among those of the large one.
    nearest = torch.cdist(shrunk.keypoints[:20], full.keypoints).min(dim=1).values
    assert nearest.median() < 1.0
    assert shrunk.keypoints[:, 0].max() > 256


def test_command_prints_tables_and_writes_json(folder, capsys):
    weights, out = folder / "weights.safetensors", folder / "figures.json"
    save_weights(compact(), weights)
    words = [folder, "--model", weights, "--baseline", "sift", "orb", "--max-keypoints", 300, "--repeats", 2]
    assert command(*words, "--resize", 256, "--device", "cpu", "--json", out) == 0
    printed = capsys.readouterr().out
    assert "### homography: 3 pairs" in printed
    assert "### pose: 1 pairs" in printed
    assert "Long side at most 256 px, at most 300 keypoints, mutual nearest neighbours, PoseLib homography" in printed
    assert "on the CPU (threads: PyTorch" in printed
    assert printed.count("| sift |") == printed.count("| orb |") == printed.count(f"| {weights} |") == 2
    tables = [line for line in printed.splitlines() if line.startswith("|")]
    assert {line.count("|") for line in tables} == {9}
    records = json.loads(out.read_text())
    assert len(records) == 6
    sift = next(record for record in records if record["extractor"] == "sift" and record["model"] == "homography")
    assert len(sift["errors"]["shift"]) == 2
    assert sift["auc"][2] > 80
    assert sift["limits"] == [3, 5, 10]


def test_command_names_unreadable_photos_at_the_end(folder, capsys):
    broken = folder / "homography" / "turn_1.png"
    broken.write_bytes(b"no photo")
    assert command(folder / "homography", "--baseline", "orb") == 0
    streams = capsys.readouterr()
    assert "2 pairs" in streams.out
    assert streams.err.splitlines()[-1].startswith(f"left out, with its pairs: {broken}")


def test_failures_are_null_in_json(folder):
    for name in ("shift_0.png", "shift_1.png"):
        Image.new("RGB", (64, 64)).save(folder / "homography" / name)
    assert command(folder / "homography", "--baseline", "sift", "--json", folder / "figures.json") == 0
    assert json.loads((folder / "figures.json").read_text())[0]["errors"]["shift"] == [None, None, None]


def test_command_refuses_what_it_cannot_do(folder, capsys):
    with pytest.raises(FileNotFoundError, match="nowhere"):
        command(folder / "nowhere", "--baseline", "sift")
    with pytest.raises(FileNotFoundError, match="there is no folder"):
        command(folder, "--baseline", "sift", "--json", folder / "missing" / "figures.json")
    with pytest.raises(SystemExit):
        command(folder, "--baseline", "sift", "--repeats", "0")
    assert "must be 1 or more" in capsys.readouterr().err
