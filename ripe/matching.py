"""Matching of descriptors."""

from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from ripe import checks
from ripe.features import Features, Matches
from ripe.filters import MatchFilter, Method
from ripe.matchers import MATCHERS, Matcher, load_matcher

Match = Callable[[Features, Features], Matches]
"""What matches two images' features."""
BLOCK = 2**24
"""Similarities that are held at a time: 64 MiB, which 4096 by 4096 keypoints fill."""
SHARPNESS = 4
FRAME = 8.0  # kornia's matchers want a scale; ours is the same everywhere, which leaves it without effect


class Nearest(NamedTuple):
    """The nearest neighbour of each descriptor of one image in the other one.

    Attributes:
        at: N int64, which it is; of several equally near ones the first.
        similarity: N, cosine to it.
        second: N, cosine to the second nearest, −inf where there is none; None if it is not asked for.
    """

    at: Tensor
    similarity: Tensor
    second: Tensor | None


def mutual_nearest_neighbours(descriptors0: Tensor, descriptors1: Tensor) -> tuple[Tensor, Tensor]:
    """Pairs of descriptors that are each other's nearest.

    Args:
        descriptors0: N0×D, of unit length.
        descriptors1: N1×D, of unit length.

    Returns:
        K×2 int64 indices, ordered by the first column, and their K cosine similarities. Of several equally near
        neighbours the first counts.

    Raises:
        ValueError: they cannot be compared: D, type or device differ.
    """
    _check_comparable(descriptors0, descriptors1)
    if len(descriptors0) == 0 or len(descriptors1) == 0:
        return descriptors0.new_zeros((0, 2), dtype=torch.int64), descriptors0.new_zeros(0)
    forward, backward = nearest_neighbours(descriptors0, descriptors1)
    return _mutual(forward, backward)


def similarity(descriptors0: Tensor, descriptors1: Tensor) -> float:
    """How much two images resemble each other by their descriptors, 0 or more; both are of unit length.

    It is a sum over mutual nearest neighbours of a steep function of the cosine, so that a few good matches count most.
    """
    _, cosines = mutual_nearest_neighbours(descriptors0, descriptors1)
    return float(cosines.clamp(min=0).pow(SHARPNESS).sum())


