"""`ripe extract` and `ripe match` on a real local cluster of Ray, whose processes are killed."""

import os
import subprocess
import sys
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest

from ripe.cli import main

pytest.importorskip("pyarrow")
pytest.importorskip("ray")

import ray
from ray_kills import check_whole, make_photos, run_killed, start_cluster

from ripe.scale.engines import on_ray
from ripe.scale.feature_tables import FeatureTable
from ripe.scale.match_tables import MatchTable

SEED = 20


@pytest.fixture(scope="module", autouse=True)
def cluster() -> Iterator[None]:
    """A cluster, while the environment names it."""
    before = dict(os.environ)
    start_cluster()
    yield
    ray.shutdown()
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("made") / "photos"
    make_photos(root, 24, SEED)
    return root


@pytest.fixture(scope="module")
def expected(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> FeatureTable:
    """What one process makes of the photos."""
    address = f"file://{tmp_path_factory.mktemp('one')}/features"
    assert main(["extract", str(folder), "-o", address, "--max-keypoints", "50", "--device", "cpu"]) == 1
    return FeatureTable(address)


@pytest.mark.slow
def test_killed_processes_lose_nothing_and_double_nothing(folder: Path, expected: FeatureTable, tmp_path: Path) -> None:
    done = run_killed(folder, tmp_path / "features", kills=2, seed=SEED)
    assert done.total() == 2
    check_whole(tmp_path / "features", expected)


def test_pairs_are_matched_as_by_one_process(expected: FeatureTable, tmp_path: Path) -> None:
    names = expected.names()[:6]
    (tmp_path / "pairs.txt").write_text("".join(f"{a} {b}\n" for a, b in combinations(names, 2)))
    words = ["match", "--pairs", f"{tmp_path}/pairs.txt", "--features", expected.path]
    assert main([*words, "-o", f"{tmp_path}/a", "--engine", "ray"]) == 0
    assert main([*words, "-o", f"file://{tmp_path}/b"]) == 0
    one, other = MatchTable(f"{tmp_path}/a"), MatchTable(f"{tmp_path}/b")
    assert one.settings == other.settings
    assert {pair: row.verdict for pair, row in one.rows.items()} == {p: r.verdict for p, r in other.rows.items()}
    for (pair, indices), (_, alone) in zip(sorted(one.items()), sorted(other.items()), strict=True):
        np.testing.assert_array_equal(indices, alone, err_msg=str(pair))


def test_an_error_of_a_worker_is_told_in_its_own_words() -> None:
    def refuse(block: int) -> int:  # in here, as the workers cannot import this module
        raise OSError(f"disk {block} is full")

    with pytest.raises(OSError, match=r"^disk 7 is full$"):
        list(on_ray(1)([7], refuse, lambda: refuse))


def test_without_ray_it_is_said_how_to_have_it(folder: Path, tmp_path: Path) -> None:
    code = "import sys; sys.modules['ray'] = None; from ripe.cli import main; sys.exit(main(sys.argv[1:]))"
    words = ["extract", str(folder), "-o", str(tmp_path / "features"), "--engine", "ray"]
    result = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, env=dict(os.environ))
    assert result.returncode == 1
    assert "Ray is needed: pip install 'ripe-keypoints[scale]'" in result.stderr
