"""What the demo shows and hands out for a result: pictures, figures and files."""

from pathlib import Path

import numpy as np

from ripe import files
from ripe.demo.pipeline import MatchedPhotos
from ripe.drawing import GAP, View, draw_view, save_picture
from ripe.extract_many import Extraction
from ripe.storage import FeatureFile, MatchFile
from ripe.two_views import LONG_SIDE

STAGES = ("load", "read", "extract", "match", "geometry")
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


def figures(result: MatchedPhotos) -> list[tuple[str, str]]:
    """Names and values of what is counted and timed."""
    counts = [len(view.features) for view in result.views]
    inliers, matches = result.geometry.num_inliers, len(result.matches)
    ratio = f" ({inliers / matches:.0%} of the matches)" if matches else ""
    missing = "" if result.geometry.model is not None else ": no geometry fits"
    times = [
        f"{stage} {result.milliseconds[stage]:.0f} ms" if stage in result.milliseconds else f"{stage} kept"
        for stage in STAGES
    ]
    return [
        ("Verdict", str(result.verdict)),
        ("Keypoints", f"{counts[0]} and {counts[1]}"),
        ("Matches", str(matches)),
        ("Inliers", f"{inliers}{ratio}{missing}"),
        ("Times", ", ".join(times)),
    ]


def write_files(result: MatchedPhotos, picture: np.ndarray, folder: Path) -> list[Path]:
    """Write the picture, the JSON of `ripe match --json`, and hloc's feature and match files into a folder."""
    paths = [folder / name for name in ("matches.png", "matches.json", "features.h5", "matches.h5")]
    save_picture(picture, paths[0])
    files.write_json(paths[1], result.document())
    view0, view1 = result.views
    name0, name1 = _distinct_names(view0.name, view1.name)
    settings = {key: value for key, value in result.document()["settings"].items() if key != "inlier_threshold"}
    with FeatureFile(paths[2], settings) as features:
        for name, view in ((name0, view0), (name1, view1)):
            extraction = Extraction(view.features, min(LONG_SIDE, max(view.features.image_size)))
            features.add({name: view.features}, {name: extraction.uncertainty})
    with MatchFile(paths[3], settings) as matches:
        matches.add({(name0, name1): (result.matches, len(view0.features), len(view1.features))})
    return paths


def _distinct_names(name0: str, name1: str) -> tuple[str, str]:
    """The names of both photos, told apart by a folder where they are the same."""
    return (name0, name1) if name0 != name1 else (f"0/{name0}", f"1/{name1}")
