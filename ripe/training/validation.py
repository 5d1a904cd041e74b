"""How good a network is while it trains, in one number by which checkpoints are chosen: the score, in percent.

It is the mean over all sets of pairs of each set's own figure. Of pairs with known geometry (annotated ones, or views
that were made of held-back photos) that is the mean of the areas under the recall curve up to the protocol's limits; of
real pairs of held-back photos the share of their matches that agree with one epipolar geometry.

The measures themselves are `ripe.evaluation.measures`.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from ripe.data.catalogue import SOURCES, data_dir
from ripe.data.pairs import split_own
from ripe.evaluation.benchmarks import BENCHMARKS
from ripe.evaluation.measures import EpipolarAgreement, KnownGeometry, Measure, Outcome, Rival
from ripe.recipe.config import DataConfig, WarpConfig
from ripe.training import held_back
from ripe.training.watch import SCORE


def mean_figure(outcomes: Sequence[Outcome]) -> float:
    """The score: the mean of the figures of all sets."""
    return float(np.mean([outcome.figure for outcome in outcomes]))


class Validation:
    """A validator of the training loop: the mean of some measures."""

    main = SCORE

    def __init__(self, measures: Sequence[Measure]) -> None:
        if not measures:
            raise ValueError("nothing to validate with")
        self.measures = list(measures)

    def __call__(self, rival: Rival, step: int) -> dict[str, float]:
        """Figures of what is trained: `score` and `<set>/<figure>`; the step does not matter."""
        outcomes = self.outcomes(rival)
        figures = {SCORE: mean_figure(outcomes)}
        for measure, outcome in zip(self.measures, outcomes, strict=True):
            figures |= {f"{measure.name}/{name}": value for name, value in outcome.figures.items()}
        return figures

    def picture(self, rival: Rival) -> np.ndarray:
        """Matches of the first pair of the first set."""
        return self.measures[0].picture(rival)

    def outcomes(self, rival: Rival) -> list[Outcome]:
        """What each measure gives for an extractor."""
        return [measure(rival) for measure in self.measures]


def annotated_validation(benchmark: str, folder: Path, max_pairs: int | None = None) -> Validation:
    """Validation on a benchmark's folder, by its own protocol and pairs but with a single seed.

    Args:
        benchmark: a key of `ripe.evaluation.benchmarks.BENCHMARKS`: "imw2020", or "pairs" for any annotated pairs.
        folder: where it is.
        max_pairs: of each set, spread evenly over it; the benchmark's own number if None.

    Raises:
        ValueError, OSError: the folder is not as the benchmark's reader wants it; the message names what is wrong.
    """
    chosen = BENCHMARKS[benchmark]
    return Validation(
        [
            KnownGeometry(pairs.spread(max_pairs or chosen.pairs), replace(chosen.protocols[pairs.kind], repeats=1))
            for pairs in chosen.read(folder)
        ]
    )


def find_validation(
    data: DataConfig, seed: int, folder: Path, *, pairs: Path | None = None, max_pairs: int | None = None
) -> Validation | None:
    """The validation of a run: on `pairs` if given, else on one's own photos that are held back, else on IMW2020-val.

    Args:
        data: the run's photos.
        seed: the run's.
        folder: see `held_back_validation`.
        pairs: a folder of annotated pairs.
        max_pairs: see `annotated_validation`.

    Returns:
        None if there are no such pairs, no photo is held back, and IMW2020-val is not in the data folder.
    """
    if pairs is not None:
        return annotated_validation("pairs", pairs, max_pairs)
    held = split_own(data, seed)[1]
    if held:
        by_scene = {scene: [scene.path(index) for index in range(len(scene))] for scene in held}
        scenes = [photos for scene, photos in by_scene.items() if scene.pairable]
        photos = [photo for photos in by_scene.values() for photo in photos]
        return held_back_validation(scenes, photos, folder, warp=data.warp, seed=seed)
    imw = (data_dir() if data.dir is None else data.dir) / SOURCES["imw2020"].folder
    return annotated_validation("imw2020", imw, max_pairs) if (imw / "dataset.json").is_file() else None


def held_back_validation(
    scenes: Sequence[Sequence[Path]],
    photos: Sequence[Path],
    folder: Path,
    *,
    warp: WarpConfig,
    seed: int,
    view_pairs: int = 48,
    real_pairs: int = 32,
) -> Validation:
    """Validation without labels, on photos that training never sees.

    Args:
        scenes: held-back photos of which two can be a pair, scene by scene; may be empty.
        photos: all held-back photos, those of the scenes as well.
        folder: where the views that are made of the photos are kept, to be looked at; what is in it is replaced.
        warp: how strongly the two views of a pair differ.
        seed: of views and pairs; the run's, so that a resumed run validates on the same.
        view_pairs: how many pairs of views are made.
        real_pairs: how many real pairs are chosen at most.

    Raises:
        ValueError: there is no photo, or none can be read.
        OSError: the folder cannot be written.
    """
    if not photos:
        raise ValueError("no photo is held back to validate with; raise data.hold_back, or give more photos")
    views = held_back.write_view_pairs(photos, folder, count=view_pairs, warp=warp, seed=seed)
    measures: list[Measure] = [KnownGeometry(views, held_back.PROTOCOL)]
    pairs = held_back.choose_real_pairs(scenes, real_pairs, seed)
    if pairs:
        measures.append(EpipolarAgreement(pairs))
    return Validation(measures)
