"""Data workers: batches in shared memory, and an explanation if there is no room for them."""

import dataclasses
from typing import TypeVar

from torch import Tensor
from torch.utils.data import get_worker_info

from cassle_zoo.common.errors import NotEnoughMemoryError

T = TypeVar("T")


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
            "/dev/shm (docker run --shm-size=8g; mount -o remount,size=8g /dev/shm), or use fewer "
            "workers or smaller batches; 0 workers need none."
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
