"""How many pairs of real photos of one place are matched, and whether third photos agree; no annotation is needed.

    python benchmarks/real_pairs.py scenes/ --model compact --baseline sift

`scenes/` holds a folder for each place; every two photos of a folder are matched (mutual nearest neighbours), a
fundamental matrix is fitted (PoseLib, 1.5 px), and `ripe.judge` gives its verdict. A pair of the same two folders'
photos, which show different places, is the control: its share of "matched" verdicts is the rate of false alarms.

An inlier match of photos A and B is *confirmed* by a third photo C if both keypoints have inlier matches to the same
keypoint of C, and *contradicted* if they have such matches to different ones (more than 3 px apart). A matched pair
counts as consistent if no third photo speaks, or more matches are confirmed than contradicted.
"""

import argparse
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import numpy as np

from ripe.data.own import read_scenes
from ripe.evaluation.baselines import baseline
from ripe.extractors import Describer, describer
from ripe.features import Features
from ripe.geometry.robust import estimate_geometry
from ripe.geometry.verdict import judge
from ripe.images import as_rgb
from ripe.matching import match
from ripe.pretrained import load

KEYPOINTS = 2048
MAX_ERROR = 1.5
SAME_POINT = 3.0  # pixels


@dataclass(frozen=True)
class Pair:
    """Two photos of one folder: verdict, inliers by matches, and the inliers' keypoints, first to second."""

    verdict: str
    inliers: int
    matches: int
    joined: dict[int, int]


def compare(features0: Features, features1: Features) -> Pair:
    """Match two photos."""
    matches = match(features0, features1)
    points = matches.points(features0, features1)
    geometry = estimate_geometry("fundamental", *points, max_error=MAX_ERROR)
    verdict = judge(geometry, *points).name
    kept = matches.indices[geometry.inliers].tolist() if verdict != "chance" else []
    return Pair(verdict, geometry.num_inliers, len(matches), dict(kept))


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


def measure(describe: Describer, folder: Path) -> tuple[Counter[str], Counter[str]]:
    """Counts over all pairs of each folder, and over as many pairs of photos of different folders."""
    found, strangers = Counter[str](), Counter[str]()
    last: list[Features] = []
    for scene in read_scenes(folder):
        features = [describe(as_rgb(scene.path(index))).to("cpu") for index in range(len(scene))]
        pairs = {(i, j): compare(features[i], features[j]) for i, j in combinations(range(len(features)), 2)}
        keypoints = [each.keypoints.numpy() for each in features]
        for (i, j), pair in pairs.items():
            found[pair.verdict] += 1
            found["inliers"] += pair.inliers if pair.verdict == "matched" else 0
            found["matches"] += pair.matches if pair.verdict == "matched" else 0
            found["consistent"] += pair.verdict == "matched" and consistent(pairs, keypoints, i, j)
        for mine, other in zip(features, last, strict=False):
            strangers[compare(mine, other).verdict] += 1
        last = features
    return found, strangers


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scenes", type=Path)
    parser.add_argument("--model", nargs="*", default=["compact"])
    parser.add_argument("--baseline", nargs="*", default=["sift"])
    arguments = parser.parse_args()
    describers = {Path(name).stem: describer(load(name), max_keypoints=KEYPOINTS) for name in arguments.model}
    describers |= {name: baseline(name, KEYPOINTS) for name in arguments.baseline}
    print("| extractor | pairs | matched | of these consistent | doubtful | inliers of matched | strangers matched |")
    print("|---|---|---|---|---|---|---|")
    for name, describe in describers.items():
        found, strangers = measure(describe, arguments.scenes)
        total = sum(found[verdict] for verdict in ("matched", "doubtful", "chance"))
        print(
            f"| {name} | {total} | {found['matched']} | {found['consistent']} | {found['doubtful']} "
            f"| {found['inliers'] / max(found['matches'], 1):.0%} "
            f"| {strangers['matched']} of {sum(strangers.values())} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
