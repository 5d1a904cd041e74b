"""Photos that look alike, by one global descriptor a photo: the VLAD of its local descriptors, which are there anyway.

Each local descriptor is compared with the nearest of a few dozen typical ones; what it differs by is added up for each
of these (Jégou, Douze, Schmid and Pérez, CVPR 2010), and the sums are projected to fewer numbers. The typical
descriptors and the projection are learnt from the photos at hand, so that any extractor's features will do.

A photo that is turned by 90° looks like another one. How its descriptors change is nearly a linear map (Bökman and
others, "Steerers", CVPR 2024); it is learnt from a few photos that are described in quarter turns.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import torch

CLUSTERS = 64
DIMENSIONS = 256
SAMPLED_PHOTOS = 1024
SAMPLED_DESCRIPTORS = 32 * 1024
ITERATIONS = 20
WHITENING = 0.75
"""Power of their standard deviation by which directions are divided: 0 leaves them, 1 makes them all count alike."""
SMOOTHED_BY = 5
SMOOTHINGS = 2
TURNED_PHOTOS = 32  # from which it is learnt how descriptors turn
TURNED_PART = 4
EXACT_UP_TO = 100_000
"""Photos that are all compared with each other; of more, faiss's graph finds nearly all of the nearest ones."""
GRAPH_LINKS = 32
GRAPH_SEARCH = 128
BLOCK = 2**24  # similarities at a time

ReadDescriptors = Callable[[str], np.ndarray]
"""Gives a photo's local descriptors, N×D float32 of unit length, by its name."""
Search = Callable[[np.ndarray, int], tuple[np.ndarray, np.ndarray]]
"""Gives for M×P unit vectors the `count` most similar ones of a database: similarities M×count, best first, and their
indices int64, -1 where there are fewer."""


@dataclass(frozen=True, eq=False)
class Vocabulary:
    """How local descriptors become a global one.

    Attributes:
        centres: K×D float32, the typical local descriptors.
        mean: K·D float32, the mean VLAD.
        projection: K·D×P float32, onto the directions in which VLADs differ most.
    """

    centres: np.ndarray
    mean: np.ndarray
    projection: np.ndarray

    def describe(self, descriptors: np.ndarray) -> np.ndarray:
        """P float32 of unit length, of N×D local descriptors, N ≥ 1. The product of two is a similarity."""
        return unit((vlad(descriptors, self.centres) - self.mean) @ self.projection)


def vlad(descriptors: np.ndarray, centres: np.ndarray) -> np.ndarray:
    """K·D float32 of unit length: sums of N×D descriptors' differences from the nearest of K×D centres.

    The sum of each centre is brought to unit length, so that a texture with hundreds of alike descriptors does not
    outweigh the rest (Arandjelović and Zisserman, CVPR 2013); then the square root is taken of each number.
    """
    nearest = (descriptors @ centres.T - np.square(centres).sum(axis=1) / 2).argmax(axis=1)
    belongs = (nearest == np.arange(len(centres))[:, None]).astype(np.float32)
    sums = unit(belongs @ descriptors - belongs.sum(axis=1, keepdims=True) * centres).ravel()
    return unit(np.sign(sums) * np.sqrt(np.abs(sums)))


