"""Failures of the machine, seen from the code that they interrupt."""

import errno
import fcntl
import functools
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from start_methods import spawning
from torch.utils.data import DataLoader

from cassle_zoo.common.errors import DataError, FolderInUseError, StorageError
from cassle_zoo.common.faults import Advice, locked, receive, translate_errors, worker_setup
from cassle_zoo.common.files import write_text

ADVICE = Advice(output="-o", workers="--workers", memory="", storage="")
DELAY = 0.2  # seconds


@pytest.fixture
def death_notice() -> Iterator[None]:
    """Let the timer's signal raise torch's error at a worker's death."""

    def handler(*_: object) -> None:
        raise RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed. ")

    before = signal.signal(signal.SIGALRM, handler)
    yield
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)


@pytest.mark.usefixtures("death_notice")
@pytest.mark.parametrize("error", [EOFError, ConnectionResetError])
def test_a_workers_late_death_notice_interrupts_nothing_else(error: type[Exception]) -> None:
    def batches() -> Iterator[int]:
        yield 0
        signal.setitimer(signal.ITIMER_REAL, DELAY)  # the signal comes after the sockets' error
        raise error

    with pytest.raises(DataError, match=r"worker.*--workers"):
        list(receive(batches(), ADVICE))
    time.sleep(2 * DELAY)


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_stop_signal_at_a_workers_start_does_not_end_it(
    signum: signal.Signals, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker_loop = torch.utils.data._utils.worker._worker_loop

    def stopped_at_once(*args: object) -> None:
        os.kill(os.getpid(), signum)
        worker_loop(*args)

    monkeypatch.setattr(torch.utils.data._utils.worker, "_worker_loop", stopped_at_once)
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    loader: DataLoader[Any] = DataLoader(
        range(8),  # type: ignore[arg-type]
        batch_size=2,
        num_workers=2,
        worker_init_fn=worker_setup(),
        multiprocessing_context="fork",
    )
    batches = receive(loader, ADVICE)
    first = next(batches)
    assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == before
    assert [b.tolist() for b in (first, *batches)] == [[0, 1], [2, 3], [4, 5], [6, 7]]


def test_spawned_workers_start_with_stop_signals_held_back() -> None:
    loader: DataLoader[Any] = DataLoader(
        [signal.SIGUSR1],  # type: ignore[arg-type]
        num_workers=1,
        collate_fn=functools.partial(signal.pthread_sigmask, signal.SIG_BLOCK),
        multiprocessing_context="spawn",
    )
    [held] = receive(loader, ADVICE)
    assert {signal.SIGINT, signal.SIGTERM} <= held


def test_spawned_workers_that_end_may_have_run_the_script_again() -> None:
    advised = pytest.raises(DataError, match="below `if __name__ == '__main__':`")
    with spawning(), advised, translate_errors(None, 1, ADVICE):
        raise RuntimeError("DataLoader worker (pid 7) exited unexpectedly with exit code 1.")


@pytest.mark.parametrize("folder", ["run", "link/run"])
def test_errors_in_a_folder_are_explained_whatever_it_is_called(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, folder: str
) -> None:
    (tmp_path / "run" / "a.json").mkdir(parents=True)
    (tmp_path / "link").symlink_to(".")  # as /tmp is on macOS
    monkeypatch.chdir(tmp_path)
    for named in (Path(folder), tmp_path / folder):
        explained = pytest.raises(StorageError, match="cannot write in")
        with explained, translate_errors(named, 1, ADVICE):
            write_text(named / "a.json", "")


def test_a_lock_that_a_dying_worker_still_holds_is_waited_for(tmp_path: Path) -> None:
    holder = "import fcntl, sys, time; f = open(sys.argv[1], 'w'); fcntl.flock(f, fcntl.LOCK_EX); "
    holder += "print(flush=True); time.sleep(0.4); open(sys.argv[1] + '.held', 'w')"
    command = [sys.executable, "-c", holder, str(tmp_path / ".lock")]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        with locked(tmp_path):
            assert (tmp_path / ".lock.held").exists()


def test_a_lock_is_not_written_through_a_link(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("precious")
    (tmp_path / ".lock").symlink_to("notes.txt")
    with locked(tmp_path):
        assert (tmp_path / "notes.txt").read_text() == "precious"


def test_a_lock_that_its_holder_removes_is_made_anew(tmp_path: Path) -> None:
    def third() -> None:
        with pytest.raises(FolderInUseError), locked(tmp_path / "a"):
            pass

    def second() -> None:
        with locked(tmp_path / "a"), ThreadPoolExecutor() as pool:
            pool.submit(third).result()

    with ThreadPoolExecutor() as pool:
        with locked(tmp_path / "a"):
            waiting = pool.submit(second)
            time.sleep(0.2)
            shutil.rmtree(tmp_path / "a")
        waiting.result()


def test_a_folder_that_is_removed_before_it_is_locked_is_made_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make, made = Path.mkdir, []

    def mkdir(path: Path, **options: Any) -> None:
        make(path, **options)
        made.append(path)
        if len(made) == 1:
            path.rmdir()  # as its holder does at the end

    monkeypatch.setattr(Path, "mkdir", mkdir)
    with locked(tmp_path / "a"):
        assert made == 2 * [tmp_path / "a"]


def test_a_file_system_without_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    monkeypatch.setattr(fcntl, "flock", refuse)
    said = f"cannot lock .*{os.strerror(errno.ENOSYS)}.*another --out"
    with pytest.raises(StorageError, match=said), locked(tmp_path):
        pass
