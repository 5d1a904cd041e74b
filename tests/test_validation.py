"""Validation while training: on annotated pairs, on photos held back without labels, and the report at a run's end."""

import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import skimage.data
import torch
from made_sets import two_views, write_annotated, write_imw
from PIL import Image
from torch import Tensor, nn

import ripe
from ripe.data.batch import PairBatch
from ripe.data.pairs import split_own
from ripe.evaluation import predictions
from ripe.evaluation.baselines import baseline
from ripe.evaluation.measures import (
    EpipolarAgreement,
    KnownGeometry,
    Outcome,
    Rival,
    baseline_rival,
    model_rival,
    predict,
)
from ripe.evaluation.metrics import area_under_recall
from ripe.evaluation.pair_sets import HomographyPair
from ripe.evaluation.predictions import Candidate
from ripe.features import Features
from ripe.geometry.homography import apply_homography
from ripe.images import read_image
from ripe.model import RIPE
from ripe.networks.dense import DescriptorHead, Frames
from ripe.networks.windows import Size
from ripe.objective.loss import compute_loss
from ripe.objective.sampling import Policy
from ripe.objective.tally import Tally
from ripe.pretrained import build
from ripe.recipe import schedule
from ripe.recipe.config import DataConfig, ObjectiveConfig, TrainConfig, WarpConfig
from ripe.training.comparison import Difference, difference, write_report
from ripe.training.held_back import VIEW_SIZE, choose_real_pairs, write_view_pairs
from ripe.training.validation import Validation, annotated_validation, find_validation, held_back_validation
from ripe.training.watch import Watch


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two photos of a folded wall, from two places, and one of coffee."""
    root = tmp_path_factory.mktemp("held_back")
    paths = [root / "wall_0.png", root / "wall_1.png", root / "coffee.png"]
    for path, pixels in zip(paths, (*two_views(), skimage.data.coffee()), strict=True):
        Image.fromarray(pixels).save(path)
    return paths


@pytest.fixture(scope="module")
def validation(photos: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Validation:
    """Without labels, on these photos."""
    folder = tmp_path_factory.mktemp("validation") / "views"
    return held_back_validation([photos[:2]], photos, folder, warp=WarpConfig(), seed=3, view_pairs=6)


def made_rival(describe) -> Rival:  # type: ignore[no-untyped-def]
    return lambda max_keypoints, threshold: Candidate("made", "made", {}, describe, "none")


def position_coded(image: Tensor) -> Features:
    """Keypoints on a grid whose descriptors tell where they are, and nothing else: matches never move."""
    height, width = image.shape[1:]
    points = torch.stack(torch.meshgrid(torch.arange(8, width - 8, 16), torch.arange(8, height - 8, 16), indexing="xy"))
    points = points.flatten(1).T.float()
    descriptors = nn.functional.normalize(position_code(points), dim=-1)
    return Features(points, torch.linspace(1, 0, len(points)), descriptors, (width, height))


def position_code(points: Tensor) -> Tensor:
    """...×2 pixels to ...×32 numbers whose inner product falls with the distance."""
    angles = points[..., None] / torch.tensor([512.0, 256, 128, 64, 32, 24, 16, 12])
    return torch.cat([angles.sin(), angles.cos()], dim=-1).flatten(-2)


def test_the_views_are_what_their_points_say(photos: list[Path], tmp_path: Path) -> None:
    """Independent of the warping code: the first view, warped by the annotated points, looks like the second."""
    pairs = write_view_pairs(photos, tmp_path / "views", count=4, warp=WarpConfig(photometric=0.0), seed=0)
    assert len(pairs.pairs) == 4
    for pair in pairs.pairs:
        assert isinstance(pair, HomographyPair)
        first, second = (read_image(pairs.path(name)) for name in (pair.image0, pair.image1))
        assert first.shape == second.shape == (VIEW_SIZE, VIEW_SIZE, 3)
        homography, _ = cv2.findHomography(pair.points0.numpy(), pair.points1.numpy())
        torch.testing.assert_close(
            apply_homography(torch.from_numpy(homography), pair.points0), pair.points1, rtol=0, atol=1e-4
        )
        warped = cv2.warpPerspective(first, homography, (VIEW_SIZE, VIEW_SIZE))
        places = pair.points1.round().int().numpy()
        places = places[((places >= 4) & (places < VIEW_SIZE - 4)).all(axis=1)]
        patches = [[image[y - 4 : y + 5, x - 4 : x + 5].mean() for x, y in places] for image in (warped, second)]
        assert np.corrcoef(*patches)[0, 1] > 0.9
        assert np.abs(first.astype(float) - second)[8:-8, 8:-8].mean() > 5  # they do differ


def test_the_views_are_the_same_in_every_run(photos: list[Path], tmp_path: Path) -> None:
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        write_view_pairs(photos, tmp_path / name, count=2, warp=WarpConfig(), seed=seed)
    contents = {name: [path.read_bytes() for path in sorted((tmp_path / name).iterdir())] for name in ("a", "b", "c")}
    assert len(contents["a"]) == 5
    assert contents["a"] == contents["b"] != contents["c"]


def test_photos_that_cannot_be_read_are_left_out(
    photos: list[Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    bad = tmp_path / "bad.jpg"
    bad.write_bytes(b"no photo")
    pairs = write_view_pairs([bad, photos[0]], tmp_path / "views", count=4, warp=WarpConfig(), seed=0)
    assert len(pairs.pairs) == 2
    assert "bad.jpg" in caplog.text
    with pytest.raises(ValueError, match="none of 1 held-back photos"):
        write_view_pairs([bad], tmp_path / "none", count=2, warp=WarpConfig(), seed=0)
    measure = EpipolarAgreement([(bad, photos[0]), (photos[0], photos[1])])
    assert len(measure(baseline_rival("sift")).values) == 1
    assert measure.picture(baseline_rival("sift")).ndim == 3


def test_real_pairs_are_different_and_take_the_scenes_in_turn() -> None:
    scenes = [[Path(f"{scene}/{index}") for index in range(size)] for scene, size in (("a", 40), ("b", 3), ("c", 1))]
    chosen = choose_real_pairs(scenes, 12, seed=0)
    assert len({frozenset(pair) for pair in chosen}) == 12
    assert [pair[0].parent.name for pair in chosen[:4]] == ["a", "b", "a", "b"]
    assert sum(pair[0].parent.name == "b" for pair in chosen) == 3
    assert all(first.parent == second.parent and first != second for first, second in chosen)
    assert choose_real_pairs(scenes, 12, seed=0) == chosen != choose_real_pairs(scenes, 12, seed=1)
    assert choose_real_pairs([], 12, seed=0) == choose_real_pairs(scenes[2:], 12, seed=0) == []


def test_a_network_is_validated_without_labels(validation: Validation, model: RIPE) -> None:
    state = torch.random.get_rng_state()
    figures = validation(model_rival("network", model), 100)
    assert torch.equal(torch.random.get_rng_state(), state)
    names = {name.rpartition("/")[2] for name in figures if name.startswith("views/")}
    assert names == {"auc@1px", "auc@3px", "auc@5px", "right_matches", "matches", "repeatability"}
    areas = [figures[f"views/auc@{limit}px"] for limit in (1, 3, 5)]
    expected = (np.mean(areas) + 100 * figures["real/inlier_share"]) / 2
    assert figures["score"] == pytest.approx(expected)
    assert validation(model_rival("network", model), 200) == figures


def test_training_mode_and_what_came_before_do_not_matter(validation: Validation, random_weights: Path) -> None:
    """The moving average changes in place between validations, and its mode is not this module's business."""
    network = ripe.load(random_weights, device="cpu")
    before = validation(model_rival("network", network), 0)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.mul_(-1)
    changed = validation(model_rival("network", network.train()), 1)
    assert network.training
    assert changed != before
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.mul_(-1)
    assert validation(model_rival("network", network), 2) == before


