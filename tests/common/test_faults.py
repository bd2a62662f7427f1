"""Failures of the machine, seen from the code that they interrupt."""

import signal
import time
from collections.abc import Iterator

import pytest

from cassle_zoo.common.errors import DataError
from cassle_zoo.common.faults import Advice, lost_workers

ADVICE = Advice(output="-o", workers="--workers", memory="", storage="")
DELAY = 0.2  # seconds


@pytest.fixture
def late_signal() -> Iterator[None]:
    """Raise torch's error at a worker's death, but after the death has been seen elsewhere."""

    def handler(*_: object) -> None:
        raise RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed. ")

    before = signal.signal(signal.SIGALRM, handler)
    signal.setitimer(signal.ITIMER_REAL, DELAY)
    yield
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)


@pytest.mark.usefixtures("late_signal")
@pytest.mark.parametrize("error", [EOFError, ConnectionResetError])
def test_a_workers_late_death_notice_interrupts_nothing_else(error: type[Exception]) -> None:
    with pytest.raises(DataError, match=r"worker.*--workers"), lost_workers(ADVICE):
        raise error
    time.sleep(2 * DELAY)
