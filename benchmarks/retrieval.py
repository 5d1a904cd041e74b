"""How many photos of the same place are among the 20 that are chosen, and what a search of many photos costs.

    python benchmarks/retrieval.py recall features.h5
    python benchmarks/retrieval.py growth --sizes 1000 10000 100000

`features.h5` is of a folder of scenes: photos of one sub-folder show one place, others (and single photos, in a folder
named `singles`) do not. Each photo of a scene of two or more is a query; sought are, among all other photos, those of
its folder. Recall is the share of them among the first 20, or of 20 if there are more; given are its mean over queries,
and the share of all that are sought ("pooled"). "By either" counts a photo as found, too, if it has chosen the query;
"any" is the share of queries with a right one among the 20, which is what place recognition calls recall@20.

`growth` searches made vectors, ten to a place, each in a process of its own: processor seconds, one thread, to build
the indices and to search each vector's 21 nearest in them, three times as `ripe pairs` does, the most memory, and the
share of the other nine of its place that are found, of 1000 queries. A million is extrapolated, and marked, if it is
not measured: seconds by the growth between the last two sizes, memory in proportion.
"""

import argparse
import json
import math
import resource
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import PurePosixPath

import numpy as np

from ripe.pairing import retrieval
from ripe.storage import FeatureReader
from ripe.tables import markdown_table

COUNT = 20
KINDS = ("exact", "faiss flat", "HNSW", "IVF")
TO_EXTRAPOLATE = 1_000_000
SEARCHES = retrieval.SMOOTHINGS + 1
BLOCK = 1000
PLACE = 10  # vectors of one
SIMILARITY = 0.6  # of two vectors of one place, about as of real photos


def recall(found: Sequence[Sequence[int]], places: np.ndarray) -> list[float]:
    """Mean and pooled recall of each photo's choice, the mean one by either's, and the share of those not in vain."""
    by = [set(chosen) for chosen in found]
    for index, chosen in enumerate(found):
        for other in chosen:
            by[other].add(index)
    shares, either, hits, sought, any_right = [], [], 0, 0, []
    for index, chosen in enumerate(found):
        wanted = set(np.flatnonzero(places == places[index]).tolist()) - {index}
        if wanted:
            most = min(len(wanted), COUNT)
            right = len(wanted & set(chosen[:COUNT]))
            shares.append(right / most)
            either.append(min(1.0, len(wanted & by[index]) / most))
            hits, sought = hits + right, sought + most
            any_right.append(right > 0)
    return [float(np.mean(shares)), hits / sought, float(np.mean(either)), float(np.mean(any_right))]


