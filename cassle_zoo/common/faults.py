"""Guards against failures of the machine: locks, signals, memory, disk, killed data workers."""

import contextlib
import errno
import fcntl
import functools
import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from multiprocessing import resource_tracker
from pathlib import Path
from types import FrameType
from typing import Any, TextIO, TypeVar

import torch
from PIL import Image, ImageFile, PngImagePlugin

from cassle_zoo.common.errors import (
    CassleZooError,
    ConfigError,
    DataError,
    FolderInUseError,
    NotEnoughMemoryError,
    StorageError,
)
from cassle_zoo.common.files import DISK_FULL
from cassle_zoo.common.workers import HOW_TO_ENLARGE

SAME_REQUEST = 10  # seconds in which further SIGTERMs are the first one, sent again
WORKER_GRACE = 30  # seconds
DEATH_NOTICE = 2  # seconds that a dead worker's SIGCHLD may take on a busy machine
_STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)
_FORBIDDEN = (errno.EACCES, errno.EPERM, errno.EROFS)
_DYING = 2.0  # seconds for which workers killed with their parent may still hold its lock
_locks: set[TextIO] = set()  # that are open in this process
_PILLOW: tuple[tuple[Any, str], ...] = (
    (Image, "MAX_IMAGE_PIXELS"),
    (ImageFile, "LOAD_TRUNCATED_IMAGES"),
    (PngImagePlugin, "MAX_TEXT_CHUNK"),
    (PngImagePlugin, "MAX_TEXT_MEMORY"),
)
"""Settings that decide which images can be read."""
T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Advice:
    """What messages about failures of the machine tell the user to do.

    Attributes:
        output: The option that names the folder that is written.
        workers: The option for the number of data workers.
        memory: What to do if the memory is exhausted: sentences.
        storage: What to do if the disk is full, after a semicolon.
        afterwards: What the next call does: a sentence, or nothing.
    """

    output: str
    workers: str
    memory: str
    storage: str
    afterwards: str = ""


@contextlib.contextmanager
def locked(folder: Path, *, option: str = "--out", doing: str = "training") -> Iterator[None]:
    """Create `folder` and lock it against other processes; the lock dies with the process.

    Args:
        folder: The folder.
        option: The option that names it, for messages.
        doing: What another process may be doing there, for messages.

    Raises:
        FolderInUseError: If another process holds it.
        ConfigError: If it is not a folder.
        StorageError: If it is not writable, or its file system has no locks.
    """
    deadline = time.monotonic() + _DYING
    while (file := _acquired(folder, option)) is None:
        if time.monotonic() > deadline:
            raise FolderInUseError(
                f"another process is {doing} in {str(folder)!r}; wait, or use another {option}."
            )
        time.sleep(0.02)
    with file:
        _locks.add(file)
        try:
            yield
        finally:
            _locks.discard(file)


def _acquired(folder: Path, option: str) -> TextIO | None:
    """Return the locked file; `None` if another process holds it, or has just removed it."""
    lock = folder / ".lock"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = lock.open("a")  # "w" would empty the file that a link leads to
    except (FileExistsError, NotADirectoryError):
        raise ConfigError(
            f"{option} {str(folder)!r} is a file or a broken link, or is below one; name a folder."
        ) from None
    except OSError as error:
        if str(error.filename) == str(lock) and not folder.exists():
            return None
        raise _not_writable(folder, error, option) from error
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.path.samestat(os.fstat(file.fileno()), os.stat(file.name)):
            return file
    except (BlockingIOError, FileNotFoundError):
        pass
    except OSError as error:
        file.close()
        raise StorageError(
            f"cannot lock {file.name!r} ({error.strerror}), without which two processes could "
            f"write there at once; use another {option}, or mount its file system with locks "
            "(Lustre: -o flock)."
        ) from error
    file.close()
    return None


class StopRequest:
    """Becomes true when the process is asked to stop (SIGTERM or SIGINT)."""

    def __init__(self) -> None:
        self.requested = False
        self._since = 0.0

    def __call__(self, signum: int, frame: FrameType | None) -> None:
        """Note the signal; a later one acts at once, as usual."""
        now = time.monotonic()
        # torchrun forwards a SIGTERM that a queue has already sent to all processes.
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
        previous = {s: signal.signal(s, stop) for s in _STOP_SIGNALS}
    except ValueError:  # not the main thread: Python allows no handlers there
        yield stop
        return
    try:
        yield stop
    finally:
        for signum, handler in previous.items():
            signal.signal(signum, handler)


