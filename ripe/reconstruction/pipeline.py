"""From a folder of photos to a sparse model: features, pairs, matches, verification, mapping.

Features and matches are kept in files that a later run continues. The database and the model are made anew in every
run, and a model is put in place only when it is whole.
"""

import shutil
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from ripe.attempts import DescribeTurned, TurnedFeatures, attempt_match, best_of, try_turns
from ripe.extract_many import Extract, extract_many
from ripe.features import Features, Matches
from ripe.files import locked, scratch
from ripe.filters import MUTUAL, MatchFilter
from ripe.folders import masks_below
from ripe.integrations import colmap
from ripe.match_many import MatchPair, match_many
from ripe.matching import check_usable, matching_settings
from ripe.pairing.choice import PairChoice
from ripe.pairing.choose import choose_pairs
from ripe.reconstruction.mapping import Mapper, check_mapper, map_photos
from ripe.reconstruction.verification import verify
from ripe.reconstruction.viewer import write_viewer
from ripe.storage import (
    FeatureFile,
    FeatureReader,
    MatchFile,
    Pair,
    check_distinct,
    check_distinct_names,
    read_matches,
    stored_pairs,
    stored_side,
)
from ripe.two_views import Rotations, inlier_threshold

if TYPE_CHECKING:
    import pycolmap

Report = Callable[[str, int, int], object]
"""Called with a stage, how much of it is done, and of how much."""

MODEL = "sparse"


@dataclass(frozen=True)
class Source:
    """Where features come from.

    Attributes:
        name: of the extractor; a folder is named after it.
        extract: gives photos' features.
        settings: what the features depend on; stored with them, and a later run must agree.
        masks: folder of masks (see `ripe.folders.masks_below`); no keypoint lies where a photo's mask is zero.
        seen_side: longer side to which `extract` shrinks longer photos; None if it does not. Inlier thresholds follow.
        describe_turned: describes a photo's features as they look when it is turned (see `RIPE.describe_turned`); None
            where descriptors turn with the photo.
    """

    name: str
    extract: Extract
    settings: Mapping[str, Any]
    masks: Path | None = None
    seen_side: int | None = None
    describe_turned: DescribeTurned | None = None


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


@dataclass(frozen=True)
class MappingSettings:
    """How verified matches become a model.

    Attributes:
        mapper: COLMAP's incremental or global one.
        single_camera: all photos of one size share one camera.
        known_camera: that took all photos, and is kept as it is; COLMAP finds cameras from EXIF and the photos if None.
        single_threaded: let COLMAP's mapping run in one thread, so that equal input gives equal models.
    """

    mapper: Mapper = "incremental"
    single_camera: bool = False
    known_camera: colmap.KnownCamera | None = None
    single_threaded: bool = False


@dataclass(frozen=True)
class Matched:
    """Photos whose matches are in a file.

    Attributes:
        extractor: name of the features' source.
        photos: how many there are, unreadable ones included.
        features: of those that could be read, by name.
        path: match file.
        pairs: that were matched.
        by_chance: pairs (as sets of names) whose filtered matches are no better than chance, as all mutual nearest
            neighbours tell; those that a filter leaves would not.
        tries: of pairs (as sets of names), in how many ways they were matched, of which the best is there; 1 if absent.
        seen_side: longer side to which longer photos were shrunk for their features; None if they were not.
        failures: why photos or pairs were left out, by name.
    """

    extractor: str
    photos: int
    features: Mapping[str, Features]
    path: Path
    pairs: Sequence[Pair]
    by_chance: Set[frozenset[str]]
    tries: Mapping[frozenset[str], int]
    seen_side: int | None
    failures: dict[str, str]


