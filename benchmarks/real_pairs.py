"""How many pairs of real photos of one place are matched, and whether third photos agree; no annotation is needed.

    python benchmarks/real_pairs.py scenes/ --model compact --baseline sift
    python benchmarks/real_pairs.py scenes/ --baseline --filter mutual mutual,ratio=0.9 fginn adalam lightglue
    python benchmarks/real_pairs.py scenes/ --baseline --model compact compact_int8.onnx
    python benchmarks/real_pairs.py scenes/ --baseline --model compact+compact compact+robust robust+robust

`scenes/` holds a folder for each place; every two photos of a folder are matched (mutual nearest neighbours, or by
each `--filter`), a fundamental matrix is fitted (PoseLib, 1.5 px), and `ripe.judge` gives its verdict, always by the
mutual nearest neighbours. Pairs of photos of two folders, which show different places, are the control: their share of
"matched" verdicts is the rate of false alarms. Each photo is compared with one of each of the `--strangers` folders
before its own.

With `A+B`, the photos of a folder are described by the two in turn, and only pairs of photos of different turns count:
what a map that was made with one is worth to the other.

An inlier match of photos A and B is *confirmed* by a third photo C if both keypoints have inlier matches to the same
keypoint of C, and *contradicted* if they have such matches to different ones (more than 3 px apart). A matched pair
counts as consistent if no third photo speaks, or more matches are confirmed than contradicted.
"""

import argparse
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from ripe import runtime
from ripe.attempts import fit_matches
from ripe.data.own import read_scenes
from ripe.evaluation.baselines import baseline
from ripe.extractors import Describer, describer, runtime_describer
from ripe.features import Features
from ripe.filters import MUTUAL, MatchFilter
from ripe.images import as_rgb
from ripe.matching import filtered_match
from ripe.pretrained import load
from ripe.tables import markdown_table
from ripe.two_views import Stopwatch

KEYPOINTS = 2048
MAX_ERROR = 1.5
SAME_POINT = 3.0  # pixels
MANY = 15  # inliers that COLMAP takes for a verified pair


@dataclass(frozen=True)
class Pair:
    """Two photos: verdict, inliers by matches, the inliers' keypoints, first to second, and the times it took."""

    verdict: str
    inliers: int
    matches: int
    joined: dict[int, int]
    milliseconds: dict[str, float]


def compare(features0: Features, features1: Features, how: MatchFilter) -> Pair:
    """Match two photos."""
    watch = Stopwatch()
    with watch.stage("match"):
        matches = filtered_match(features0, features1, how)
    with watch.stage("fit"):
        geometry, judged = fit_matches(features0, features1, matches, how, "fundamental", MAX_ERROR)
    assert geometry is not None
    assert judged is not None
    verdict = judged.name
    kept = matches.indices[geometry.inliers].tolist() if verdict != "chance" else []
    return Pair(verdict, geometry.num_inliers, len(matches), dict(kept), watch.milliseconds)


def consistent(pairs: dict[tuple[int, int], Pair], keypoints: Sequence[np.ndarray], first: int, second: int) -> bool:
    """Whether third photos rather confirm than contradict the inliers of a pair."""
    votes = Counter[bool]()
    for third in set(range(len(keypoints))) - {first, second}:
        to_third = [_directed(pairs, side, third) for side in (first, second)]
        for here, there in pairs[first, second].joined.items():
            if here in to_third[0] and there in to_third[1]:
                ends = keypoints[third][to_third[0][here]], keypoints[third][to_third[1][there]]
                votes[bool(np.linalg.norm(ends[0] - ends[1]) <= SAME_POINT)] += 1
    return votes[True] >= votes[False]


def _directed(pairs: dict[tuple[int, int], Pair], start: int, end: int) -> dict[int, int]:
    """Inlier matches from one photo to another, in whichever order the pair was matched."""
    if (start, end) in pairs:
        return pairs[start, end].joined
    return {there: here for here, there in pairs[end, start].joined.items()}


