"""BatchNorm over the batch of all processes, also where torch's SyncBatchNorm does not run."""

from typing import Any

import torch
from timm.layers import convert_sync_batchnorm
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from cassle_zoo.train.distributed import process_group


def convert_sync_batch_norm(module: nn.Module, device: torch.device) -> None:
    """Let every BatchNorm inside a module see the batches of all processes.

    Parameters, buffers and their names stay the same. With one process nothing is changed.

    Args:
        module: Any module; its parts are replaced.
        device: Where it will run. torch's SyncBatchNorm needs a GPU.
    """
    if process_group.world_size() == 1:
        return
    if device.type == "cuda":
        convert_sync_batchnorm(module)  # type: ignore[no-untyped-call]
        return
    for name, child in module.named_children():
        if isinstance(child, _BatchNorm):
            setattr(module, name, PortableSyncBatchNorm(child))
        else:
            convert_sync_batch_norm(child, device)


class PortableSyncBatchNorm(_BatchNorm):
    """SyncBatchNorm without torch's CUDA kernels, so also for CPUs.

    Attributes:
        drop: What timm's BatchNorm with activation does next, if it is one.
        act: And after that.
    """

    def __init__(self, norm: _BatchNorm) -> None:
        """Take over parameters, buffers and settings of a BatchNorm."""
        super().__init__(norm.num_features, norm.eps, norm.momentum, norm.affine)
        self.weight, self.bias = norm.weight, norm.bias
        self.running_mean, self.running_var = norm.running_mean, norm.running_var
        self.num_batches_tracked = norm.num_batches_tracked
        self.train(norm.training)
        self.drop: Any = getattr(norm, "drop", None) or nn.Identity()
        self.act: Any = getattr(norm, "act", None) or nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Normalise (B, C, ...) rows of this process."""
        normalised = self._normalise(x) if self.training else super().forward(x)
        result: Tensor = self.act(self.drop(normalised))
        return result

    def _normalise(self, x: Tensor) -> Tensor:
        dims = [0, *range(2, x.ndim)]
        exact = x.float() if x.dtype.itemsize < 4 else x
        number = x.numel() // x.shape[1] * process_group.world_size()
        mean = process_group.all_reduce(exact.sum(dims)) / number
        shape = [1, -1, *[1] * (x.ndim - 2)]
        centred = exact - mean.view(shape)
        variance = process_group.all_reduce(centred.square().sum(dims)) / number
        self._track(mean.detach(), variance.detach() * (number / max(number - 1, 1)))
        scale = torch.rsqrt(variance + self.eps)
        if self.affine:
            scale = scale * self.weight
        normalised = centred * scale.view(shape)
        if self.affine:
            normalised = normalised + self.bias.view(shape)
        result: Tensor = normalised.to(x.dtype)
        return result

    @torch.no_grad()
    def _track(self, mean: Tensor, variance: Tensor) -> None:
        if self.running_mean is None or self.running_var is None:
            return
        momentum = self.momentum
        if self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(1)
            if momentum is None:
                momentum = 1 / int(self.num_batches_tracked)
        momentum = momentum or 0.0
        self.running_mean.lerp_(mean.to(self.running_mean.dtype), momentum)
        self.running_var.lerp_(variance.to(self.running_var.dtype), momentum)

    def _check_input_dim(self, input: Tensor) -> None:
        """Take any number of dimensions."""
