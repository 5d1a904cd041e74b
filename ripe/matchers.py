"""Learned matchers: how they match two images' features, and how their weights are loaded and saved."""

import json
from collections.abc import Sequence
from importlib import resources
from pathlib import Path

import torch
from torch.nn.utils.rnn import pad_sequence

from ripe import checks
from ripe.download import check_sha256
from ripe.features import Features, Matches
from ripe.filters import MIN_SCORE
from ripe.networks.lightglue import LightGlue, Points, normalised
from ripe.pretrained import usable_device
from ripe.stored_weights import build_for, describing, hash_of, read_metadata, read_weights, write_weights

ARCHITECTURE = "lightglue"
RELATED = {
    "compact": "28d6ad849cdbafae146ee8af337ecd45df2864fa320cdf088e72244b123dfe9c",
    "robust": "2e31af92668c35c70dd31144eeff31d6e2922887127e9e8ab1ee4db6e752e991",
}
"""Models that describe alike, and the hashes of their weights: features of one match those of another, and a matcher of
one serves the others (docs/experiments.md)."""
MATCHERS = dict.fromkeys(RELATED, "lightglue.safetensors")
"""The matchers that come with the package, by the extractor that they are for: one serves all."""
SHA256 = dict.fromkeys(RELATED, "066a5a8b1140495c1382f94e3ac953e150ef2b927e45adcb99d6a09f32ce1084")
"""Of their files."""


class Matcher:
    """A trained LightGlue; made by `load_matcher`.

    Attributes:
        network: in evaluation mode.
        extractor: hash of the weights whose descriptors it knows (`ripe.pretrained.weights_hash`).
    """

    def __init__(self, network: LightGlue, extractor: str) -> None:
        self.network = network.eval()
        self.extractor = extractor

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        return next(self.network.parameters()).device

    def knows(self, extractor: str) -> bool:
        """Whether it was trained for features of the weights with this hash, or of weights that describe alike."""
        return extractor == self.extractor or {extractor, self.extractor} <= set(RELATED.values())

    def settings(self) -> dict[str, str]:
        """What its matches depend on beside the features."""
        return {"matcher_weights": hash_of(ARCHITECTURE, self.network.state_dict())}

    def __call__(self, features0: Features, features1: Features, *, min_score: float = MIN_SCORE) -> Matches:
        """Match two images' features; no keypoint is in two matches.

        Args:
            features0: of the first image, from the extractor that the matcher was trained for.
            features1: of the second image.
            min_score: least probability of a match, 0..1.

        Returns:
            Matches on the features' device; their scores are probabilities.

        Raises:
            ValueError: these are not the features of two images, or their descriptors are not of the length that the
                matcher knows.
        """
        for name, features in (("features0", features0), ("features1", features1)):
            checks.features(features, name)
            length, known = features.descriptors.shape[1], self.network.descriptor_dim
            if length != known:
                raise ValueError(
                    f"{name}: the matcher is for descriptors of {known} numbers, these have {length}; extract the "
                    "images with the model that it was trained for"
                )
        indices, scores = self.network.match(*(as_points([side], self.device) for side in (features0, features1)))
        kept, place = scores >= min_score, features0.keypoints.device
        return Matches(indices[kept].to(place), scores[kept].to(place))


def as_points(features: Sequence[Features], device: torch.device) -> Points:
    """The features of several images as a matcher takes them, filled up to the same number of keypoints."""
    positions = [normalised(each.keypoints.to(device).float(), each.image_size) for each in features]
    descriptors = [each.descriptors.to(device).float() for each in features]
    present = [torch.ones(len(each), dtype=torch.bool, device=device) for each in features]
    if len({len(each) for each in features}) == 1:
        return Points(torch.stack(positions), torch.stack(descriptors))
    return Points(*(pad_sequence(parts, batch_first=True) for parts in (positions, descriptors, present)))


def shipped(name: str) -> Path:
    """Where the weights of one of `MATCHERS` are."""
    return Path(str(resources.files("ripe") / "weights" / MATCHERS[name]))


def load_matcher(name_or_path: str | Path = "compact", *, device: str | torch.device | None = None) -> Matcher:
    """A trained matcher.

    Args:
        name_or_path: "compact" or "robust", which is one and the same for the descriptors of both, or a weights file.
        device: where it computes; a GPU if there is one, otherwise the CPU, if None.

    Raises:
        ValueError: unknown name, a device that is not there, or a file that is damaged or not a matcher's.
        FileNotFoundError: the file does not exist.
    """
    place = usable_device(device)
    name = str(name_or_path)
    path = Path(name_or_path)
    if name in MATCHERS:
        path = shipped(name)
    elif not path.suffix and len(path.parts) == 1 and not path.is_file():
        raise ValueError(f"unknown matcher {name!r}; give {', '.join(MATCHERS)} or the path of a weights file")
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such weights file")
    if name in MATCHERS:
        check_sha256(path, SHA256[name])
    if not is_matcher(path):
        raise ValueError(f"{path}: not the weights of a matcher")
    state, metadata = read_weights(path)
    with describing(path):
        options, extractor = json.loads(metadata["options"]), metadata["extractor"]
    network = build_for(lambda: LightGlue(**options), state, path, "the matcher that the file names")
    return Matcher(network.to(place), extractor)


def is_matcher(path: Path) -> bool:
    """Whether a file holds the weights of a matcher; no if there is none."""
    return path.is_file() and read_metadata(path).get("architecture") == ARCHITECTURE


def save_matcher(matcher: Matcher, path: str | Path, *, dtype: torch.dtype = torch.float32) -> None:
    """Write a matcher so that `load_matcher(path)` gives it back; arguments and errors as `ripe.save_weights`."""
    metadata = {
        "architecture": ARCHITECTURE,
        "options": json.dumps(matcher.network.options()),
        "extractor": matcher.extractor,
    }
    write_weights(matcher.network.state_dict(), path, metadata, dtype)
