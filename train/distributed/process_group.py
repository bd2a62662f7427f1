"""The processes that train together, and their communication.

`torchrun` starts the processes and gives each its rank in environment variables; each works on its
rows of every batch, and together they compute the same as one process with the whole batch. In a
single process every function here is the identity.
"""

import contextlib
import datetime
import os
import time
import uuid
import warnings
from collections.abc import Iterator, Mapping
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from cassle_zoo.common.devices import device_of_process, pick_device
from cassle_zoo.common.errors import CassleZooError, ConfigError

_SET_BY_TORCHRUN = ("RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
_POLL_SECONDS = 0.02


@contextlib.contextmanager
def init(device: str | None, timeout: float) -> Iterator[torch.device]:
    """Initialise the process group that `torchrun` announces, for as long as the context is open.

    Args:
        device: Device to train on; `None` or `cuda` gives each process of a machine a GPU of its
            own, if there are GPUs.
        timeout: Seconds that a process waits for the others before it gives up.

    Yields:
        The device of this process.

    Raises:
        ConfigError: If a machine has fewer GPUs than processes, or all are given the same one,
            there is no such device, or the environment announces several processes without all
            of torchrun's variables.
        CassleZooError: If another process does not arrive in time.
    """
    if dist.is_initialized() or _announced_world_size() == 1:
        own = pick_device(device)
        # Else code that uses the current GPU, such as the pin-memory thread, takes the first.
        with torch.cuda.device(own) if own.type == "cuda" else contextlib.nullcontext():
            yield own
        return
    own = _own_device(device)
    if own.type == "cuda":
        torch.cuda.set_device(own)
    store = _fresh_store(timeout)
    dist.init_process_group(
        "nccl" if own.type == "cuda" else "gloo",
        store=store,
        rank=-1 if store is None else int(os.environ["RANK"]),
        world_size=-1 if store is None else int(os.environ["WORLD_SIZE"]),
        timeout=datetime.timedelta(seconds=timeout),
    )
    try:
        with warnings.catch_warnings():
            # DDP's, of every 1x1 convolution in channels_last, where both orders are the same.
            warnings.filterwarnings("ignore", "Grad strides do not match bucket view strides")
            yield own
        dist.barrier()
    finally:
        dist.destroy_process_group()


def world_size() -> int:
    """Return the number of processes."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """Return this process's number; process 0 writes files and prints."""
    return dist.get_rank() if world_size() > 1 else 0


def local_rows(batch_size: int) -> slice:
    """Return the rows of a batch that this process works on.

    Raises:
        ConfigError: If the batch cannot be divided evenly.
    """
    if batch_size % world_size():
        raise ConfigError(
            f"a batch of {batch_size} cannot be divided evenly among {world_size()} processes; "
            f"choose an --optim.batch-size that {world_size()} divides."
        )
    rows = batch_size // world_size()
    return slice(rank() * rows, (rank() + 1) * rows)


def barrier() -> None:
    """Wait until all processes arrive here."""
    if world_size() > 1:
        dist.barrier()


def all_gather(x: Tensor) -> Tensor:
    """Concatenate the rows of all processes, in the order of their ranks; gradients flow back.

    Every process then computes the loss of the whole batch, and the backward pass sums, for each
    process's rows, the gradients of all these (equal) losses. DistributedDataParallel averages
    parameter gradients over processes, which makes them those of one process with the whole batch.

    Args:
        x: (B, ...) rows of this process; B must be the same in all processes.

    Returns:
        (world_size * B, ...) rows.
    """
    if world_size() == 1:
        return x
    rows: Tensor = _AllGather.apply(x)
    return rows


def all_gather_cpu(x: Tensor, device: torch.device) -> Tensor:
    """Concatenate rows that are on the CPU, gathered through the processes' devices.

    A single process does not use its device, so it need not wait for a GPU.
    """
    return x if world_size() == 1 else all_gather(x.to(device)).cpu()


def all_gather_object(value: Any) -> list[Any]:
    """Return the values of all processes, plain Python ones, in the order of their ranks."""
    values = [value] * world_size()
    if world_size() > 1:
        dist.all_gather_object(values, value)
    return values


def all_reduce(x: Tensor) -> Tensor:
    """Return the sum over all processes, element by element; gradients flow back."""
    if world_size() == 1:
        return x
    summed: Tensor = _AllReduce.apply(x)
    return summed


def all_reduce_mean(values: Mapping[str, float], device: torch.device) -> dict[str, float]:
    """Return the mean of each value over all processes (NaN if it is NaN in one)."""
    if world_size() == 1:
        return dict(values)
    # MPS and the like have no float64; only CPU and CUDA get here.
    summed = torch.tensor([*values.values()], dtype=torch.float64, device=device)
    dist.all_reduce(summed)
    return dict(zip(values, (summed / world_size()).tolist(), strict=True))


def any_rank(flag: bool, device: torch.device) -> bool:
    """Return whether the flag is set in any process."""
    return bool(all_gather_cpu(torch.tensor([flag]), device).any())


class _AllGather(torch.autograd.Function):
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


class _AllReduce(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        summed = x.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(summed)
        return summed

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        return _AllReduce.forward(ctx, grads[0])


def _announced_world_size() -> int:
    """Return the number of processes that torchrun sets in the environment."""
    text = os.environ.get("WORLD_SIZE", "1")
    missing = [name for name in _SET_BY_TORCHRUN if name not in os.environ]
    if not text.isdecimal() or text == "0" or (text != "1" and missing):
        but = (
            f"{' and '.join(missing)} are not set"
            if missing
            else "that is not a number of processes"
        )
        raise ConfigError(
            f"the environment variable WORLD_SIZE is {text!r}, but {but}; start several processes "
            "with torchrun, or unset WORLD_SIZE to train in one."
        )
    return int(text)


def _own_device(device: str | None) -> torch.device:
    if str(device).startswith("cuda:") and os.environ.get("LOCAL_WORLD_SIZE", "1") != "1":
        raise ConfigError(
            f"--run.device {device} is one GPU for all processes of this machine; leave it out, "
            "and each gets its own."
        )
    return pick_device(device_of_process(device, "--run.device"))


def _fresh_store(timeout: float) -> Any:
    """Return a store, the same one in all processes, without keys of earlier starts.

    torchrun's agent serves one store through all restarts, so restarted processes can find the
    addresses of dead ones and wait for them (pytorch issue 135712; the restart count does not help,
    as each machine counts its own). So the processes first agree on a prefix that no earlier start
    has used, and use only keys under it.

    Returns:
        The store; `None` if torchrun offers none, so that process 0 opens a new one at each start.
    """
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
        return None
    shared = dist.TCPStore(  # type: ignore[attr-defined]
        os.environ["MASTER_ADDR"],
        int(os.environ["MASTER_PORT"]),
        is_master=False,
        timeout=datetime.timedelta(seconds=timeout),
    )
    own_rank, processes = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    prefix = agree_on_prefix(shared, own_rank, processes, timeout)
    return dist.PrefixStore(prefix, shared)  # type: ignore[attr-defined]


def agree_on_prefix(store: Any, rank: int, world_size: int, timeout: float) -> str:
    """Agree with the other processes on a prefix that was never used before.

    Each process but the first stores a token, overwriting its predecessor's, and waits for the
    answer to that token, which only a live process 0 can give.

    Args:
        store: One of torch's stores that all processes reach; it may hold keys of processes that
            died.
        rank: Number of this process.
        world_size: Number of processes.
        timeout: Seconds to wait.

    Returns:
        The prefix that process 0 chose.

    Raises:
        CassleZooError: If another process does not arrive in time.
    """
    token = uuid.uuid4().hex
    end = time.monotonic() + timeout
    in_time = f"in {timeout:g} seconds (--run.timeout)"
    if rank:
        store.set(f"token/{rank}", token)
        while not store.check([f"answer/{token}"]):
            _sleep_until(end, f"process 0 has not answered {in_time}")
        prefix: str = store.get(f"answer/{token}").decode()
        store.set(f"{prefix}/acknowledged/{rank}", "")
        return prefix
    missing = set(range(1, world_size))
    while missing:
        for other in sorted(missing):
            if store.check([f"token/{other}"]):
                store.set(f"answer/{store.get(f'token/{other}').decode()}", token)
        missing = {r for r in missing if not store.check([f"{token}/acknowledged/{r}"])}
        if missing:
            _sleep_until(end, f"process {min(missing)} of {world_size} has not come {in_time}")
    return token


def _sleep_until(end: float, trouble: str) -> None:
    if time.monotonic() > end:
        raise CassleZooError(f"{trouble}; is its machine up and its network open?")
    time.sleep(_POLL_SECONDS)
