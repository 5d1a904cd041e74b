"""Where a run computes: precision, devices and processes, by Lightning Fabric."""

import logging
import os
import platform
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Literal, Self, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from ripe.data.feed import RunStoppedError
from ripe.recipe.config import Precision, TrainConfig

if TYPE_CHECKING:
    from lightning_fabric import Fabric

logger = logging.getLogger(__name__)

T = TypeVar("T")
ChosenPrecision = Literal["32-true", "16-mixed", "bf16-mixed"]


def layout(config: TrainConfig, environ: Mapping[str, str]) -> tuple[int, int]:
    """Processes on each machine, and machines: what torchrun or srun started, otherwise what the settings ask for."""
    if "TORCHELASTIC_RUN_ID" in environ:
        local = int(environ["LOCAL_WORLD_SIZE"])
        return local, int(environ["WORLD_SIZE"]) // local
    if _by_srun(environ):
        nodes = int(environ.get("SLURM_NNODES", 1))
        return int(environ["SLURM_NTASKS"]) // nodes, nodes
    return config.devices, config.num_nodes


def _by_srun(environ: Mapping[str, str]) -> bool:
    return int(environ.get("SLURM_NTASKS", 1)) > 1 and "SLURM_PROCID" in environ


def bfloat16_is_native(accelerator: str) -> bool:
    """Whether this machine has instructions for bfloat16; without, a CPU needs several times as long as for float32."""
    if accelerator == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if platform.machine().lower() in ("x86_64", "amd64"):
        return torch.cpu._is_avx512_bf16_supported()
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())  # of ARM; on x86 it is True for AVX-512 as well


def resolve_precision(precision: Precision, accelerator: str) -> ChosenPrecision:
    """The precision that "auto" stands for on this machine.

    Raises:
        ValueError: the precision needs a GPU.
    """
    if precision == "auto":
        return "bf16-mixed" if bfloat16_is_native(accelerator) else "32-true"
    if accelerator == "cpu" and precision == "16-mixed":
        raise ValueError("precision=16-mixed: needs a GPU; on a CPU take bf16-mixed or 32-true")
    return precision


class Engine:
    """This process's part in a run of one process or many; `precision` is what "auto" has come to.

    As a context it takes leave of the other processes at the end: one that only exits may be aborted by its own
    threads of communication when they find the others gone.

    Raises:
        ValueError: the devices that the settings ask for are not there, or Lightning Fabric is not installed.
    """

    def __init__(self, config: TrainConfig) -> None:
        fabric = _import_fabric()
        devices, nodes = layout(config, os.environ)
        accelerator = config.accelerator
        if accelerator == "auto":
            accelerator = "cuda" if torch.cuda.is_available() else "cpu"
        if accelerator == "cuda" and torch.cuda.device_count() < devices:
            raise ValueError(f"accelerator=cuda devices={devices}: this machine has {torch.cuda.device_count()} GPUs")
        self.precision = resolve_precision(config.precision, accelerator)
        self.fabric: Fabric = fabric(
            accelerator=accelerator,
            devices=devices,
            num_nodes=nodes,
            strategy="ddp" if devices * nodes > 1 else "auto",
            plugins=_plugins(self.precision, accelerator),
        )
        self.fabric.launch()
        self.processes, self.rank = self.fabric.world_size, self.fabric.global_rank
        self.device = self.fabric.device
        if self.is_main and self.precision == "bf16-mixed" and not bfloat16_is_native(accelerator):
            logger.warning(
                "precision=bf16-mixed: there are no instructions for bfloat16 here, so steps may take several times as "
                "long as with precision=32-true; precision=auto chooses"
            )
        if config.data.pairs_per_step % self.processes:
            raise ValueError(
                f"data.pairs_per_step={config.data.pairs_per_step}: {self.processes} processes cannot share that evenly"
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.processes > 1 and dist.is_initialized():
            dist.destroy_process_group()

    @property
    def is_main(self) -> bool:
        """Whether this process is the one that writes, validates and shows."""
        return self.rank == 0

    def total(self, values: Tensor) -> Tensor:
        """`values` added up over all processes."""
        if self.processes == 1:
            return values
        summed = values.detach().clone().to(self.device)
        dist.all_reduce(summed)
        return summed.to(values.device)

    def any(self, flag: bool) -> bool:
        """Whether `flag` is True in any process."""
        return bool(self.total(torch.tensor(float(flag))) > 0)

    def together(self, work: Callable[[], T]) -> T:
        """What `work` returns in this process; where it raises in any, it raises in all, so that none waits forever.

        Raises:
            RunStoppedError: it was another process.
        """
        if self.processes == 1:
            return work()
        result, failure = None, None
        try:
            result = work()
        except Exception as error:
            failure = error
        failed = self.any(failure is not None)
        if failure is not None:
            raise failure
        if failed:
            raise RunStoppedError("another process of this run has failed, and says why; this one ends with it")
        return result  # type: ignore[return-value]

    def by_main(self, work: Callable[[], T]) -> T:
        """What `work` returns in the main process, which alone runs it, in every process; errors as in `together`."""
        result = self.together(lambda: work() if self.is_main else None)
        return result if self.processes == 1 else self.fabric.broadcast(result)  # type: ignore[return-value]


def _import_fabric() -> Any:
    try:
        from lightning_fabric import Fabric
    except ImportError as error:
        raise ValueError("training needs Lightning Fabric: pip install 'ripe-keypoints[train]'") from error
    # It tells at every start what was asked of it.
    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)
    return Fabric


def _plugins(precision: ChosenPrecision, accelerator: str) -> list[Any]:
    from lightning_fabric.plugins import MixedPrecision
    from lightning_fabric.plugins.environments import LightningEnvironment
    from lightning_fabric.plugins.precision import Precision as FullPrecision

    class MixedInside(MixedPrecision):
        """Leaves the inputs as they are: rounded to half precision, a homography would be off by whole pixels."""

        def convert_input(self, data: Any) -> Any:
            return data

    chosen = FullPrecision() if precision == "32-true" else MixedInside(precision, accelerator)
    started_by_others = "TORCHELASTIC_RUN_ID" in os.environ or _by_srun(os.environ)
    # In a Slurm job that is one process, Fabric would take the job's settings for ours.
    return [chosen] if started_by_others else [chosen, LightningEnvironment()]