def reconstruct(
    folder: Path,
    names: Sequence[str],
    source: Source,
    output: Path,
    pairs: Sequence[Pair] | PairChoice,
    *,
    settings: MappingSettings = MappingSettings(),
    match_filter: MatchFilter = MUTUAL,
    rotations: Rotations = "auto",
    overwrite: bool = False,
    device: torch.device | str = "cpu",
    report: Report = lambda stage, done, total: None,
) -> Summary:
    """Reconstruct photos with one extractor.

    Writes to `output`: features.h5 and matches.h5 (hloc's layout), database.db (COLMAP's), and if at least two photos
    register, the model with most photos as sparse/*.bin, its points as points.ply, and both to look at as model.html.

    Args:
        folder: of the photos.
        names: paths relative to it.
        source: of the features.
        output: folder; made if it is not there.
        pairs: which are matched, or how they are chosen.
        settings: of cameras and mapping.
        match_filter: how descriptors are matched.
        rotations: whether pairs are also matched with one photo turned by quarter turns: "auto" where they are no
            better than chance as they are, "all" always, "none" never. A turn that is no better either changes nothing.
        overwrite: extract and match anew.
        device: where descriptors are compared.
        report: told about progress.

    Raises:
        ValueError: pycolmap is missing or too old for the mapper, or kornia is, if `match_filter` is its; the known
            camera is none of these photos; two photos' names cannot be told apart in
            hloc's match files; there is no photo's mask where `source` has them, or fewer than two photos are readable;
            or `output` holds features of other settings.
    """
    # Before hours of work.
    _check(settings, folder, names)
    check_usable(match_filter)
    if isinstance(pairs, PairChoice):
        check_distinct_names(names)
    else:
        check_distinct(pairs)
    photos = {name: folder / name for name in names}
    masks = {} if source.masks is None else masks_below(source.masks, names)
    output.mkdir(parents=True, exist_ok=True)
    features_path, matches_path = output / "features.h5", output / "matches.h5"
    with FeatureFile(features_path, source.settings, overwrite=overwrite) as extracted:
        progress = _counted("extract", len(names), report)
        failures = extract_many(photos, source.extract, extracted, masks=masks, progress=progress)
    readable = [name for name in names if name not in failures]
    if len(readable) < 2:
        first = next(iter(failures.items()), None)
        reason = f" ({first[0]}: {first[1]})" if first else ""
        raise ValueError(
            f"{folder}: {len(readable)} of {len(names)} photos could be read{reason}; two or more are needed"
        )
    with FeatureReader(features_path) as features:
        turned = None
        if source.describe_turned is not None and rotations != "none":
            turned = TurnedFeatures(source.describe_turned, folder, features.read)
        if isinstance(pairs, PairChoice):
            chosen: Sequence[Pair] = choose_pairs(
                pairs,
                readable,
                read=features.read,
                turned=turned,
                folder=folder,
                failed=lambda name, error: failures.setdefault(name, str(error)),
                progress=_counted("describe", len(readable), report),
            )
        else:
            chosen = pairs
        match_pair = None
        by = {**matching_settings(match_filter), **features.settings}
        if turned is not None or match_filter != MUTUAL:
            match_pair = _judged(turned, source.seen_side, match_filter, rotations, device)
        if turned is not None:
            by["matcher"] += f", in quarter turns ({rotations})"
        with MatchFile(matches_path, by, overwrite=overwrite) as matched:
            failures |= _match(features, chosen, matched, match_filter, match_pair, device, report)
            notes = {frozenset(pair): matched.notes(*pair) for pair in chosen}
        everything = {name: features.read(name) for name in readable}
    filtered = match_filter != MUTUAL  # mutual nearest neighbours are judged with COLMAP's geometry
    known = Matched(
        source.name,
        len(names),
        everything,
        matches_path,
        chosen,
        {pair for pair, noted in notes.items() if filtered and noted.get("verdict") == "chance"},
        {pair: int(noted.get("tries", 1)) for pair, noted in notes.items()},
        source.seen_side,
        failures,
    )
    return _map(folder, known, output, settings, report)


def reconstruct_matched(
    folder: Path,
    features_path: Path,
    matches_path: Path,
    output: Path,
    pairs: Sequence[Pair] | None = None,
    *,
    settings: MappingSettings = MappingSettings(),
    report: Report = lambda stage, done, total: None,
) -> Summary:
    """Reconstruct photos whose features and matches are there, ours or hloc's; both files stay as they are.

    Args:
        folder: of the photos.
        features_path: feature file.
        matches_path: match file of these features.
        output: folder; made if it is not there. It gets what `reconstruct` writes but for features and matches.
        pairs: those that are looked at; None for all that the match file holds.
        settings: of cameras and mapping.
        report: told about progress.

    Raises:
        FileNotFoundError, ValueError: a file is missing or none of these; matches do not belong to the features; or
            pycolmap or the known camera cannot be used.
    """
    with FeatureReader(features_path) as reader:
        names = reader.names()
        _check(settings, folder, names)
        failures = {name: "there is no such photo" for name in names if not (folder / name).is_file()}
        features = {name: reader.read(name) for name in names if name not in failures}
        seen_side = stored_side(reader.settings)
    stored = stored_pairs(matches_path, set(names))
    wanted = list(stored) if pairs is None else list(pairs)
    tries = {frozenset(pair): int(notes.get("tries", 1)) for pair, notes in stored.items()}
    absent = [pair for pair in wanted if frozenset(pair) not in tries]
    failures |= {" and ".join(pair): f"{matches_path} has no matches of them" for pair in absent}
    output.mkdir(parents=True, exist_ok=True)
    known = Matched(features_path.stem, len(names), features, matches_path, wanted, set(), tries, seen_side, failures)
    return _map(folder, known, output, settings, report)


def _check(settings: MappingSettings, folder: Path, names: Sequence[str]) -> None:
    """`ValueError` if the mapper is not there, or the known camera is none of these photos."""
    check_mapper(settings.mapper)
    if settings.known_camera is not None:
        colmap.check_camera(settings.known_camera, folder, names)


