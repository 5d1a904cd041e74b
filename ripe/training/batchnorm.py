"""Batch normalisation over the batches of all processes together.

PyTorch's own `SyncBatchNorm` does this on GPUs alone; the one here is for CPUs, where it needs no speed: it lets
several processes be compared with one.
"""

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.nn.functional import all_reduce


class JointBatchNorm2d(nn.BatchNorm2d):
    """`nn.BatchNorm2d` whose statistics are those of all processes' batches, on any device."""

    def forward(self, images: Tensor) -> Tensor:
        """Normalise B×C×H×W `images`."""
        if not self.training:
            return super().forward(images)
        values = images.float()
        local = torch.cat([values.sum(dim=(0, 2, 3)), values.new_tensor([values[:, 0].numel()])])
        *sums, count = all_reduce(local).split([self.num_features, 1])
        mean = sums[0] / count
        centred = values - mean[:, None, None]
        variance = all_reduce(centred.square().sum(dim=(0, 2, 3))) / count
        self._track(mean.detach(), (variance * count / (count - 1)).detach())
        scaled = centred * (variance + self.eps).rsqrt()[:, None, None]
        return (scaled * self.weight[:, None, None] + self.bias[:, None, None]).to(images.dtype)

    @torch.no_grad()
    def _track(self, mean: Tensor, variance: Tensor) -> None:
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        assert self.momentum is not None
        self.num_batches_tracked += 1
        self.running_mean.lerp_(mean, self.momentum)
        self.running_var.lerp_(variance, self.momentum)


def join_batchnorm(model: nn.Module, device: torch.device) -> None:
    """Make every batch normalisation of `model` run over all processes, in place; its weights stay the same tensors."""
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if type(child) is nn.BatchNorm2d:
                setattr(parent, name, _joint(child, device))


def _joint(norm: nn.BatchNorm2d, device: torch.device) -> nn.Module:
    if device.type == "cuda":
        return nn.SyncBatchNorm.convert_sync_batchnorm(norm, dist.group.WORLD)
    joint = JointBatchNorm2d(norm.num_features, norm.eps, norm.momentum)
    joint.weight, joint.bias = norm.weight, norm.bias
    for name, buffer in norm.named_buffers():
        setattr(joint, name, buffer)
    return joint.train(norm.training)
