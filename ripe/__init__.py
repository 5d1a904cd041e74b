"""RIPE: keypoints and descriptors learnt from unlabeled image pairs.

    import ripe

    model = ripe.load()
    features0, features1 = model.extract(["left.jpg", "right.jpg"])
    matches = ripe.match(features0, features1)

The names below are imported at first use, so that `ripe --help` does not wait for PyTorch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ripe.alignment import Alignment as Alignment
    from ripe.alignment import align as align
    from ripe.attempts import MatchedPhotos as MatchedPhotos
    from ripe.attempts import match_photos as match_photos
    from ripe.feature_arrays import load_features as load_features
    from ripe.features import Features as Features
    from ripe.features import Matches as Matches
    from ripe.features import TwoViewGeometry as TwoViewGeometry
    from ripe.geometry.robust import estimate_geometry as estimate_geometry
    from ripe.geometry.verdict import UnrelatedPhotosError as UnrelatedPhotosError
    from ripe.geometry.verdict import Verdict as Verdict
    from ripe.geometry.verdict import judge as judge
    from ripe.matchers import Matcher as Matcher
    from ripe.matchers import load_matcher as load_matcher
    from ripe.matching import match as match
    from ripe.model import RIPE as RIPE
    from ripe.pretrained import load as load
    from ripe.pretrained import save_weights as save_weights
    from ripe.pretrained import vgg_hyper as vgg_hyper
    from ripe.stitching import Panorama as Panorama
    from ripe.stitching import stitch as stitch

    __version__: str

_HOMES = {
    "Alignment": "ripe.alignment",
    "Features": "ripe.features",
    "MatchedPhotos": "ripe.attempts",
    "Matcher": "ripe.matchers",
    "Matches": "ripe.features",
    "Panorama": "ripe.stitching",
    "RIPE": "ripe.model",
    "TwoViewGeometry": "ripe.features",
    "UnrelatedPhotosError": "ripe.geometry.verdict",
    "Verdict": "ripe.geometry.verdict",
    "align": "ripe.alignment",
    "estimate_geometry": "ripe.geometry.robust",
    "judge": "ripe.geometry.verdict",
    "load": "ripe.pretrained",
    "load_matcher": "ripe.matchers",
    "load_features": "ripe.feature_arrays",
    "match": "ripe.matching",
    "match_photos": "ripe.attempts",
    "save_weights": "ripe.pretrained",
    "stitch": "ripe.stitching",
    "vgg_hyper": "ripe.pretrained",
}

__all__ = [*_HOMES, "__version__"]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return _version()
    if name in _HOMES:
        try:
            home = import_module(_HOMES[name])
        except ModuleNotFoundError as error:
            if error.name is None or error.name.startswith("ripe"):
                raise
            message = f"ripe.{name} needs {error.name}, which is not installed; `ripe.runtime` does without PyTorch"
            raise ImportError(message, name=error.name) from error
        return getattr(home, name)
    raise AttributeError(f"module 'ripe' has no attribute {name!r}")


def _version() -> str:
    """Of the distribution that brought the package: the whole one, or the one without PyTorch."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("ripe-keypoints")
    except PackageNotFoundError:
        return version("ripe-keypoints-onnx")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
