"""Data workers: batches in shared memory, and an explanation if there is no room for them."""

import dataclasses
import os
from pathlib import Path
from typing import TypeVar

from torch import Tensor
from torch.utils.data import get_worker_info

from cassle_zoo.common.errors import NotEnoughMemoryError

_SHARED_MEMORY = Path("/dev/shm")
HOW_TO_ENLARGE = "(docker run --shm-size=8g; mount -o remount,size=8g /dev/shm)"
_PREFETCHED = 2  # batches of each worker that are ready or being made
T = TypeVar("T")


def usable_cores() -> int:
    """Return the number of processors that this process may use."""
    affinity = getattr(os, "sched_getaffinity", None)  # not on macOS
    return len(affinity(0)) if affinity else os.cpu_count() or 1


def usable_workers(most: int) -> int:
    """Return a default number of data workers: `most`, or one per processor if that is fewer."""
    return min(most, usable_cores())


def share_batch(batch: T) -> T:
    """Move the tensors of a batch to shared memory if this is a data worker.

    torch would do so after the batch has left the dataset, in a thread whose errors are lost, and
    the main process would wait for ever.

    Args:
        batch: A tensor, or tuples, lists, dicts and dataclasses that hold some.

    Returns:
        The batch.

    Raises:
        NotEnoughMemoryError: If there is no room.
    """
    if get_worker_info() is None:
        return batch
    try:
        _share(batch)
    except RuntimeError as error:
        if "</torch_" not in str(error):  # what torch calls its files in shared memory
            raise
        raise NotEnoughMemoryError(
            f"no room in shared memory for the batches of the data workers ({error}). Enlarge "
            f"/dev/shm {HOW_TO_ENLARGE}, or use fewer workers or smaller batches; 0 workers need "
            "none."
        ) from error
    return batch


def _share(value: object) -> None:
    if isinstance(value, Tensor):
        if value.device.type == "cpu":
            value.share_memory_()
    elif isinstance(value, dict):
        _share(list(value.values()))
    elif isinstance(value, list | tuple):
        for part in value:
            _share(part)
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        _share(list(vars(value).values()))


def check_shared_memory(workers: int, batch_size: int, images: int, image_bytes: int) -> None:
    """Check that the batches which data workers prepare fit into shared memory.

    Args:
        workers: Number of workers.
        batch_size: Images in a batch.
        images: Number of all images.
        image_bytes: Bytes of an image of the model's input.

    Raises:
        NotEnoughMemoryError: They do not.
    """
    if not workers or not _SHARED_MEMORY.is_dir():
        return
    status = os.statvfs(_SHARED_MEMORY)
    free = status.f_bavail * status.f_frsize
    needed = min(workers * _PREFETCHED * batch_size, images) * image_bytes
    if needed > free:
        raise NotEnoughMemoryError(
            f"{workers} data workers need {_mib(needed)} of shared memory for their batches, but "
            f"{_SHARED_MEMORY} has {_mib(free)} left. Enlarge it {HOW_TO_ENLARGE}, or pass fewer "
            "workers (--workers, num_workers) or a smaller --batch-size; 0 workers need none."
        )


def _mib(size: int) -> str:
    return f"{size / 2**20:,.0f} MiB"
