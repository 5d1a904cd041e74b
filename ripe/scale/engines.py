"""What runs blocks of work: this process alone, or Ray, as a streaming pipeline over many processes and machines.

A block is fetched from storage first, then worked on, and gives a small report; the results themselves are put in place
by the worker. So an engine may run a block again at any time.
"""

from __future__ import annotations

import logging
import os
import pickle
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

if TYPE_CHECKING:
    import pyarrow as pa

Work = Callable[[Any], Any]


class Engine(Protocol):
    """Runs all blocks.

    Args:
        blocks: of work, each small.
        fetch: gives from storage what a block's work needs.
        make_worker: makes what does the work, once for each process; it may hold a model.

    Returns:
        What the worker says of each block, in the order in which they are done.
    """

    def __call__(
        self,
        blocks: Sequence[Any],
        fetch: Work,
        make_worker: Callable[[], Work],
    ) -> Iterator[Any]: ...


def in_process(
    blocks: Sequence[Any],
    fetch: Work,
    make_worker: Callable[[], Work],
) -> Iterator[Any]:
    """This process alone, one block after the other."""
    if blocks:
        yield from map(make_worker(), map(fetch, blocks))


def on_ray(workers: int | None = None, *, gpu: bool = True) -> Engine:
    """Ray Data: tasks that fetch, and a pool of actors that work; what is fetched waits in Ray's bounded object store.

    The cluster is the one that `RAY_ADDRESS` or `ray start` names; without one, this machine's cores. A task or an
    actor that is killed is run again.

    Args:
        workers: how many actors; one for each GPU of the cluster, or for each core if there is none, if None.
        gpu: whether GPUs are used where there are any; several workers may share one.

    Raises:
        ValueError: Ray is not installed.
    """
    return partial(_run_on_ray, workers=workers, gpu=gpu)


def _run_on_ray(
    blocks: Sequence[Any],
    fetch: Work,
    make_worker: Callable[[], Work],
    *,
    workers: int | None,
    gpu: bool,
) -> Iterator[Any]:
    if not blocks:
        return
    ray = _started_ray()
    gpus, cores = (ray.cluster_resources().get(name, 0) for name in ("GPU", "CPU"))
    count = workers or max(1, int(gpus if gpu and gpus else cores))
    count = min(count, len(blocks))
    kept = ray.put(make_worker)  # here, for as long as actors may be started again
    reports = (
        ray.data.from_items([{"it": pickle.dumps(block)} for block in blocks], override_num_blocks=len(blocks))
        # What fetches waits for the network: it takes no core from the workers, but there are only so many of it.
        .map_batches(
            _mapped, fn_args=(fetch,), num_cpus=0, compute=ray.data.TaskPoolStrategy(size=count), batch_format="pyarrow"
        )
        .map_batches(
            _Worker,
            fn_constructor_args=([kept],),
            num_gpus=min(1.0, gpus / count) if gpu and gpus else 0,
            num_cpus=min(1, cores / count),
            compute=ray.data.ActorPoolStrategy(size=count),
            batch_format="pyarrow",
        )
    )
    try:
        for batch in reports.iter_batches(batch_size=None, batch_format="pyarrow"):
            for report in batch["it"].to_pylist():
                done = pickle.loads(report)
                if isinstance(done, _Failed):
                    raise done.error
                yield done
    except ray.exceptions.RayError as error:
        raise _own(error) from error


class _Worker:
    """An actor of the pool."""

    def __init__(self, kept: Sequence[Any]) -> None:
        import ray

        make_worker: Callable[[], Work] = ray.get(kept[0])
        self._work = make_worker()

    def __call__(self, batch: pa.Table) -> dict[str, list[bytes]]:
        return _mapped(batch, self._work)


def _mapped(batch: pa.Table, function: Work) -> dict[str, list[bytes]]:
    """What a function makes of each pickled thing of a batch, pickled."""
    return {"it": [pickle.dumps(_tried(function, pickle.loads(one))) for one in batch["it"].to_pylist()]}


class _Failed(NamedTuple):
    """In place of what would have been made; Ray would tell of its own error, and of ours in that one's text alone."""

    error: Exception


def _tried(function: Work, thing: Any) -> Any:
    if isinstance(thing, _Failed):
        return thing
    try:
        return function(thing)
    except Exception as error:
        return _Failed(error)


def _started_ray() -> Any:
    """Ray's package, connected to a cluster."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is sent to Ray's makers
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise ValueError(f"Ray is needed: pip install 'ripe-keypoints[scale]' ({error})") from error
    if not ray.is_initialized():
        ray.init(log_to_driver=False, logging_level=logging.WARNING, include_dashboard=False)
    for name in ("ray", "ray.data"):
        logging.getLogger(name).setLevel(logging.ERROR)  # what it has to say otherwise is about itself
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    return ray


def _own(error: BaseException) -> BaseException:
    """The error that our code has raised in another process, of one that Ray has raised here."""
    cause = getattr(error, "cause", None) or error.__cause__
    is_rays = type(error).__module__.split(".")[0] == "ray"
    return _own(cause) if is_rays and cause is not None else error
