"""What keeps a run from going wrong in silence: lock, signals, bad pictures, bad losses."""

import contextlib
import fcntl
import math
import signal
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any

from torch import Tensor

from cassle_zoo.errors import ConfigError, DataError, NonFiniteLossError


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Create `folder` and hold it against other processes; the lock dies with the process.

    Raises:
        ConfigError: If another process holds it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConfigError(
                f"another process is training in {str(folder)!r}; wait, or use another --out."
            ) from None
        yield


class StopRequest:
    """Becomes true when the process is asked to stop (SIGTERM or SIGINT)."""

    def __init__(self) -> None:
        """Nothing was asked yet."""
        self.requested = False

    def __call__(self, signum: int, frame: FrameType | None) -> None:
        """Note the signal; a second one acts at once, as usual."""
        self.requested = True
        signal.signal(signum, signal.SIG_DFL)


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


class BadPictures:
    """Counts pictures that could not be read, and stops the run when they are too many."""

    def __init__(self, dataset: Any, max_share: float) -> None:
        """Allow `max_share` of the pictures of `dataset` to be bad."""
        self._dataset = dataset
        self._limit = max_share * len(dataset)
        self._indices: set[int] = set()

    def note(self, bad: Tensor) -> list[str]:
        """Take the `bad` column of a batch; return the names of pictures not seen bad before.

        Raises:
            DataError: If more than the allowed share is bad.
        """
        new = sorted(set(bad[bad >= 0].tolist()) - self._indices)
        self._indices.update(new)
        names = [self._name(index) for index in new]
        if len(self._indices) > self._limit:
            raise DataError(
                f"{len(self._indices)} of {len(self._dataset)} pictures cannot be read, the last "
                f"is {names[-1]}; remove them or raise --data.max-bad-share."
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