def learn_vocabulary(names: Sequence[str], read: ReadDescriptors, rng: np.random.Generator) -> Vocabulary:
    """A vocabulary for photos like these, two or more, each with a descriptor or more.

    Args:
        names: of the photos; the work and, slowly, the memory grow with their number.
        read: gives their descriptors; each photo is read twice.
        rng: chooses among the descriptors, and where k-means begins.
    """
    each = -(-SAMPLED_DESCRIPTORS // len(names))
    sample = np.concatenate([rng.permutation(read(name))[:each] for name in names])
    cv2.setRNGSeed(int(rng.integers(2**31)))
    criteria = (cv2.TERM_CRITERIA_MAX_ITER, ITERATIONS, 0.0)
    count = min(CLUSTERS, len(sample))
    _, _, centres = cv2.kmeans(sample, count, np.empty(0), criteria, 1, cv2.KMEANS_PP_CENTERS)
    vlads = np.stack([vlad(read(name), centres) for name in names])
    mean = vlads.mean(axis=0)
    _, deviations, directions = np.linalg.svd(vlads - mean, full_matrices=False)
    kept = min(DIMENSIONS, len(names) - 1)  # of which the last one says nothing, as the mean was taken off
    scale = np.maximum(deviations[:kept], 1e-3 * deviations[0] + 1e-12) ** -WHITENING  # of equal photos, noise is left
    return Vocabulary(centres, mean, np.ascontiguousarray((directions[:kept] * scale[:, None]).T))


def learn_turns(photos: Iterable[tuple[np.ndarray, Sequence[np.ndarray]]]) -> np.ndarray:
    """3×D×D float32: by these, from the right, N×D descriptors become nearly those of the photo in 1, 2 or 3 turns.

    Args:
        photos: of each its N×D descriptors, and those of the same keypoints in one, two and three quarter turns.
    """
    upright, turned = zip(*photos, strict=True)
    stacked = np.concatenate(upright)
    return np.stack([np.linalg.lstsq(stacked, np.concatenate(way))[0] for way in zip(*turned, strict=True)])


def most_similar(upright: np.ndarray, count: int, turned: Sequence[np.ndarray] = ()) -> list[list[int]]:
    """For each photo the `count` others that are most similar to it, and some more that are so when it is turned.

    A photo's descriptor is first averaged, twice, with those of its nearest neighbours that have it among theirs
    (database-side augmentation, Turcot and Lowe, ICCV workshops 2009): photos that show one place from several sides
    come nearer to each other.

    Args:
        upright: N×P float32 of unit length, the photos' global descriptors.
        count: of photos; fewer if there are fewer.
        turned: the same as if the photos were turned, in one or several ways. By these each photo gets a quarter of
            `count` more. They do not compete with the others: of three more ways in which to look at a photo, chance
            makes one similar to many another.

    Returns:
        Indices, most similar first.
    """
    smoothed = upright
    for _ in range(SMOOTHINGS):
        smoothed = _smoothed(smoothed)
    search = searching(smoothed)
    _, found = search(smoothed, count + 1)
    chosen = _first(found, [[index] for index in range(len(upright))], count)
    if not turned:
        return chosen
    more = -(-count // TURNED_PART)
    similarities, found = map(np.hstack, zip(*(search(view, count + 1 + more) for view in turned), strict=True))
    found = np.take_along_axis(found, np.argsort(-similarities, axis=1, kind="stable"), axis=1)
    taken = [[index, *others] for index, others in enumerate(chosen)]
    return [own + others for own, others in zip(chosen, _first(found, taken, more), strict=True)]


def searching(database: np.ndarray) -> Search:
    """A search of N×P float32 unit vectors: all are compared up to 100 000, and by faiss's graph if there are more.

    The graph is HNSW (Malkov and Yashunin, TPAMI 2020).

    Raises:
        ValueError: faiss is needed and not installed.
    """
    if len(database) <= EXACT_UP_TO:
        return lambda queries, count: _compared(queries, database, min(count, len(database)))
    try:
        import faiss
    except ImportError as error:
        raise ValueError(
            f"faiss is needed to search more than {EXACT_UP_TO} photos: pip install 'ripe-keypoints[scale]' ({error})"
        ) from error
    graph = faiss.IndexHNSWFlat(database.shape[1], GRAPH_LINKS, faiss.METRIC_INNER_PRODUCT)
    graph.hnsw.efSearch = GRAPH_SEARCH
    graph.add(database)
    return graph.search


def _compared(queries: np.ndarray, database: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    rows = max(1, BLOCK // len(database))
    columns = torch.from_numpy(database).T
    parts = [(block @ columns).topk(count) for block in torch.from_numpy(queries).split(rows)]
    similarities, indices = (torch.cat(part).numpy() for part in zip(*parts, strict=True))
    return similarities, indices


def _smoothed(vectors: np.ndarray) -> np.ndarray:
    """Each with those that are among its nearest, as it is among theirs, added by their similarity; of unit length."""
    own = np.arange(len(vectors))
    similarities, indices = searching(vectors)(vectors, SMOOTHED_BY + 1)
    mutual = (indices[indices] == own[:, None, None]).any(axis=2) & (indices != own[:, None]) & (indices >= 0)
    weights = np.where(mutual, np.maximum(similarities, 0), 0)
    total = vectors.copy()
    for weight, index in zip(weights.T, indices.T, strict=True):
        total += weight[:, None] * vectors[index]
    return unit(total)


def _first(found: np.ndarray, taken: Sequence[Sequence[int]], count: int) -> list[list[int]]:
    """Of each row the first `count` indices, each once, without those that are taken and the graph's -1."""
    return [
        [index for index in dict.fromkeys(row) if index >= 0 and index not in done][:count]
        for row, done in zip(found.tolist(), map(frozenset, taken), strict=True)
    ]


def unit(vectors: np.ndarray) -> np.ndarray:
    """Vectors of unit length along the last axis; zeros stay."""
    return vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-12)