def test_sift_scores_high_and_a_picture_shows_it(validation: Validation) -> None:
    views, real = validation.outcomes(baseline_rival("sift"))
    assert views.figure > 50
    assert real.figure > 50
    for measure in validation.measures:
        picture = measure.picture(baseline_rival("sift"))
        assert picture.dtype == np.uint8
        green = (picture[..., 1].astype(int) - picture[..., 0] > 60).mean()
        assert green > 0.002


def test_matches_that_do_not_move_earn_nothing(validation: Validation) -> None:
    """The trap: epipolar geometry alone is happy with them."""
    views, real = validation.outcomes(made_rival(position_coded))
    assert views.figure < 1
    assert real.figure == 0
    assert real.figures["matches"] > 100
    trusting = replace(validation.measures[1], min_motion=0.0)  # type: ignore[type-var]
    assert trusting(made_rival(position_coded)).figure > 95


def test_a_few_matches_that_agree_do_not_count(photos: list[Path]) -> None:
    few = baseline("sift", 12)
    outcome = EpipolarAgreement([(photos[0], photos[1])])(made_rival(few))
    assert outcome.figure == 0


class PositionHead(DescriptorHead):
    """Describes a place by where it is."""

    dim = 32

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, pyramid: Sequence[Tensor], keypoints: Tensor, image_size: Size, frames: Frames = None) -> Tensor:
        return nn.functional.normalize(self.scale * position_code(keypoints), dim=-1)


