"""Walks in one or more processes, which a signal stops cleanly."""

import contextlib
import multiprocessing
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.context import SpawnProcess
from types import FrameType

from benchmarks.study.records import check_data, load_records
from benchmarks.study.run import STOPPED, Walk
from cassle_zoo.common.errors import CassleZooError, ConfigError
from cassle_zoo.eval.datasets import open_data


def run_study(walk: Walk, workers: int = 1) -> int:
    """Walk with one or more processes, which a SIGTERM or SIGINT stops cleanly.

    Args:
        walk: What to do.
        workers: Number of processes.

    Returns:
        0 finished, 143 stopped; of several processes, that of one that failed.

    Raises:
        ConfigError: If jobs were recorded with other settings or data, none is called as asked for,
            or `out` is no folder.
        DataError: If the data cannot be used.
    """
    try:
        walk.records.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise ConfigError(
            f"-o {str(walk.out)!r} is a file, or lies below one; name a folder."
        ) from None
    check_data(load_records(walk.records), open_data("emoji64", walk.data))
    walk.todo()
    if workers == 1:
        return _interruptible(walk)
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=_exit_with, args=(walk,)) for _ in range(workers)]
    with _forwarding(processes) as stopped:
        for process in processes:
            process.start()
            if stopped.is_set():
                process.terminate()
        for process in processes:
            process.join()
    return worst([process.exitcode or 0 for process in processes])


def worst(statuses: Sequence[int]) -> int:
    """Return the exit status of a walk of several processes: an error's, if there is one.

    Args:
        statuses: Of the processes; negative if a signal killed one.
    """
    found = [128 - status if status < 0 else status for status in statuses]
    return max((status for status in found if status not in (0, STOPPED)), default=max(found))


class _Stop(BaseException):
    """Raised by a signal outside of training, which handles signals itself."""


def _interruptible(walk: Callable[[], int]) -> int:
    def stop(signum: int, frame: FrameType | None) -> None:
        raise _Stop

    with _handling(stop):
        try:
            return walk()
        except _Stop:
            return STOPPED


def _exit_with(walk: Walk) -> None:
    try:
        status = _interruptible(walk)
    except CassleZooError as error:
        print(f"cassle-zoo: error: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    raise SystemExit(status)


@contextlib.contextmanager
def _forwarding(processes: Sequence[SpawnProcess]) -> Iterator[threading.Event]:
    """Hand a signal on to all processes; the event tells those that start later."""
    stopped = threading.Event()

    def stop(signum: int, frame: FrameType | None) -> None:
        stopped.set()
        for process in processes:
            if process.is_alive():
                process.terminate()

    with _handling(stop):
        yield stopped


@contextlib.contextmanager
def _handling(handler: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    previous = {s: signal.signal(s, handler) for s in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for signum, old in previous.items():
            signal.signal(signum, old)