@contextlib.contextmanager
def translate_errors(folder: Path | None, batch_size: int, advice: Advice) -> Iterator[None]:
    """Turn failures of the machine into errors that say what to do.

    Args:
        folder: Where files are written; None if nowhere.
        batch_size: Images at a time.
        advice: What to do.

    Raises:
        NotEnoughMemoryError: If the memory of the machine or a GPU, or shared memory, is exhausted.
        StorageError: If the disk is full, or a file in `folder` cannot be written.
        DataError: If a data worker was killed.
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
                f"/dev/shm {HOW_TO_ENLARGE}, or pass fewer {advice.workers}; 0 needs none. "
                f"{advice.afterwards}".rstrip()
            ) from error
        if is_out_of_memory(error):
            raise _out_of_memory(error, batch_size, advice) from error
        if "DataLoader worker (pid" in str(error):
            reason = str(error).strip().rstrip(".")
            raise DataError(f"{reason}. {_worker_advice(advice)}") from error
        raise
    except OSError as error:
        if error.errno == errno.ENOMEM:
            raise _out_of_memory(error, batch_size, advice) from error
        if error.errno in DISK_FULL and folder is not None:
            raise StorageError(
                f"cannot write in {str(folder)!r}: {error.strerror}; {advice.storage}"
            ) from error
        if folder is not None and error.filename and _is_below(os.fsdecode(error.filename), folder):
            raise _not_writable(folder, error, advice.output) from error
        raise


def receive(loader: Iterable[T], advice: Advice) -> Iterator[T]:
    """Yield the batches of a loader, whose `worker_init_fn` must be that of `worker_setup`.

    Args:
        loader: A `torch.utils.data.DataLoader`.
        advice: What to do if a worker dies.

    Raises:
        DataError: If one dies while it sends a batch.
    """
    try:
        with _signals_held(loader):
            batches = iter(loader)
        yield from batches
    except (ConnectionError, EOFError) as error:
        _await_death()
        raise DataError(
            f"a data worker died while sending an image ({error!r}). {_worker_advice(advice)}"
        ) from error


@contextlib.contextmanager
def _signals_held(loader: object) -> Iterator[None]:
    """Hold stop signals back: in this thread, and in the workers it starts until they are set up.

    A worker that dies of the signal makes torch raise an error wherever this process is by then,
    which leaves the other workers, and whoever waits for them, behind.
    """
    context: Any = getattr(loader, "multiprocessing_context", None) or multiprocessing
    if getattr(loader, "num_workers", 0) and context.get_start_method() != "fork":
        # Needed by workers that are not forked; older Pythons let the signals through afterwards.
        resource_tracker.ensure_running()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _STOP_SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _await_death() -> None:
    """Wait for torch to report the worker's death here, where it is expected.

    A dying worker's sockets close before its parent gets SIGCHLD, at which torch raises an error
    wherever the main thread is by then: in the middle of the program's end, for example.
    """
    ends = time.monotonic() + DEATH_NOTICE
    try:
        while time.monotonic() < ends:
            time.sleep(0.05)
    except RuntimeError as error:
        if "DataLoader worker (pid" not in str(error):
            raise


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error means that the memory of the machine or a GPU is exhausted."""
    # torch has no error class of its own for the CPU's memory, nor for that of cuDNN and cuBLAS.
    phrases = ("can't allocate memory", "not enough memory", "out of memory", "ALLOC_FAILED")
    known = isinstance(error, MemoryError | torch.OutOfMemoryError)
    return known or any(phrase in str(error) for phrase in phrases)


def worker_setup(niceness: int = 0) -> Callable[[int], None]:
    """Return what sets up a data worker, the `worker_init_fn` of a loader.

    Args:
        niceness: By how much to lower the worker's priority.
    """
    pillow = tuple(getattr(module, name) for module, name in _PILLOW)
    return functools.partial(_set_up, niceness, pillow)


def _set_up(niceness: int, pillow: tuple[Any, ...], _: int) -> None:
    # A worker that was spawned, not forked, has Pillow's defaults.
    for (module, name), value in zip(_PILLOW, pillow, strict=True):
        setattr(module, name, value)
    # A worker inherits its parent's locks, and may outlive it by seconds.
    for file in _locks:
        file.close()
    os.nice(niceness)
    # Its batch must end before a stop signal ends it.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: signal.alarm(WORKER_GRACE))
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _STOP_SIGNALS)


def _is_below(path: str, folder: Path) -> bool:
    """Return whether a path is below a folder, either of which may be relative or below links."""
    return any(
        Path(full(path)).is_relative_to(full(folder))
        for full in (os.path.abspath, os.path.realpath)
    )


def _not_writable(folder: Path, error: OSError, option: str) -> StorageError:
    fix = "get permission to write there" if error.errno in _FORBIDDEN else "remove the reason"
    path = str(folder) if error.filename is None else os.fsdecode(error.filename)
    which = "" if path == str(folder) else f" ({path})"
    return StorageError(
        f"cannot write in {str(folder)!r}: {error.strerror or error}{which}; use another {option}, "
        f"or {fix}."
    )


def _worker_advice(advice: Advice) -> str:
    forked = multiprocessing.get_start_method() == "fork"
    script = "" if forked else ", or a script whose code is not below `if __name__ == '__main__':`"
    return (
        f"Usual reasons: not enough memory (pass fewer {advice.workers}) or shared memory "
        f"(/dev/shm){script}. {advice.afterwards}".rstrip()
    )


def _out_of_memory(error: BaseException, batch_size: int, advice: Advice) -> NotEnoughMemoryError:
    reason = str(error).strip().partition("\n")[0] or type(error).__name__
    return NotEnoughMemoryError(
        f"out of memory with batches of {batch_size} ({reason}). {advice.memory}"
    )
