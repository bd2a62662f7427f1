"""Extraction on a machine that fails: memory for a whole batch, or for the data workers."""

import os
import warnings
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from cassle_zoo.common.errors import CassleZooError, NotEnoughMemoryError
from cassle_zoo.common.faults import Advice, is_out_of_memory

ADVICE = Advice(
    workers="workers (--workers, num_workers)",
    memory="Pass a smaller --batch-size (batch_size), fewer --workers (num_workers), or "
    "--precision bf16.",
    storage="what was written before is intact. Make room, then repeat the command; with a folder "
    "as output (-o FOLDER/) it continues.",
)
_SHARED_MEMORY = Path("/dev/shm")
_PREFETCHED = 2  # batches of each worker that are ready or being made


class Halving:
    """Computes batches; if the memory is exhausted, in halves, quarters, ... from then on."""

    def __init__(self, compute: Callable[[Tensor], dict[str, Tensor]]) -> None:
        """Take a function from (B, C, H, W) to outputs (B, ...) by name."""
        self._compute = compute
        self._most = 0

    def __call__(self, ready: Tensor) -> dict[str, Tensor]:
        """Return the outputs of a batch.

        Raises:
            RuntimeError: As torch raises it, if the memory does not suffice for one image.

        Warns:
            UserWarning: The batch is halved.
        """
        while True:
            size = min(self._most, len(ready)) or len(ready)
            try:
                pieces = [self._compute(piece) for piece in ready.split(size)]
                return {name: torch.cat([piece[name] for piece in pieces]) for name in pieces[0]}
            except (MemoryError, RuntimeError) as error:
                known = not isinstance(error, CassleZooError) and is_out_of_memory(error)
                if size == 1 or not known:
                    raise
                reason = str(error).strip().partition("\n")[0] or type(error).__name__
            self._most = size // 2
            warnings.warn(
                f"out of memory with batches of {size} ({reason}); it goes on with {size // 2}.",
                stacklevel=2,
            )
            torch.cuda.empty_cache()


def check_shared_memory(workers: int, batch_bytes: int) -> None:
    """Check that the batches which data workers prepare fit into shared memory.

    Args:
        workers: Number of workers.
        batch_bytes: Bytes of a batch of the model's input.

    Raises:
        NotEnoughMemoryError: They do not.
    """
    if not workers or not _SHARED_MEMORY.is_dir():
        return
    status = os.statvfs(_SHARED_MEMORY)
    free, needed = status.f_bavail * status.f_frsize, workers * _PREFETCHED * batch_bytes
    if needed > free:
        raise NotEnoughMemoryError(
            f"{workers} data workers need {_mib(needed)} of shared memory for their batches, but "
            f"{_SHARED_MEMORY} has {_mib(free)} left. Enlarge it (docker run --shm-size=8g; "
            f"mount -o remount,size=8g {_SHARED_MEMORY}), or pass fewer {ADVICE.workers} or a "
            "smaller --batch-size; 0 workers need none."
        )


def _mib(size: int) -> str:
    return f"{size / 2**20:,.0f} MiB"
