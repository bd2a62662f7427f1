"""Guards against silent failure of a run: lock, signals, bad data, memory, disk, losses."""

import contextlib
import errno
import fcntl
import math
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch import Tensor

from cassle_zoo.common.errors import (
    CassleZooError,
    ConfigError,
    DataError,
    FolderInUseError,
    NonFiniteLossError,
    NotEnoughMemoryError,
    ProcessLostError,
    StorageError,
)

WORKER_ADVICE = (
    "Usual reasons: not enough memory (pass fewer --data.workers) or shared memory (/dev/shm). "
    "The same command continues from the last checkpoint."
)
SAME_REQUEST = 10  # seconds in which further SIGTERMs are the first one, sent again
SMALLEST_LOSS_SCALE = 2.0**-20  # fp16's smallest number is 2^-24
_FORBIDDEN = (errno.EACCES, errno.EPERM, errno.EROFS)
_DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Create `folder` and hold it against other processes; the lock dies with the process.

    Raises:
        FolderInUseError: If another process holds it.
        ConfigError: If it is not a folder.
        StorageError: If it is not writable.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / ".lock").open("w")
    except (FileExistsError, NotADirectoryError):
        raise ConfigError(
            f"--out {str(folder)!r} is a file or a broken link, or is below one; name a folder."
        ) from None
    except OSError as error:
        raise _not_writable(folder, error) from error
    with lock as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise FolderInUseError(
                f"another process is training in {str(folder)!r}; wait, or use another --out."
            ) from None
        yield


class StopRequest:
    """Becomes true when the process is asked to stop (SIGTERM or SIGINT)."""

    def __init__(self) -> None:
        self.requested = False
        self._since = 0.0

    def __call__(self, signum: int, frame: FrameType | None) -> None:
        """Note the signal; a later one acts at once, as usual."""
        now = time.monotonic()
        # torchrun forwards the SIGTERM that a queue has sent to all processes already.
        again = signum == signal.SIGTERM and now < self._since + SAME_REQUEST
        if self.requested and not again:
            signal.signal(signum, signal.SIG_DFL)
            signal.raise_signal(signum)
        elif not self.requested:
            self.requested, self._since = True, now


@contextlib.contextmanager
def stop_signals() -> Iterator[StopRequest]:
    """Catch SIGTERM and SIGINT while the context is open (in the main thread only)."""
    stop = StopRequest()
    try:
        previous = {s: signal.signal(s, stop) for s in (signal.SIGTERM, signal.SIGINT)}
    except ValueError:  # not the main thread: Python allows no handlers there
        yield stop
        return
    try:
        yield stop
    finally:
        for signum, handler in previous.items():
            signal.signal(signum, handler)


class BadImages:
    """Counts images that could not be read, and stops the run when they are too many."""

    def __init__(self, dataset: Any, max_fraction: float) -> None:
        """Allow `max_fraction` of the images of `dataset` to be bad."""
        self._dataset = dataset
        self._limit = max_fraction * len(dataset)
        self._indices: set[int] = set()
        self._count = 0

    def note(self, bad: Tensor) -> list[str]:
        """Take the `bad` column of a batch; return the names of images not seen bad before.

        Raises:
            DataError: If more than the allowed fraction is bad.
        """
        new = sorted(set(bad[bad >= 0].tolist()) - self._indices)
        self._indices.update(new)
        names = [self._name(index) for index in new]
        # A lost shard counts for all images in it.
        self._count += sum(map(getattr(self._dataset, "weight", lambda _: 1), new))
        if self._count > self._limit:
            raise DataError(
                f"{self._count} of {len(self._dataset)} images cannot be read, the last "
                f"is {names[-1]}; remove them or raise --data.max-bad-fraction."
            )
        return names

    def _name(self, index: int) -> str:
        filename = getattr(self._dataset, "filename", None)
        return repr(filename(index)) if filename else f"number {index}"


def check_finite(loss: float, step: int) -> None:
    """Check a step's loss.

    Raises:
        NonFiniteLossError: If it is NaN or infinite.
    """
    if not math.isfinite(loss):
        raise NonFiniteLossError(
            f"the loss became {loss} at step {step + 1}; the last checkpoint is from before. "
            "Usual reasons: a learning rate that is too high (--optim.base-lr), or too little "
            "warm-up (--optim.warmup-epochs); --run.precision fp32 rules out rounding."
        )