class Tally:
    """Pairs of photos of one folder, and pairs of photos of different folders."""

    def __init__(self, how: MatchFilter, turns: int) -> None:
        self.how = how
        self.turns = turns
        self.found, self.strangers = Counter[str](), Counter[str]()
        self.times: list[dict[str, float]] = []

    def add_scene(self, features: Sequence[Features]) -> None:
        """Every two photos of a folder; if describers take turns, those of different turns count."""
        pairs = {(i, j): compare(features[i], features[j], self.how) for i, j in combinations(range(len(features)), 2)}
        keypoints = [each.keypoints.numpy() for each in features]
        for (i, j), pair in pairs.items():
            if self.turns > 1 and (j - i) % self.turns == 0:
                continue
            self.times.append(pair.milliseconds)
            self.found[pair.verdict] += 1
            if pair.verdict == "matched":
                self.found["inliers"] += pair.inliers
                self.found["matches"] += pair.matches
                self.found["consistent"] += consistent(pairs, keypoints, i, j)

    def add_strangers(self, features: Sequence[Features], others: Sequence[Features]) -> None:
        """One photo of each of two folders at a time."""
        for mine, other in zip(features, others, strict=False):
            pair = compare(mine, other, self.how)
            self.strangers[pair.verdict] += 1
            self.strangers["many"] += pair.inliers >= MANY

    def row(self) -> list[str]:
        """The figures, as in `HEADER`."""
        found, strangers = self.found, self.strangers
        times = [float(np.median([each[stage] for each in self.times])) for stage in ("match", "fit")]
        return [
            str(sum(found[verdict] for verdict in VERDICTS)),
            *(str(found[name]) for name in ("matched", "consistent", "doubtful")),
            f"{found['inliers'] / max(found['matches'], 1):.0%}",
            f"{strangers['matched']} of {sum(strangers[verdict] for verdict in VERDICTS)}",
            str(strangers["many"]),
            " + ".join(f"{time:.0f}" for time in times),
        ]


HEADER = ["extractor", "filter", "pairs", "matched", "of these consistent", "doubtful", "inliers of matched"]
HEADER += ["strangers matched", f"strangers with {MANY} inliers", "ms to match + fit"]
VERDICTS = ("matched", "doubtful", "chance")


def measure(
    describers: Sequence[Describer], folder: Path, filters: Sequence[MatchFilter], strangers: int
) -> list[Tally]:
    """What each filter makes of the photos below a folder, each beside one of so many folders before its own."""
    turns = len(describers)
    tallies = [Tally(how, turns) for how in filters]
    before: deque[list[Features]] = deque(maxlen=strangers)
    for scene in read_scenes(folder):
        features = [describers[index % turns](as_rgb(scene.path(index))).to("cpu") for index in range(len(scene))]
        for tally in tallies:
            tally.add_scene(features)
            for others in before:
                tally.add_strangers(features, others)
        before.append(features)
    return tallies


def model_describer(name: str) -> Describer:
    """A network of ours by its name or weights file, or by a file of `ripe export`."""
    if name.endswith(".onnx"):
        return runtime_describer(runtime.load(name), max_keypoints=KEYPOINTS)
    return describer(load(name), max_keypoints=KEYPOINTS)


def match_filter(text: str) -> MatchFilter:
    """An argument such as `adalam`, `mutual,ratio=0.9,min_similarity=0.5` or `lightglue,matcher=FILE`."""
    method, *settings = text.split(",")
    given: dict[str, Any] = dict(setting.split("=", 1) for setting in settings)
    return MatchFilter(method, **{name: value if name == "matcher" else float(value) for name, value in given.items()})


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scenes", type=Path)
    parser.add_argument("--model", nargs="*", default=["compact"])
    parser.add_argument("--baseline", nargs="*", default=["sift"])
    parser.add_argument("--filter", nargs="+", type=match_filter, default=[MUTUAL], metavar="METHOD[,NAME=VALUE]")
    parser.add_argument("--strangers", type=int, default=1, metavar="N", help="folders of another place (%(default)s)")
    arguments = parser.parse_args()
    describers = {
        "+".join(Path(each).stem for each in name.split("+")): [model_describer(each) for each in name.split("+")]
        for name in arguments.model
    }
    describers |= {name: [baseline(name, KEYPOINTS)] for name in arguments.baseline}
    rows = []
    for name, in_turn in describers.items():
        for tally in measure(in_turn, arguments.scenes, arguments.filter, arguments.strangers):
            rows.append([name, str(tally.how), *tally.row()])
    print(markdown_table(HEADER, rows))


if __name__ == "__main__":
    main()