def _map(folder: Path, matched: Matched, output: Path, settings: MappingSettings, report: Report) -> Summary:
    """The database and the best model of matched photos, written to `output`."""
    failures = matched.failures
    # Another process with this output waits here, as it has for the features and the matches.
    with locked(output / MODEL):
        database = output / "database.db"
        left_out = colmap.write_database(
            database,
            folder,
            matched.features,
            read_matches(matched.path, [pair for pair in matched.pairs if frozenset(pair) not in matched.by_chance]),
            single_camera=settings.single_camera,
            known_camera=settings.known_camera,
        )
        failures |= dict.fromkeys(left_out, "COLMAP cannot read this file")
        verified = verify(
            database,
            seen_side=matched.seen_side,
            tries=lambda *pair: matched.tries.get(frozenset(pair), 1),
            progress=partial(report, "verify"),
        )
        map_database = partial(
            map_photos,
            database,
            folder,
            mapper=settings.mapper,
            seen_side=matched.seen_side,
            fixed_cameras=settings.known_camera is not None,
            single_threaded=settings.single_threaded,
            progress=partial(report, "map"),
        )
        models = _put_in_place(map_database, output, matched.extractor)
    best = models[0] if models else None
    points = 0 if best is None else best.num_points3D()
    return Summary(
        extractor=matched.extractor,
        photos=matched.photos,
        registered=0 if best is None else best.num_reg_images(),
        points=points,
        observations=0 if best is None else best.compute_num_observations(),
        mean_track_length=best.compute_mean_track_length() if best is not None and points else None,
        mean_reprojection_error=best.compute_mean_reprojection_error() if best is not None and points else None,
        pairs=len(matched.pairs),
        verified_pairs=verified,
        models=len(models),
        failures=failures,
    )


def _match(
    features: FeatureReader,
    pairs: Sequence[Pair],
    store: MatchFile,
    how: MatchFilter,
    match_pair: MatchPair | None,
    device: torch.device | str,
    report: Report,
) -> dict[str, str]:
    """Store the matches of all pairs; why some have none is returned, by the name of the photo or both of them."""
    failures: dict[str, str] = {}

    def failed(pair: Pair, error: Exception) -> None:
        failures[" and ".join(pair)] = str(error)

    progress = _counted("match", len(pairs), report)
    missing = match_many(
        features, pairs, store, how=how, match_pair=match_pair, device=device, progress=progress, failed=failed
    )
    return failures | {name: f"in {count} pairs, but there are no features of it" for name, count in missing.items()}


def _judged(
    turned: TurnedFeatures | None,
    seen_side: int | None,
    how: MatchFilter,
    rotations: Rotations,
    device: torch.device | str,
) -> MatchPair:
    """Matches pairs and notes the verdict; first photos are turned, as `rotations` say, if there is what turns them.

    What is kept is the upright photos' matches unless a turn is verified.
    """
    rotations = "none" if turned is None else rotations

    def match_pair(pair: Pair, features0: Features, features1: Features) -> tuple[Matches, dict[str, Any]]:
        limit = inlier_threshold("fundamental", (features0.image_size, features1.image_size), seen_side)
        attempt = partial(attempt_match, geometry="fundamental", max_error=limit, how=how)

        def turned_first(turns: int) -> Features:
            assert turned is not None
            return turned(pair[0], turns).to(device)

        tried = try_turns(attempt, features0, features1, turned_first, rotations, likeliest=True)
        best = best_of(tried)
        kept = tried[0] if best.by_chance else best
        assert best.verdict is not None
        return kept.matches, {
            "quarter_turns": kept.quarter_turns,
            "tries": len(tried),
            "verdict": best.verdict.name,
        }

    return match_pair


def _counted(stage: str, total: int, report: Report) -> Callable[..., None]:
    """A function of how much more is done (1 if it is not said) that reports how much is in all."""
    done = 0

    def progress(more: int = 1) -> None:
        nonlocal done
        done += more
        report(stage, min(done, total), total)

    return progress


def _put_in_place(
    map_database: Callable[[Path], list["pycolmap.Reconstruction"]], output: Path, name: str
) -> list["pycolmap.Reconstruction"]:
    """The models that come about in a scratch folder; the first is written to `output` in place of an older one."""
    files = output / "points.ply", output / "model.html"
    shutil.rmtree(output / MODEL, ignore_errors=True)
    for file in files:
        file.unlink(missing_ok=True)
    with scratch(output / MODEL) as folder:
        models = map_database(folder)
        if models:
            whole = folder / "best"
            whole.mkdir()
            models[0].write(whole)
            cloud, page = (folder / file.name for file in files)
            models[0].export_PLY(cloud)
            write_viewer(page, models[0], name)
            for file in (cloud, page):
                file.replace(output / file.name)
            whole.replace(output / MODEL)
    return models
