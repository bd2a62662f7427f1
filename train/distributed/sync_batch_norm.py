"""BatchNorm over the batch of all processes, also where torch's SyncBatchNorm does not run."""

from typing import Any

import torch
import torch.nn.functional as F
from timm.layers import convert_sync_batchnorm
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from cassle_zoo.train.distributed import process_group


def convert_sync_batch_norm(module: nn.Module, device: torch.device) -> None:
    """Make every BatchNorm inside a module normalise over the batches of all processes.

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
    """SyncBatchNorm without torch's CUDA kernels, so that it also runs on CPUs.

    Attributes:
        drop: Applied to the result: the dropout of timm's BatchNorm with activation, or nothing.
        act: Applied after that: the activation of timm's BatchNorm, or nothing.
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
        kind = _exact(x)
        ones, zeros = x.new_ones(x.shape[1], dtype=kind), x.new_zeros(x.shape[1], dtype=kind)
        weight, bias = (self.weight, self.bias) if self.affine else (ones, zeros)
        normalised, mean, variance = _Normalise.apply(x, weight, bias, self.eps)
        number = x.numel() // x.shape[1] * process_group.world_size()
        self._track(mean, variance * (number / max(number - 1, 1)))
        result: Tensor = normalised
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
        """Accept any number of dimensions."""


def _exact(x: Tensor) -> torch.dtype:
    return x.dtype if x.dtype.itemsize >= 4 else torch.float32


class _Normalise(torch.autograd.Function):
    """Normalises (B, C, ...) rows over all processes; also returns their mean and variance (C,)."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, eps: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        # Dummy running statistics, whose dtype is that of the statistics returned.
        running = x.new_zeros(2, x.shape[1], dtype=_exact(x))
        own = torch.stack(torch.batch_norm_update_stats(x, running[0], running[1], 1.0))
        means, variances = process_group.all_gather(own[None]).unbind(1)
        mean = means.mean(0)
        variance = variances.mean(0) + means.var(0, correction=0)
        ctx.save_for_backward(x, weight, mean, variance)
        ctx.mark_non_differentiable(mean, variance)
        ctx.eps = eps
        return F.batch_norm(x, mean, variance, weight, bias, eps=eps), mean, variance

    @staticmethod
    def backward(ctx: Any, grad: Tensor, *_: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        """Return the gradients.

        With y = weight * n + bias and n = (x - mean) * s, that of x is
        weight * s * (grad - E[grad] - n * E[grad * n]), with means E over all processes.
        """
        x, weight, mean, variance = ctx.saved_tensors
        # With train=False the kernel gives weight * s * grad, sum(grad * n) and sum(grad).
        grad_x, grad_weight, grad_bias = torch.ops.aten.native_batch_norm_backward(
            grad, x, weight, mean, variance, None, None, False, ctx.eps, [True, True, True]
        )
        number = x.numel() // x.shape[1] * process_group.world_size()
        means = process_group.all_reduce(torch.stack([grad_weight, grad_bias])) / number
        slope, offset = means * (weight * torch.rsqrt(variance + ctx.eps))
        grad_x -= F.batch_norm(x, mean, variance, slope, offset, eps=ctx.eps)
        return grad_x, grad_weight, grad_bias, None
