"""From verified matches to models, by COLMAP's mappers."""

from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any, Literal, get_args

from ripe.integrations.colmap import SEED, import_pycolmap, quiet
from ripe.two_views import shrinking

if TYPE_CHECKING:
    import pycolmap

Mapper = Literal["incremental", "global"]
MAPPERS: tuple[Mapper, ...] = get_args(Mapper)
GLOBAL_STEPS = 4
"""How often COLMAP's global mapper tells of itself while it makes a model."""

Progress = Callable[[int, int], object]
"""Called with how much is done, and of how much."""


def check_mapper(mapper: Mapper) -> None:
    """Raise a `ValueError` if the installed pycolmap does not have it."""
    pycolmap = import_pycolmap()
    if mapper == "global" and not hasattr(pycolmap, "GlobalPipeline"):
        raise ValueError(
            f"mapper is 'global', which needs pycolmap 4 or newer; {pycolmap.__version__} is installed: "
            "pip install --upgrade 'ripe-keypoints[colmap]'"
        )


def map_photos(
    database: Path,
    folder: Path,
    scratch: Path,
    *,
    mapper: Mapper = "incremental",
    seen_side: int | None = None,
    fixed_cameras: bool = False,
    single_threaded: bool = False,
    progress: Progress = lambda done, total: None,
) -> list["pycolmap.Reconstruction"]:
    """COLMAP's mapping of a verified database.

    Args:
        database: with photos, keypoints and verified matches.
        folder: of the photos, from which points take their colours.
        scratch: an empty folder for COLMAP's intermediate files.
        mapper: incremental, which adds photo after photo; or global, all at once (GLOMAP). That is faster for many
            photos and hangs more on the focal length: unless cameras are fixed, it is first estimated from the pairs,
            and stored in the database.
        seen_side: longer side to which longer photos were shrunk to find keypoints, None if they were not; COLMAP's
            thresholds in pixels grow as the photos, in the median, were shrunk.
        fixed_cameras: leave the database's cameras as they are.
        single_threaded: with several threads, the sums of a bundle adjustment, and so all that follows, depend on which
            of them is first.
        progress: told of registered photos, or of the global mapper's steps.

    Returns:
        The models, that with most photos first; none if no pair of photos is a good start.
    """
    pycolmap = import_pycolmap()
    with pycolmap.Database.open(database) as opened:
        sizes = {camera.camera_id: (camera.width, camera.height) for camera in opened.read_all_cameras()}
        photos = [sizes[image.camera_id] for image in opened.read_all_images()]
    scale = median(shrinking([size], seen_side) for size in photos) if photos else 1.0
    threads = {"num_threads": 1} if single_threaded else {}
    with quiet():
        if mapper == "incremental":
            options = _incremental_options(scale, fixed_cameras) | threads
            models = _map_incrementally(database, folder, scratch, options, len(photos), progress)
        else:
            options = _global_options(scale, fixed_cameras) | threads
            if not fixed_cameras:
                calibration = {"random_seed": SEED, "relpose_max_error": scale}
                pycolmap.calibrate_view_graph(database, calibration)
            models = _map_globally(database, folder, options, progress)
    return sorted(models, key=lambda model: (-model.num_reg_images(), -model.num_points3D()))


def _map_incrementally(
    database: Path, folder: Path, scratch: Path, options: dict[str, Any], photos: int, progress: Progress
) -> list["pycolmap.Reconstruction"]:
    done = 0

    def registered(count: int) -> None:
        nonlocal done
        done = min(done + count, photos)
        progress(done, photos)

    models = import_pycolmap().incremental_mapping(
        database,
        folder,
        scratch,
        options=options,
        initial_image_pair_callback=lambda: registered(2),
        next_image_callback=lambda: registered(1),
    )
    return list(models.values())


def _map_globally(
    database: Path, folder: Path, options: dict[str, Any], progress: Progress
) -> list["pycolmap.Reconstruction"]:
    pycolmap = import_pycolmap()
    done = 0

    def step() -> None:
        nonlocal done
        done = min(done + 1, GLOBAL_STEPS)
        progress(done, GLOBAL_STEPS)

    progress(0, GLOBAL_STEPS)
    models = pycolmap.ReconstructionManager()
    with pycolmap.Database.open(database) as opened:
        pipeline = pycolmap.GlobalPipeline({**options, "image_path": folder}, opened, models)
        pipeline.add_callback(pycolmap.GlobalPipelineCallback.MODEL_UPDATE_CALLBACK, step)
        pipeline.run()
    progress(GLOBAL_STEPS, GLOBAL_STEPS)
    return [models.get(index) for index in range(models.size())]


def _incremental_options(scale: float, fixed_cameras: bool) -> dict[str, Any]:
    """COLMAP's, with its thresholds in pixels multiplied by `scale`."""
    options: dict[str, Any] = {
        "random_seed": SEED,
        # The fallback registers photos with hardly any 3D point to support them: on photos of an arch, one that was
        # upside down "succeeded" with none at all.
        "structure_less_registration_fallback": False,
        "mapper": {
            "init_max_error": 4.0 * scale,
            "abs_pose_max_error": 12.0 * scale,
            "filter_max_reproj_error": 4.0 * scale,
        },
        "triangulation": {"merge_max_reproj_error": 4.0 * scale, "complete_max_reproj_error": 4.0 * scale},
    }
    if fixed_cameras:
        options |= dict.fromkeys(("ba_refine_focal_length", "ba_refine_extra_params"), False)
        options["mapper"] |= dict.fromkeys(("abs_pose_refine_focal_length", "abs_pose_refine_extra_params"), False)
    return options


def _global_options(scale: float, fixed_cameras: bool) -> dict[str, Any]:
    """COLMAP's, with its thresholds in pixels multiplied by `scale`."""
    refined = dict.fromkeys(("refine_focal_length", "refine_extra_params"), not fixed_cameras)
    return {
        "random_seed": SEED,
        "mapper": {
            "track_intra_image_consistency_threshold": 10.0 * scale,
            "bundle_adjustment": {**refined, "ceres": {"loss_function_scale": scale}},
            "retriangulation": {"merge_max_reproj_error": 15.0 * scale, "complete_max_reproj_error": 15.0 * scale},
        },
    }
