"""What the demo shows and hands out for a result: pictures, figures and files."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from ripe import files
from ripe.demo.pipeline import MatchedPhotos
from ripe.drawing import GAP, View, draw_view, save_picture
from ripe.extract_many import Extraction
from ripe.geometry.homography import resizing_matrix
from ripe.geometry.verdict import WORDS, Verdict
from ripe.geometry.warping import picture_of, warp
from ripe.matching import matching_settings
from ripe.storage import FeatureFile, MatchFile
from ripe.two_views import LONG_SIDE

STAGES = {"extract": "extract", "match": "match", "geometry": "fit"}
"""Stages of the pipeline whose times are shown, with their verbs."""
SIGNS = {"matched": "✓", "doubtful": "?", "chance": "✗"}
REMARKS = {
    "matched": ".",
    "doubtful": ": more than chance mostly gives. Look at the lines before you believe it.",
    "chance": ", as many as of photos that do not belong together, however they are turned.",
}
MODEL_WORDS = {"fundamental": "epipolar geometry", "homography": "homography"}
MAX_WIDTH = 2 * LONG_SIDE + GAP  # so that no pixel that the network saw is lost


def pictures(result: MatchedPhotos) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Keypoints; all matches, those against the geometry in red; inlier matches. Each H×W×3 uint8 RGB.

    The inliers' colour tells the verdict.
    """
    images = [view.shown.float() / 255 for view in result.views]
    keypoints = [view.on_shown(view.features.keypoints) for view in result.views]
    points = [view.on_shown(matched) for view, matched in zip(result.views, result.points, strict=True)]

    def draw(view: View) -> np.ndarray:
        return draw_view(view, images, keypoints, points, result.geometry, result.verdict, max_width=MAX_WIDTH)

    return draw("keypoints"), draw("matches"), draw("inliers")


def figures(results: Mapping[str, MatchedPhotos]) -> list[tuple[str, ...]]:
    """Rows of what is counted and timed: a name, and a value for each of the results."""
    columns = []
    for result in results.values():
        counts = [len(view.features) for view in result.views]
        inliers, matches = result.geometry.num_inliers, len(result.matches)
        share = f" ({inliers / matches:.0%})" if matches else ""
        spent = result.milliseconds
        times = {
            f"Time to {verb}": f"{spent[stage]:.0f} ms" if stage in spent else "kept" for stage, verb in STAGES.items()
        }
        columns.append(
            {
                "Verdict": f"{SIGNS[result.verdict.name]} {result.verdict}",
                "Keypoints": f"{counts[0]} and {counts[1]}",
                "Matches": str(matches),
                "Inliers": f"{inliers}{share}" if result.geometry.model is not None else "0: no geometry fits",
                "Within": f"{result.geometry.max_error:.3g} px",
            }
            | times
        )
    return [(name, *(column[name] for column in columns)) for name in columns[0]]


def banner(result: MatchedPhotos) -> str:
    """The verdict as HTML, told by a sign and in words as well as by its class, which gives it a colour."""
    name, inliers, matches = result.verdict.name, result.geometry.num_inliers, len(result.matches)
    agree = f"{inliers} of {matches} matches agree with one {MODEL_WORDS[result.geometry.kind]}"
    if name != "chance":
        agree += _how_seen(result)
    return (
        f'<div class="verdict {name}"><span class="sign" aria-hidden="true">{SIGNS[name]}</span>'
        f"<strong>{WORDS[name].capitalize()}</strong> <span>{agree}{REMARKS[name]}</span></div>"
    )


def _how_seen(result: MatchedPhotos) -> str:
    """What had to be done to the photos; nothing where they were matched as they are."""
    turned = f", the first photo turned by {90 * result.quarter_turns}° counter-clockwise"
    return (turned if result.quarter_turns else "") + (", seen at several scales" if len(result.scales) > 1 else "")


@dataclass(frozen=True)
class Aligned:
    """The second photo in the first one's frame, as `ripe.align` does it, in the size in which both are shown.

    Attributes:
        ground: the first photo, H×W×3 uint8.
        warped: the second one, H×W×3 uint8; black where it does not reach.
        valid: H×W bool, True where it does.
        verdict: on the homography: "matched" or "doubtful".
    """

    ground: np.ndarray
    warped: np.ndarray
    valid: np.ndarray
    verdict: Verdict


def align(result: MatchedPhotos) -> Aligned | None:
    """The photos laid on each other; None if a homography is no better than chance."""
    geometry, verdict = result.homography
    if geometry.model is None or verdict.name == "chance":
        return None
    ground, upper = (picture_of(view.shown) for view in result.views)
    sizes = [(picture.shape[1], picture.shape[0]) for picture in (ground, upper)]
    scales = [resizing_matrix(view.features.image_size, size) for view, size in zip(result.views, sizes, strict=True)]
    warped, valid = warp(upper, scales[1] @ geometry.model @ torch.linalg.inv(scales[0]), sizes[0])
    return Aligned(ground, warped, valid, verdict)


def write_files(result: MatchedPhotos, picture: np.ndarray, folder: Path) -> list[Path]:
    """Write the picture, the JSON of `ripe match --json`, and hloc's feature and match files into a folder."""
    paths = [folder / name for name in ("matches.png", "matches.json", "features.h5", "matches.h5")]
    save_picture(picture, paths[0])
    files.write_json(paths[1], result.document())
    view0, view1 = result.views
    name0, name1 = _distinct_names(view0.name, view1.name)
    with FeatureFile(paths[2], result.made_by) as features:
        for name, view in ((name0, view0), (name1, view1)):
            extraction = Extraction(view.features, min(LONG_SIDE, max(view.features.image_size)))
            features.add({name: view.features}, {name: extraction.uncertainty})
    with MatchFile(paths[3], {**result.made_by, **matching_settings(result.settings.how)}) as matches:
        matches.add({(name0, name1): (result.matches, len(view0.features), len(view1.features))})
    return paths


def _distinct_names(name0: str, name1: str) -> tuple[str, str]:
    """The names of both photos, told apart by a folder where they are the same."""
    return (name0, name1) if name0 != name1 else (f"0/{name0}", f"1/{name1}")
