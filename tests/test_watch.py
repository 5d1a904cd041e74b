"""The watch over a run: patience, the collapse of the reward for nothing, and that it survives a checkpoint."""

import math
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ripe.training.checkpoint import load_checkpoint, save_checkpoint
from ripe.training.watch import Watch, WatchConfig

RISING = [5.0, 12.0, 20.0, 26.0, 31.0, 35.0, 38.0, 40.0]


def run(watch: Watch, validations: Sequence[float], ratios: Sequence[float], kind: str = "real") -> list[str | None]:
    """The watch's answers to a made run with 10 steps between validations."""
    answers = []
    for index, (validation, ratio) in enumerate(zip(validations, ratios, strict=True), 1):
        training = {f"inlier_ratio/{kind}": ratio, "inlier_ratio/negative": 0.9, "loss/total": -ratio}
        answers.append(watch(10 * index, {"score": validation, "views/matches": 100.0}, training))
    return answers


def test_a_run_that_rises_goes_on() -> None:
    watch = Watch(WatchConfig(patience=2))
    assert run(watch, RISING, np.linspace(0.1, 0.8, len(RISING))) == [None] * len(RISING)
    assert (watch.best, watch.best_step) == (40.0, 80)


def test_a_run_that_no_longer_rises_is_ended_after_its_patience() -> None:
    watch = Watch(WatchConfig(patience=3, min_rise=1.0))
    answers = run(watch, [*RISING, 40.5, 40.9, 39.0], np.full(len(RISING) + 3, 0.5))
    assert answers[:-1] == [None] * (len(RISING) + 2)
    assert answers[-1] == (
        "step 110: the validation has not risen by 1 in 3 validations; the best was 40.9 at step 100"
    )


def test_small_rises_that_add_up_count_as_a_rise() -> None:
    watch = Watch(WatchConfig(patience=3, min_rise=1.0))
    assert run(watch, np.arange(20, 40, 0.4), np.full(50, 0.5)) == [None] * 50


def test_patience_zero_never_ends_a_run() -> None:
    assert run(Watch(WatchConfig(patience=0)), [30.0] * 50, [0.5] * 50) == [None] * 50


@pytest.mark.parametrize("kind", ["real", "self"])
def test_the_collapse_is_told_from_the_two_curves(kind: str) -> None:
    """The curves of the trap as it was seen: the inlier ratio jumps from 0.49 to 0.85, the validation falls to 6."""
    watch = Watch()
    validations = [10.0, 20.0, 30.0, 40.0, 38.0, 22.0, 6.0]
    answers = run(watch, validations, [0.30, 0.40, 0.45, 0.49, 0.60, 0.80, 0.85], kind)
    assert answers[:-1] == [None] * 6
    assert answers[-1] is not None
    assert f"the validation fell from 40.0 at step 40 to 6.0, while the inlier ratio of {kind} pairs" in answers[-1]
    assert "rose from 0.49 to 0.85" in answers[-1]
    assert "data.negative_share" in answers[-1]


@pytest.mark.parametrize(
    ("validations", "ratios"),
    [
        ([40.0, 6.0, 40.0, 6.0, 41.0], [0.5, 0.8, 0.8, 0.8, 0.8]),  # one bad validation at a time
        ([40.0, 20.0, 20.0, 20.0, 20.0], [0.5, 0.5, 0.4, 0.3, 0.55]),  # both fall: bad, but no reward for nothing
        ([40.0, 39.0, 37.0, 38.0, 36.0], [0.5, 0.6, 0.7, 0.8, 0.9]),  # a little lower
        ([0.0, 0.0, 0.0, 0.0, 0.0], [0.1, 0.3, 0.5, 0.7, 0.9]),  # nothing to fall from yet
        ([1.5, 0.2, 0.1, 0.2, 0.3], [0.1, 0.3, 0.5, 0.7, 0.9]),
    ],
)
def test_other_falls_are_no_collapse(validations: list[float], ratios: list[float]) -> None:
    assert run(Watch(), validations, ratios) == [None] * 5


def test_what_negative_pairs_do_is_not_taken_for_a_collapse() -> None:
    assert run(Watch(), [40.0, 6.0, 6.0, 6.0], [0.2, 0.9, 0.9, 0.9], kind="negative") == [None] * 4


def test_figures_that_are_not_finite_do_no_harm() -> None:
    watch = Watch(WatchConfig(patience=3))
    answers = run(watch, [math.nan, math.nan, 20.0, math.nan], [0.5, math.nan, 0.5, 0.5])
    assert answers == [None] * 4
    assert (watch.best, watch.best_step) == (20.0, 30)


@given(
    curve=st.lists(st.tuples(st.floats(0, 100), st.floats(0, 1)), min_size=1, max_size=30),
    cut=st.integers(0, 30),
    patience=st.integers(0, 5),
)
def test_a_watch_that_is_put_down_and_taken_up_again_answers_the_same(
    curve: list[tuple[float, float]], cut: int, patience: int
) -> None:
    config = WatchConfig(patience=patience)
    whole, first, second = Watch(config), Watch(config), Watch(config)
    answers, parts = [], []
    for index, (validation, ratio) in enumerate(curve):
        current = first if index < cut else second
        if index == cut:
            second.load_state_dict(first.state_dict())
        for watch, said in ((whole, answers), (current, parts)):
            said.append(watch(index, {"score": validation}, {"inlier_ratio/self": ratio}))
    assert answers == parts


def test_the_state_goes_through_a_checkpoint(tmp_path) -> None:  # type: ignore[no-untyped-def]
    watch = Watch()
    run(watch, RISING[:3], [0.2, 0.3, 0.4])
    watch(40, {"score": np.float64(30.0)}, {"inlier_ratio/real": np.float32(0.7)})  # type: ignore[dict-item]
    save_checkpoint({"watch": watch.state_dict()}, tmp_path / "a.pt")
    again = Watch()
    again.load_state_dict(load_checkpoint(tmp_path / "a.pt")["watch"])
    assert again == watch


@pytest.mark.parametrize("setting", [{"patience": -1}, {"collapse_fall": 0.0}, {"min_rise": math.nan}])
def test_wrong_settings_are_named(setting: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=f"watch.{next(iter(setting))}="):
        WatchConfig(**setting)  # type: ignore[arg-type]
