"""Training in several processes. With one process everything here is the identity.

`torchrun` starts the processes and tells each its rank through environment variables; each takes
its share of every batch, and together they do what one process would do with the whole batch.
"""

import contextlib
import datetime
import os
from collections.abc import Iterator, Mapping
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from cassle_zoo.common.devices import pick_device
from cassle_zoo.common.errors import ConfigError
from cassle_zoo.train.distributed.rendezvous import fresh_store

_TOLD_BY_TORCHRUN = ("RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")


@contextlib.contextmanager
def joined(device: str | None, timeout: float) -> Iterator[torch.device]:
    """Join the processes that `torchrun` started, for as long as the context is open.

    Args:
        device: Device to train on; `None` or `cuda` gives each process of a machine a GPU of its
            own, if there are GPUs.
        timeout: Seconds that a process waits for the others before it gives up.

    Yields:
        The device of this process.

    Raises:
        ConfigError: If a machine has fewer GPUs than processes, or they are told to share one,
            there is no such device, or the environment tells of several processes, but not all
            that torchrun does.
    """
    if dist.is_initialized() or _announced() == 1:
        own = pick_device(device)
        # Else what asks for the current GPU, such as the thread that pins batches, takes the first.
        with torch.cuda.device(own) if own.type == "cuda" else contextlib.nullcontext():
            yield own
        return
    if device in (None, "cuda") and torch.cuda.is_available():
        local = int(os.environ["LOCAL_RANK"])
        if local >= torch.cuda.device_count():
            raise ConfigError(
                f"this machine has {torch.cuda.device_count()} GPUs, but torchrun started process "
                f"number {local + 1} here; lower --nproc-per-node, or pass --run.device cpu."
            )
        device = f"cuda:{local}"
    elif str(device).startswith("cuda:") and os.environ.get("LOCAL_WORLD_SIZE", "1") != "1":
        raise ConfigError(
            f"--run.device {device} is one GPU for all processes of this machine; leave it out, "
            "and each gets its own."
        )
    own = pick_device(device)
    if own.type == "cuda":
        torch.cuda.set_device(own)
    store = fresh_store(timeout)
    dist.init_process_group(
        "nccl" if own.type == "cuda" else "gloo",
        store=store,
        rank=-1 if store is None else int(os.environ["RANK"]),
        world_size=-1 if store is None else int(os.environ["WORLD_SIZE"]),
        timeout=datetime.timedelta(seconds=timeout),
    )
    try:
        yield own
        dist.barrier()
    finally:
        dist.destroy_process_group()


def _announced() -> int:
    """Return how many processes there should be, as torchrun tells in the environment."""
    text = os.environ.get("WORLD_SIZE", "1")
    missing = [name for name in _TOLD_BY_TORCHRUN if name not in os.environ]
    if not text.isdecimal() or text == "0" or (text != "1" and missing):
        but = (
            f"{' and '.join(missing)} are not set" if missing else "that is no number of processes"
        )
        raise ConfigError(
            f"the environment variable WORLD_SIZE is {text!r}, but {but}; start several processes "
            "with torchrun, or unset WORLD_SIZE to train in one."
        )
    return int(text)


def count() -> int:
    """Return the number of processes."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """Return this process's number; process 0 writes files and prints."""
    return dist.get_rank() if count() > 1 else 0


def share(batch_size: int) -> slice:
    """Return the rows of a batch that this process works on.

    Raises:
        ConfigError: If the batch cannot be shared out evenly.
    """
    if batch_size % count():
        raise ConfigError(
            f"a batch of {batch_size} cannot be shared out evenly among {count()} processes; "
            f"choose an --optim.batch-size that {count()} divides."
        )
    rows = batch_size // count()
    return slice(rank() * rows, (rank() + 1) * rows)


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
    if count() == 1:
        return x
    joint: Tensor = _Gather.apply(x)
    return joint


def gather_cpu(x: Tensor, device: torch.device) -> Tensor:
    """Join rows that lie on the CPU, by way of the processes' devices.

    With one process they stay where they are, so that its GPU need not be waited for.
    """
    return x if count() == 1 else gather(x.to(device)).cpu()


def total(x: Tensor) -> Tensor:
    """Return the sum over all processes, element by element; gradients flow back."""
    summed: Tensor = _Sum.apply(x)
    return summed


def mean(values: Mapping[str, float], device: torch.device) -> dict[str, float]:
    """Return the mean over the processes of each value (NaN if it is NaN in one)."""
    if count() == 1:
        return dict(values)
    # MPS and the like have no float64; only CPU and CUDA get here.
    summed = torch.tensor([*values.values()], dtype=torch.float64, device=device)
    dist.all_reduce(summed)
    return dict(zip(values, (summed / count()).tolist(), strict=True))


def collect(value: Any) -> list[Any]:
    """Return what each process gave, any plain Python value, in the order of their ranks."""
    values = [value] * count()
    if count() > 1:
        dist.all_gather_object(values, value)
    return values


def same_everywhere(value: int, device: torch.device) -> bool:
    """Return whether all processes have the same value."""
    return len(set(gather_cpu(torch.tensor([value]), device).tolist())) == 1


def wait() -> None:
    """Wait until all processes have come here."""
    if count() > 1:
        dist.barrier()


def in_any(flag: bool, device: torch.device) -> bool:
    """Return whether the flag is set in any process."""
    return bool(gather_cpu(torch.tensor([flag]), device).any())


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.rows = len(x)
        x = x.contiguous()
        parts = [torch.empty_like(x) for _ in range(dist.get_world_size())]
        dist.all_gather(parts, x)
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        total = grads[0].clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        start = dist.get_rank() * ctx.rows
        return total[start : start + ctx.rows]


class _Sum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        summed = x.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(summed)
        return summed

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        return _Sum.forward(ctx, grads[0])