def measure_recall(path: str, seed: int) -> None:
    """Print a table for a feature file."""
    with FeatureReader(path) as reader:
        names = reader.names()

        def read(name: str) -> np.ndarray:
            return reader.read(name).descriptors.numpy()

        parents = [str(PurePosixPath(name).parent) for name in names]
        singles = [PurePosixPath(parent).name == "singles" for parent in parents]
        labels = [name if single else parent for name, single, parent in zip(names, singles, parents, strict=True)]
        places = np.unique(labels, return_inverse=True)[1]
        rng = np.random.default_rng(seed)
        half = rng.permutation(places.max() + 1)[: places.max() // 2]
        known = np.isin(places, half)
        vectors = {}
        for kind, sample in (("all", np.arange(len(names))), ("half of the places", np.flatnonzero(known))):
            some = rng.permutation(sample)[: retrieval.SAMPLED_PHOTOS]
            vocabulary = retrieval.learn_vocabulary([names[index] for index in some], read, rng)
            vectors[kind] = np.stack([vocabulary.describe(read(name)) for name in names])
    counts = np.bincount(places)
    print(f"{len(names)} photos, {int((counts > 1).sum())} places, {int(counts[counts > 1].sum())} queries\n")
    rows = []
    plain = retrieval._first(retrieval.searching(vectors["all"])(vectors["all"], COUNT + 1)[1],
                             [[index] for index in range(len(names))], COUNT)  # fmt: skip
    rows.append(["learnt from all photos, not smoothed", *recall(plain, places)])
    rows.append(["learnt from all photos", *recall(retrieval.most_similar(vectors["all"], COUNT), places)])
    for kind, where in vectors.items():
        others = where[~known]
        rows.append([f"the other half's places alone, learnt from {kind}",
                     *recall(retrieval.most_similar(others, COUNT), places[~known])])  # fmt: skip
    print(markdown_table(["", "recall@20", "pooled", "by either", "any"],
                         [[label, *(f"{value:.3f}" for value in values)] for label, *values in rows]))  # fmt: skip


def made_vectors(count: int, rng: np.random.Generator) -> np.ndarray:
    """Unit vectors, ten to a place; made in blocks, so that the memory is theirs alone."""
    made = np.empty((count, retrieval.DIMENSIONS), dtype=np.float32)
    noise = math.sqrt(1 / SIMILARITY - 1)
    for start in range(0, count, BLOCK):
        block = made[start : start + BLOCK]
        centres = rng.standard_normal((BLOCK // PLACE, retrieval.DIMENSIONS), dtype=np.float32)
        block[:] = np.repeat(centres, PLACE, axis=0)[: len(block)]
        block[:] = retrieval.unit(block + noise * rng.standard_normal(block.shape, dtype=np.float32))
    return made


def measure_search(kind: str, count: int, seed: int) -> dict[str, float]:
    """Seconds, memory and recall of one search."""
    import faiss

    faiss.omp_set_num_threads(1)
    rng = np.random.default_rng(seed)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    vectors = made_vectors(count, rng)
    start = time.process_time()
    retrieval.EXACT_UP_TO = 0 if kind == "HNSW" else count
    if kind == "faiss flat":
        index = faiss.IndexFlatIP(vectors.shape[1])
        index.add(vectors)
        search = index.search
    elif kind == "IVF":
        cells = int(4 * math.sqrt(count))
        index = faiss.IndexIVFFlat(faiss.IndexFlatIP(vectors.shape[1]), vectors.shape[1], cells,
                                   faiss.METRIC_INNER_PRODUCT)  # fmt: skip
        index.train(vectors[rng.permutation(count)[: 64 * cells]])
        index.add(vectors)
        index.nprobe = max(1, cells // 16)
        search = index.search
    else:
        search = retrieval.searching(vectors)
    built = time.process_time()
    # The queries are alike: of many, a part tells the time of all.
    some = rng.permutation(count)[:1000]
    _, found = search(vectors[some], COUNT + 1)
    searched = (time.process_time() - built) * count / len(some)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    right = (found // PLACE == some[:, None] // PLACE).sum(axis=1) - 1
    memory = (peak - before) / 2**20
    seconds = {"build": SEARCHES * (built - start), "search": SEARCHES * searched}
    return {**seconds, "memory": memory, "found": float(right.mean() / (PLACE - 1))}


def measure_growth(sizes: Sequence[int], kinds: Sequence[str], seed: int) -> None:
    """Print a table of all kinds of search and sizes."""
    rows = []
    for kind in kinds:
        results = []
        for size in sizes:
            command = [sys.executable, __file__, "one", kind, str(size), "--seed", str(seed)]
            results.append(json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout))
            rows.append([kind, f"{size:,}", *_cells(results[-1]), f"{results[-1]['found']:.3f}"])
            print(rows[-1], file=sys.stderr, flush=True)
        if len(sizes) > 1 and sizes[-1] < TO_EXTRAPOLATE:
            steps = math.log(TO_EXTRAPOLATE / sizes[-1]) / math.log(sizes[-1] / sizes[-2])
            last, before = results[-1], results[-2]
            guess = {key: last[key] * (last[key] / max(before[key], 1e-3)) ** steps for key in ("build", "search")}
            guess["memory"] = last["memory"] * TO_EXTRAPOLATE / sizes[-1]
            rows.append([kind, f"{TO_EXTRAPOLATE:,}, extrapolated", *_cells(guess), "–"])
    print(markdown_table(["search", "photos", "build", "search", "memory", "found"], rows))


def _cells(result: dict[str, float]) -> list[str]:
    return [f"{result['build']:.3g} s", f"{result['search']:.3g} s", f"{result['memory']:.2g} GiB"]


def main() -> None:
    """Read the command line and measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    one = commands.add_parser("recall")
    one.add_argument("features")
    growth = commands.add_parser("growth")
    growth.add_argument("--sizes", type=int, nargs="+", default=[1000, 10_000, 100_000])
    growth.add_argument("--kinds", nargs="+", choices=KINDS, default=KINDS)
    single = commands.add_parser("one")
    single.add_argument("kind", choices=KINDS)
    single.add_argument("size", type=int)
    for each in (one, growth, single):
        each.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    if arguments.command == "recall":
        measure_recall(arguments.features, arguments.seed)
    elif arguments.command == "growth":
        measure_growth(arguments.sizes, arguments.kinds, arguments.seed)
    else:
        print(json.dumps(measure_search(arguments.kind, arguments.size, arguments.seed)))


if __name__ == "__main__":
    main()
