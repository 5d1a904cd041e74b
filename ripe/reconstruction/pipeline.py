"""From a folder of photos to a sparse model: features, pairs, matches, verification, mapping.

Features and matches are kept in files that a later run continues. The database and the model are made anew in every
run, and a model is put in place only when it is whole.
"""

import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from ripe.extractors import Extractor
from ripe.integrations import colmap
from ripe.reconstruction import matches
from ripe.reconstruction.pairs import Pair
from ripe.storage import FeatureFile, FeatureReader, MatchFile, read_matches

if TYPE_CHECKING:
    import pycolmap

Report = Callable[[str, int, int], object]
"""Called with a stage, how much of it is done, and of how much."""
ChoosePairs = Callable[[FeatureReader, Sequence[str]], Sequence[Pair]]
"""Pairs of the named images, whose features can be looked at."""


@dataclass(frozen=True)
class Source:
    """Where features come from.

    Attributes:
        name: of the extractor; a folder is named after it.
        extract: gives a photo's features.
        settings: what the features depend on; stored with them, and a later run must agree.
        max_side: longer sides are shrunk to this many pixels by `extract`.
    """

    name: str
    extract: Extractor
    settings: Mapping[str, Any]
    max_side: int


@dataclass(frozen=True)
class Summary:
    """Figures of a reconstruction.

    Attributes:
        extractor: name of the features' source.
        photos: how many photos there are, unreadable ones included.
        registered: photos in the model with most of them.
        points: its 3D points.
        observations: keypoints that see them.
        mean_track_length: observations per point; None without points.
        mean_reprojection_error: mean over points of the error that COLMAP keeps with each, in pixels; None without.
        pairs: how many pairs of photos were matched.
        verified_pairs: pairs with a two-view geometry.
        models: separate models that COLMAP found.
        failures: why photos or pairs were left out, by name.
    """

    extractor: str
    photos: int
    registered: int
    points: int
    observations: int
    mean_track_length: float | None
    mean_reprojection_error: float | None
    pairs: int
    verified_pairs: int
    models: int
    failures: dict[str, str]


def reconstruct(
    folder: Path,
    names: Sequence[str],
    source: Source,
    output: Path,
    choose_pairs: ChoosePairs,
    *,
    single_camera: bool = False,
    device: torch.device | str = "cpu",
    report: Report = lambda stage, done, total: None,
) -> Summary:
    """Reconstruct photos with one extractor.

    Writes to `output`: features.h5 and matches.h5 (hloc's layout), database.db (COLMAP's), and if at least two photos
    register, the model with most photos as sparse/*.bin and its points as points.ply.

    Args:
        folder: of the photos.
        names: paths relative to it.
        source: of the features.
        output: folder; made if it is not there.
        choose_pairs: which pairs are matched.
        single_camera: all photos of one size share one camera.
        device: where descriptors are compared.
        report: told about progress.

    Raises:
        ValueError: pycolmap is missing, fewer than two photos are readable, or `output` holds features of other
            settings.
    """
    colmap.import_pycolmap()  # before hours of work
    output.mkdir(parents=True, exist_ok=True)
    features_path, matches_path = output / "features.h5", output / "matches.h5"
    failures = _extract(folder, names, source, features_path, report)
    with FeatureReader(features_path) as features:
        readable = [name for name in names if name not in failures]
        if len(readable) < 2:
            raise ValueError(f"{folder}: {len(readable)} of {len(names)} photos could be read; two or more are needed")
        pairs = choose_pairs(features, readable)
        failures |= _match(features, pairs, matches_path, device, report)
        database = output / "database.db"
        left_out = colmap.write_database(
            database,
            folder,
            {name: features.read(name) for name in readable},
            read_matches(matches_path, pairs),
            single_camera=single_camera,
        )
    failures |= dict.fromkeys(left_out, "COLMAP cannot read this file")
    verified = colmap.verify(database)
    models = _map(database, folder, output, len(readable), report)
    best = models[0] if models else None
    points = 0 if best is None else best.num_points3D()
    return Summary(
        extractor=source.name,
        photos=len(names),
        registered=0 if best is None else best.num_reg_images(),
        points=points,
        observations=0 if best is None else best.compute_num_observations(),
        mean_track_length=best.compute_mean_track_length() if best is not None and points else None,
        mean_reprojection_error=best.compute_mean_reprojection_error() if best is not None and points else None,
        pairs=len(pairs),
        verified_pairs=verified,
        models=len(models),
        failures=failures,
    )


def _extract(folder: Path, names: Sequence[str], source: Source, path: Path, report: Report) -> dict[str, str]:
    """Store the features of all photos; why some have none is returned."""
    failures: dict[str, str] = {}
    with FeatureFile(path, source.settings) as store:
        for count, name in enumerate(names, start=1):
            if name not in store.done:
                try:
                    name.encode()  # HDF5 and COLMAP name things in UTF-8; a UnicodeEncodeError is a ValueError
                    found = source.extract(folder / name)
                except (OSError, ValueError) as error:
                    failures[name] = str(error).removeprefix(f"{folder / name}: ")
                else:
                    store.add({name: found}, {name: max(1.0, max(found.image_size) / source.max_side)})
            report("extract", count, len(names))
    return failures


def _match(
    features: FeatureReader, pairs: Sequence[Pair], path: Path, device: torch.device | str, report: Report
) -> dict[str, str]:
    done = 0

    def progress() -> None:
        nonlocal done
        done += 1
        report("match", done, len(pairs))

    with MatchFile(path, {**matches.SETTINGS, **features.settings}) as store:
        missing = matches.match_pairs(features, pairs, store, device=device, progress=progress)
    return {name: f"in {count} pairs, but there are no features of it" for name, count in missing.items()}


def _map(database: Path, folder: Path, output: Path, photos: int, report: Report) -> list["pycolmap.Reconstruction"]:
    """COLMAP's models, that with most photos first, which is written to `output` in place of an older one."""
    model, cloud = output / "sparse", output / "points.ply"
    shutil.rmtree(model, ignore_errors=True)
    cloud.unlink(missing_ok=True)
    registered = 0

    def progress(new: int) -> None:
        nonlocal registered
        registered += new
        report("map", min(registered, photos), photos)

    with tempfile.TemporaryDirectory(dir=output, prefix=".mapping-") as scratch:
        models = colmap.map_incrementally(database, folder, Path(scratch), progress)
        if models:
            whole = Path(scratch) / "best"
            whole.mkdir()
            models[0].write(whole)
            models[0].export_PLY(Path(scratch) / cloud.name)
            (Path(scratch) / cloud.name).replace(cloud)
            whole.replace(model)
    return models
