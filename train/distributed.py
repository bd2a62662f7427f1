"""Batches that are spread over processes. With one process everything here is the identity."""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


def gather(x: Tensor) -> Tensor:
    """Join the rows of all processes, in the order of their ranks; gradients flow back.

    Every process then computes the loss of the joint batch, and the backward pass sums, for each
    process's rows, the gradients of all these (equal) losses. DistributedDataParallel averages
    parameter gradients over processes, which makes them those of one process with the joint batch.

    Args:
        x: (B, ...) rows of this process; B must be the same in all processes.

    Returns:
        (processes * B, ...) rows.
    """
    if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
        return x
    joint: Tensor = _Gather.apply(x)
    return joint


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.rows = len(x)
        parts = [torch.empty_like(x) for _ in range(dist.get_world_size())]
        dist.all_gather(parts, x.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        total = grads[0].clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        start = dist.get_rank() * ctx.rows
        return total[start : start + ctx.rows]