def nearest_neighbours(
    descriptors0: Tensor, descriptors1: Tensor, *, seconds: bool = False, block: int = BLOCK
) -> tuple[Nearest, Nearest]:
    """The nearest neighbours of both images' descriptors, by a part of the similarities at a time.

    Args:
        descriptors0: N0×D, of unit length, N0 of 1 or more.
        descriptors1: N1×D, of unit length, N1 of 1 or more.
        seconds: whether the second nearest are looked for, too.
        block: how many similarities are held at a time; at least those of one descriptor, and two or three times as
            many where seconds are looked for.

    Returns:
        Of the first image's descriptors in the second, and of the second's in the first.
    """
    rows = max(1, block // len(descriptors1))
    parts: list[Nearest] = []
    backward: Nearest | None = None
    for start in range(0, len(descriptors0), rows):
        similarity = descriptors0[start : start + rows] @ descriptors1.T
        parts.append(_nearest(similarity, 1, seconds))
        below = _nearest(similarity.detach(), 0, seconds)
        below = below._replace(at=below.at + start)
        backward = below if backward is None else _nearer(backward, below)
    assert backward is not None
    at, similar = torch.cat([part.at for part in parts]), torch.cat([part.similarity for part in parts])
    found = [part.second for part in parts if part.second is not None]
    return Nearest(at, similar, torch.cat(found) if found else None), backward


def match(
    features0: Features,
    features1: Features,
    *,
    method: Method = "mutual",
    ratio: float | None = None,
    min_similarity: float = -1.0,
    matcher: str | Path | None = None,
    min_score: float | None = None,
) -> Matches:
    """Match two images' features; no keypoint is in two matches.

    Mutual nearest neighbours, with a ratio or not, are found by a part of the similarities at a time: 50 000 by 50 000
    keypoints take less than 200 MiB. kornia's methods hold all similarities, four bytes each, several times.

    Args:
        features0: features of the first image.
        features1: features of the second image, from the same model.
        method: "mutual", "fginn", "adalam" or "lightglue"; see `ripe.filters.MatchFilter`.
        ratio: most that the distance to the nearest descriptor may be of that to the second nearest, 0..1; of "mutual"
            in both directions, where there are two or more keypoints in both images.
        min_similarity: drop matches with a lower cosine similarity (−1..1).
        matcher: of "lightglue": "compact", for the features of "compact" and "robust", or a weights file. It is loaded
            once and kept.
        min_score: of "lightglue": drop matches with a lower probability (0..1); 0.1 if None.

    Returns:
        The matches; scores are cosine similarities, or probabilities of "lightglue".

    Raises:
        ValueError: these are not the features of two images, hold NaN, or cannot be compared, as descriptors of two
            models cannot; the filter is none; or it is kornia's, which is not installed.
        FileNotFoundError: there is no such weights file.
    """
    name = None if matcher is None else str(matcher)
    return filtered_match(features0, features1, MatchFilter(method, ratio, min_similarity, name, min_score))


def filtered_match(features0: Features, features1: Features, how: MatchFilter) -> Matches:
    """`match` with its settings in one."""
    checks.features(features0, "features0")
    checks.features(features1, "features1")
    descriptors0, descriptors1 = features0.descriptors, features1.descriptors
    _check_comparable(descriptors0, descriptors1)
    if how.method == "lightglue":
        assert how.matcher is not None
        assert how.min_score is not None
        return _learned(how.matcher, descriptors0.device)(features0, features1, min_score=how.min_score)
    tests_ratios = how.method != "mutual" or how.ratio is not None
    if min(len(features0), len(features1)) < (2 if tests_ratios else 1):
        return Matches(descriptors0.new_zeros((0, 2), dtype=torch.int64), descriptors0.new_zeros(0))
    if how.method == "mutual":
        forward, backward = nearest_neighbours(descriptors0, descriptors1, seconds=how.ratio is not None)
        indices, scores = _mutual(forward, backward)
        if how.ratio is not None:
            passed = _passes(forward, how.ratio)[indices[:, 0]] & _passes(backward, how.ratio)[indices[:, 1]]
            indices, scores = indices[passed], scores[passed]
    else:
        indices, scores = _match_by_kornia(features0, features1, how)
    kept = scores >= how.min_similarity
    return Matches(indices[kept], scores[kept])


def matching_settings(how: MatchFilter) -> dict[str, str]:
    """What matches depend on beside the features, in words, for files that hold some."""
    settings = {"matcher": str(how)}
    if how.method == "lightglue":
        assert how.matcher is not None
        settings |= _learned(how.matcher, torch.device("cpu")).settings()
    return settings


def check_usable(how: MatchFilter, extractor: str | None = None) -> None:
    """Raise a `ValueError` if a filter is kornia's, which is not installed, or a matcher that does not fit.

    Args:
        how: the filter.
        extractor: hash of the weights that the features are of (`ripe.pretrained.weights_hash`); None if not known.

    Raises:
        ValueError: the message says what to do.
        FileNotFoundError: there is no such weights file of a matcher.
    """
    if how.method == "lightglue":
        assert how.matcher is not None
        matcher = _learned(how.matcher, torch.device("cpu"))
        if extractor is not None and not matcher.knows(extractor):
            whose = f"the model {how.matcher}, not of these" if how.matcher in MATCHERS else "other weights than these"
            raise ValueError(
                f"the matcher {how.matcher} was trained for the features of {whose}; extract with that model, train a "
                "matcher for these (ripe train --config-name matcher), or take the method mutual"
            )
    if how.method in ("fginn", "adalam"):
        try:
            import kornia.feature  # noqa: F401
        except ImportError as error:
            message = f"method {how.method} needs kornia: pip install 'ripe-keypoints[eval]' ({error})"
            raise ValueError(message) from error


@lru_cache(maxsize=4)
def _learned(name: str, device: torch.device) -> Matcher:
    return load_matcher(name, device=device)


def _nearest(similarity: Tensor, dim: int, seconds: bool) -> Nearest:
    best, index = similarity.max(dim=dim)
    if not seconds:
        return Nearest(index, best, None)
    others = similarity.scatter(dim, index.unsqueeze(dim), -torch.inf)
    return Nearest(index, best, others.amax(dim=dim))


def _nearer(first: Nearest, later: Nearest) -> Nearest:
    """The nearer of two neighbours of the same descriptors; the first if they are equally near."""
    is_later = later.similarity > first.similarity
    index = torch.where(is_later, later.at, first.at)
    similarity = torch.maximum(first.similarity, later.similarity)
    if first.second is None or later.second is None:
        return Nearest(index, similarity, None)
    loser = torch.minimum(first.similarity, later.similarity)
    return Nearest(index, similarity, torch.stack([first.second, later.second, loser]).amax(dim=0))


def _mutual(forward: Nearest, backward: Nearest) -> tuple[Tensor, Tensor]:
    index0 = torch.arange(len(forward.at), device=forward.at.device)
    mutual = backward.at[forward.at] == index0
    return torch.stack([index0[mutual], forward.at[mutual]], dim=-1), forward.similarity[mutual]


def _passes(nearest: Nearest, ratio: float) -> Tensor:
    """Lowe's test. Two neighbours at distance 0 are as ambiguous as can be, and 0/0 passes no comparison."""
    assert nearest.second is not None
    distances = [(2 - 2 * cosine).clamp(min=0).sqrt() for cosine in (nearest.similarity, nearest.second)]
    return distances[0] / distances[1] <= ratio


def _match_by_kornia(features0: Features, features1: Features, how: MatchFilter) -> tuple[Tensor, Tensor]:
    check_usable(how)
    from kornia.feature import match_adalam, match_fginn

    descriptors0, descriptors1 = features0.descriptors, features1.descriptors
    frames0, frames1 = (upright_frames(features.keypoints, FRAME)[None] for features in (features0, features1))
    if how.method == "fginn":
        assert how.ratio is not None
        _, indices = match_fginn(descriptors0, descriptors1, frames0, frames1, th=how.ratio, mutual=True)
    else:
        size0, size1 = features0.image_size[::-1], features1.image_size[::-1]
        # Its sampling draws from PyTorch's own generator, which belongs to the caller.
        with torch.random.fork_rng([descriptors0.device] if descriptors0.is_cuda else []):
            torch.manual_seed(0)
            _, indices = match_adalam(descriptors0, descriptors1, frames0, frames1, hw1=size0, hw2=size1)
    scores = (descriptors0[indices[:, 0]] * descriptors1[indices[:, 1]]).sum(dim=-1)
    return _one_to_one(indices, scores)


def upright_frames(keypoints: Tensor, scale: float | Tensor) -> Tensor:
    """kornia's local affine frames N×2×3 of N×2 keypoints: upright, `scale` (one number or N) pixels."""
    sizes = torch.as_tensor(scale, dtype=keypoints.dtype, device=keypoints.device).expand(len(keypoints))
    axes = torch.diag_embed(sizes[:, None].expand(-1, 2))
    return torch.cat([axes, keypoints[:, :, None]], dim=2)


def _one_to_one(indices: Tensor, scores: Tensor) -> tuple[Tensor, Tensor]:
    """Of the matches that share a keypoint of the second image, the most similar one; ordered by the first column."""
    order = scores.argsort(descending=True, stable=True)
    order = order[indices[order, 1].argsort(stable=True)]
    second = indices[order, 1]
    is_first = torch.ones_like(second, dtype=torch.bool)
    is_first[1:] = second[1:] != second[:-1]
    kept = order[is_first]
    kept = kept[indices[kept, 0].argsort()]
    return indices[kept], scores[kept]


def _check_comparable(descriptors0: Tensor, descriptors1: Tensor) -> None:
    if descriptors0.shape[1] != descriptors1.shape[1]:
        raise ValueError(
            f"descriptors of {descriptors0.shape[1]} and {descriptors1.shape[1]} numbers cannot be matched; extract "
            "both images with the same model"
        )
    for name in ("device", "dtype"):
        kinds = getattr(descriptors0, name), getattr(descriptors1, name)
        if kinds[0] != kinds[1]:
            raise ValueError(f"descriptors of {name} {kinds[0]} and {kinds[1]} cannot be matched; use `Features.to`")
