"""Where a run computes: precision, devices and processes, by Lightning Fabric."""

import logging
import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch import Tensor

from ripe.recipe.config import Precision, TrainConfig

if TYPE_CHECKING:
    from lightning_fabric import Fabric


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


class Engine:
    """This process's part in a run of one process or many.

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
        if accelerator == "cpu" and config.precision == "16-mixed":
            raise ValueError("precision=16-mixed: needs a GPU; on a CPU take bf16-mixed or 32-true")
        self.fabric: Fabric = fabric(
            accelerator=accelerator,
            devices=devices,
            num_nodes=nodes,
            strategy="ddp" if devices * nodes > 1 else "auto",
            plugins=_plugins(config.precision, accelerator),
        )
        self.fabric.launch()
        self.processes, self.rank = self.fabric.world_size, self.fabric.global_rank
        self.device = self.fabric.device
        if config.data.pairs_per_step % self.processes:
            raise ValueError(
                f"data.pairs_per_step={config.data.pairs_per_step}: {self.processes} processes cannot share that evenly"
            )

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

    def share(self, value: Any) -> Any:
        """The main process's `value`, in every process; they wait for it."""
        return value if self.processes == 1 else self.fabric.broadcast(value)


def _import_fabric() -> Any:
    try:
        from lightning_fabric import Fabric
    except ImportError as error:
        raise ValueError("training needs Lightning Fabric: pip install 'ripe-keypoints[train]'") from error
    # It tells at every start what was asked of it.
    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)
    return Fabric


def _plugins(precision: Precision, accelerator: str) -> list[Any]:
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