def test_a_network_that_codes_positions_is_found_out(
    photos: list[Path], validation: Validation, random_weights: Path
) -> None:
    """Real training steps on real pairs: the rewards jump, the validation falls, and the watch says so."""
    size = 160
    # They share little more than half, so that a good network's matches are not nearly all right.
    crops = [
        torch.tensor(read_image(path)[100:260, left : left + size]).permute(2, 0, 1)
        for path, left in zip(photos[:2], (150, 100), strict=True)
    ]
    batch = PairBatch(
        images=torch.stack(crops),
        valid=torch.ones(2, size, size, dtype=torch.bool),
        positive=torch.tensor([True]),
        H_0to1=torch.full((1, 3, 3), torch.nan),
        one_photo=torch.tensor([False]),
        skipped=[],
    )
    objective = ObjectiveConfig(min_motion=0.0, border=0)
    now = schedule.at(1, TrainConfig(steps=2, objective=objective))

    def train_step(network: RIPE, step: int) -> Tally:
        policy = Policy(network, border=0)
        generator = torch.Generator().manual_seed(step)
        output = policy(batch.images.float() / 255, batch.valid, batch.H_0to1, generator)
        with ThreadPoolExecutor(1) as executor:
            return compute_loss(output, batch, objective, now, seeds=[step], executor=executor).tally

    good = ripe.load("compact", device="cpu")
    collapsed = RIPE("compact", good.net, PositionHead(), good.detection)
    watch = Watch()
    answers = []
    for step, network in enumerate([good, collapsed, collapsed]):
        training = Tally()
        for repeat in range(6):
            training.merge(train_step(network, 10 * step + repeat))
        answers.append(watch(step, validation(model_rival("network", network), step), training.figures()))
    assert answers[:2] == [None, None]
    assert answers[2] is not None
    assert "at step 0" in answers[2]
    assert "inlier ratio of real pairs in training rose" in answers[2]


def test_annotated_pairs_are_measured_by_their_protocol(tmp_path: Path) -> None:
    write_annotated(tmp_path)
    validation = annotated_validation("pairs", tmp_path, max_pairs=2)
    homographies, poses = validation.outcomes(baseline_rival("sift"))
    assert len(homographies.values) == 2
    assert len(poses.values) == 1
    expected = 100 * area_under_recall(list(homographies.values.values()), [3, 5, 10])
    assert [homographies.figures[f"auc@{limit}px"] for limit in (3, 5, 10)] == pytest.approx(list(expected))
    assert homographies.figure == pytest.approx(expected.mean())
    assert homographies.figure > 80
    assert poses.figure > 50
    assert set(poses.figures) == {"auc@5°", "auc@10°", "auc@20°", "right_matches", "matches"}


def test_what_is_measured_in_memory_is_what_ripe_eval_keeps_in_files(tmp_path: Path) -> None:
    write_annotated(tmp_path / "pairs")
    (tmp_path / "pairs" / "homography" / "shift_0.png").write_bytes(b"damaged")
    (tmp_path / "files").mkdir()
    measure = annotated_validation("pairs", tmp_path / "pairs").measures[0]
    assert isinstance(measure, KnownGeometry)
    candidate, sources = baseline_rival("sift")(measure.protocol.max_keypoints, None), (measure.pairs, measure.protocol)
    unreadable, made = predict(candidate, *sources)
    assert unreadable == predictions.extract_images(candidate, *sources, tmp_path / "files")
    predictions.match_images(candidate, *sources, tmp_path / "files")
    kept = predictions.read_predictions(measure.pairs, tmp_path / "files")
    assert list(unreadable) == ["shift_0.png"]
    assert made.images.keys() == kept.images.keys()
    assert made.matches.keys() == kept.matches.keys()
    for name, image in made.images.items():
        assert torch.equal(image.keypoints, kept.images[name].keypoints)
        assert (image.size, image.hardware) == (kept.images[name].size, kept.images[name].hardware)
    for pair, matches in made.matches.items():
        assert torch.equal(matches, kept.matches[pair])


def test_a_damaged_photo_of_an_annotated_pair_ends_no_run(tmp_path: Path) -> None:
    write_annotated(tmp_path)
    (tmp_path / "homography" / "shift_0.png").write_bytes(b"damaged")
    homographies = annotated_validation("pairs", tmp_path).measures[0]
    assert sorted(homographies(baseline_rival("sift")).values) == ["tilt", "turn"]
    assert homographies.picture(baseline_rival("sift")).ndim == 3


