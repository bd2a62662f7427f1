"""Walks in one or more processes, which a signal stops cleanly."""

import contextlib
import multiprocessing
import signal
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.context import SpawnProcess
from types import FrameType

from cassle_zoo.errors import CassleZooError, ConfigError
from cassle_zoo.eval.datasets import open_data
from cassle_zoo.study.records import check_data, load_records
from cassle_zoo.study.run import STOPPED, Walk


def run_study(walk: Walk, workers: int = 1) -> int:
    """Walk with one or more processes, which a SIGTERM or SIGINT stops cleanly.

    Args:
        walk: What to do.
        workers: Number of processes.

    Returns:
        The worst exit status of the walks: see `Walk`.

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
    with _forwarding(processes):
        for process in processes:
            process.start()
        for process in processes:
            process.join()
    # A process that a signal killed has a negative status.
    return max(abs(process.exitcode or 0) for process in processes)


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
        raise SystemExit(f"cassle-zoo: error: {error}") from None
    raise SystemExit(status)


@contextlib.contextmanager
def _forwarding(processes: Sequence[SpawnProcess]) -> Iterator[None]:
    def stop(signum: int, frame: FrameType | None) -> None:
        for process in processes:
            if process.is_alive():
                process.terminate()

    with _handling(stop):
        yield


@contextlib.contextmanager
def _handling(handler: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    previous = {s: signal.signal(s, handler) for s in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for signum, old in previous.items():
            signal.signal(signum, old)
