import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from benchmarks.study.processes import worst
from benchmarks.study.run import STOPPED


def test_the_status_of_several_processes_is_that_of_one_that_failed() -> None:
    assert worst([0, 0]) == 0
    assert worst([0, STOPPED]) == STOPPED
    assert worst([2, STOPPED, 0]) == 2
    assert worst([0, -signal.SIGTERM]) == STOPPED
    assert worst([STOPPED, -signal.SIGKILL]) == 137


_PROGRAM = """
import dataclasses, sys
from pathlib import Path
sys.path.insert(0, {shared!r})
from tiny_study import MACHINE, small_design
from benchmarks.study.processes import run_study
from benchmarks.study.run import Walk
design = dataclasses.replace(small_design(), choose=False, epochs=200)
walk = Walk(out=Path({out!r}), data=Path({data!r}), design=design, machine=MACHINE, only=("main",))
raise SystemExit(run_study(walk, {workers}))
"""


@pytest.mark.slow
def test_a_signal_stops_all_workers_which_save_their_work(emoji: Path, tmp_path: Path) -> None:
    shared = Path(__file__).parents[2] / "shared"
    program = _PROGRAM.format(shared=str(shared), out=str(tmp_path), data=str(emoji), workers=2)
    command = [sys.executable, "-c", program]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 120
    while len(list(tmp_path.glob("runs/*/train/checkpoint.pt"))) < 2:
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=120)
    assert process.returncode == STOPPED
    assert said.count("stopped; the same command continues") == 2
    assert not list(tmp_path.glob("records/*"))