def check_loss_scale(scale: float, step: int) -> None:
    """Check the factor on an fp16 loss, which halves whenever gradients overflow.

    Raises:
        NonFiniteLossError: If it has become so small that overflow cannot be the reason.
    """
    if scale < SMALLEST_LOSS_SCALE:
        raise NonFiniteLossError(
            f"at step {step} the gradients are NaN or infinite even with the loss scaled by "
            f"{scale:g}, so that no step is taken any more; --run.precision fp32 or bf16 rules out "
            "overflow, --optim.base-lr and --optim.warmup-epochs a training that diverges."
        )


@contextlib.contextmanager
def translate_errors(out: Path, batch_size: int) -> Iterator[None]:
    """Turn failures of the machine into errors that say what to do.

    Args:
        out: Folder of the run.
        batch_size: Images per step.

    Raises:
        NotEnoughMemoryError: If the memory of the machine or a GPU, or shared memory, is exhausted.
        StorageError: If the disk is full, or a file in `out` cannot be written.
        DataError: If a data worker was killed.
        ProcessLostError: If another process, or the network to it, is gone.
    """
    try:
        yield
    except CassleZooError:
        raise
    except (MemoryError, RuntimeError) as error:
        if "</torch_" in str(error):  # what torch calls its files in shared memory
            reason = str(error).rpartition("RuntimeError: ")[2].strip()
            raise NotEnoughMemoryError(
                f"no room in shared memory for the batches of the data workers ({reason}). Enlarge "
                "/dev/shm (docker run --shm-size=8g; mount -o remount,size=8g /dev/shm), or pass "
                "fewer --data.workers; 0 needs none. The same command continues."
            ) from error
        if _is_out_of_memory(error):
            raise _memory_advice(error, batch_size) from error
        if "DataLoader worker (pid" in str(error):
            raise DataError(f"{str(error).strip().rstrip('.')}. {WORKER_ADVICE}") from error
        if isinstance(error, torch.distributed.DistError) or "/gloo/" in str(error):
            reason = str(error).strip().partition("\n")[0]
            raise ProcessLostError(
                f"lost the other processes ({reason}). Under torchrun --max-restarts N the run "
                "restarts from the last checkpoint, as it does with the same command."
            ) from error
        raise
    except OSError as error:
        if error.errno == errno.ENOMEM:
            raise _memory_advice(error, batch_size) from error
        if error.errno in _DISK_FULL:
            raise StorageError(
                f"cannot write in {str(out)!r}: {error.strerror}; the checkpoints there are "
                "intact. Make room, then the same command continues."
            ) from error
        if error.filename is not None and Path(os.fsdecode(error.filename)).is_relative_to(out):
            raise _not_writable(out, error) from error
        raise


def _not_writable(out: Path, error: OSError) -> StorageError:
    """Return the error for a folder of a run in which something cannot be written."""
    fix = "get permission to write there" if error.errno in _FORBIDDEN else "mend that"
    path = str(out) if error.filename is None else os.fsdecode(error.filename)
    return StorageError(
        f"cannot write in {str(out)!r}: {error.strerror or error} ({path}); use another --out, or "
        f"{fix}."
    )


def _is_out_of_memory(error: BaseException) -> bool:
    # torch has no class of its own for the CPU's memory, nor for that of cuDNN and cuBLAS.
    phrases = ("can't allocate memory", "not enough memory", "out of memory", "ALLOC_FAILED")
    known = isinstance(error, MemoryError | torch.OutOfMemoryError)
    return known or any(phrase in str(error) for phrase in phrases)


def _memory_advice(error: BaseException, batch_size: int) -> NotEnoughMemoryError:
    reason = str(error).strip().partition("\n")[0] or type(error).__name__
    return NotEnoughMemoryError(
        f"out of memory with batches of {batch_size} ({reason}). The last checkpoint is intact. "
        "Without changing the result: split each batch among more processes (torchrun), or "
        "pass fewer --data.workers if it is the machine's memory, not a GPU's. As a new run with "
        f"another --out: --optim.accumulate 2 (the same batch in two parts), --optim.batch-size "
        f"{max(2, batch_size // 2)} or --run.precision bf16. "
        "--dry-run shows the memory that a run needs."
    )