def test_the_validation_of_a_run_is_found(tmp_path: Path) -> None:
    data, pairs, mine = tmp_path / "data", tmp_path / "pairs", tmp_path / "mine"
    views = tmp_path / "views"
    write_annotated(pairs)
    public = DataConfig(sets={"megadepth": 1.0}, dir=data)
    assert find_validation(public, 0, views) is None
    found = find_validation(public, 0, views, pairs=pairs)
    assert found is not None
    assert [measure.name for measure in found.measures] == ["homography", "pose"]
    for scene in ("a", "b", "c", "d", "e", "f"):
        (mine / scene).mkdir(parents=True)
        for index, pixels in enumerate(two_views()):
            Image.fromarray(pixels).save(mine / scene / f"{index}.jpg")
    # Warps so mild that no photo has two views which hardly overlap.
    found = find_validation(DataConfig(root=mine, warp=WarpConfig(max_scale_ratio=1.5)), 0, views)
    assert found is not None
    known, real = found.measures
    assert (known.name, len(known.pairs.pairs)) == ("views", 48)  # type: ignore[attr-defined]
    training = {scene.folder for scene in split_own(DataConfig(root=mine), 0)[0]}
    held_back = {photo.parent for pair in real.pairs for photo in pair}  # type: ignore[attr-defined]
    assert held_back
    assert training.isdisjoint(held_back)
    write_imw(data)
    found = find_validation(public, 0, views)
    assert found is not None
    (measure,) = found.measures
    assert isinstance(measure, KnownGeometry)
    assert (measure.name, measure.protocol.repeats, measure.protocol.max_keypoints) == ("imw2020", 1, 2048)
    # The published network's threshold there, and that of any other network, which has its own.
    thresholds = [
        measure._candidate(model_rival("a", build(name))).settings["threshold"] for name in ("vgg_hyper", "compact")
    ]
    assert thresholds == [0.5, build("compact").detection.threshold]


def test_nothing_held_back_is_an_error_that_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"raise data\.hold_back"):
        held_back_validation([], [], tmp_path / "views", warp=WarpConfig(), seed=0)
    with pytest.raises(ValueError, match="nothing to validate with"):
        Validation([])


def outcome(values: Sequence[float]) -> Outcome:
    return Outcome({str(index): value for index, value in enumerate(values)}, lambda v: float(np.mean(v)), {})


def test_a_difference_is_that_of_the_means_with_the_spread_of_paired_resamples() -> None:
    """Against the closed form: the standard error of paired differences, 1.96 of them to each side."""
    rng = np.random.default_rng(0)
    base = rng.normal(50, 20, 200)
    gain = rng.normal(3, 5, 200)
    found = difference([outcome(base + gain)], [outcome(base)])
    half = 1.96 * gain.std() / np.sqrt(200)
    assert found.value == pytest.approx(gain.mean())
    assert found.low == pytest.approx(gain.mean() - half, abs=0.15)
    assert found.high == pytest.approx(gain.mean() + half, abs=0.15)
    mixed = difference([outcome(base + gain), outcome([1.0])], [outcome(base), outcome([3.0])])
    assert mixed.value == pytest.approx((gain.mean() - 2) / 2)


def test_a_difference_in_words() -> None:
    assert Difference(3.24, 1, 5).over("sift").startswith("better than sift by 3.2 points (95 % of resamples")
    assert Difference(-3.24, -5, -1).over("sift").startswith("worse than sift by 3.2 points")
    assert Difference(0.3, -1, 2).over("sift").startswith("not clearly different from sift (+0.3 points;")


def test_the_report_compares_new_weights_and_says_how_they_are_used(
    validation: Validation, random_weights: Path, tmp_path: Path
) -> None:
    text = write_report(random_weights, validation, tmp_path)
    whole = (tmp_path / "report.md").read_text()
    assert "worse than sift by" in text
    assert f"--model {random_weights}" in text
    assert str(tmp_path / "report.md") in text
    for part in ("worse than sift by", "| compact (shipped) |", "| AUC@3 px |", "| agreeing share |", "ripe match"):
        assert part in whole
    again = write_report(ripe.pretrained.MODELS["compact"].path(), validation, tmp_path)
    assert "not clearly different from compact (shipped) (+0.0 points" in again
    assert json.loads((validation.measures[0].pairs.folder / "pairs.json").read_text())["pairs"]  # type: ignore[attr-defined]
