"""Runs in processes that can be disturbed, and what they have lost afterwards."""

import csv
import dataclasses
import multiprocessing
import os
import random
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file

from cassle_zoo.checkpoints.run_checkpoint import load_checkpoint
from cassle_zoo.common.errors import CassleZooError
from cassle_zoo.records import CHECKPOINT_FILE
from cassle_zoo.train.config import TrainConfig
from cassle_zoo.train.loop import train

EPOCHS = 12
KILLS = int(os.environ.get("CASSLE_ZOO_KILLS", "5"))
STOPPED, EXPLAINED = 143, 3
DICE = random.Random(int(os.environ.get("CASSLE_ZOO_SEED", "0")))
_fork = multiprocessing.get_context("fork")


@dataclasses.dataclass
class Run:
    """A process that trains.

    Attributes:
        process: The process.
        out: Folder of the run.
        log: File with what it printed.
    """

    process: Any
    out: Path
    log: Path

    def wait(self) -> int:
        """Return the exit status: 0, STOPPED, EXPLAINED (an error of ours), or another (a bug)."""
        self.process.join(300)
        assert self.process.exitcode is not None, "it hangs"
        return int(self.process.exitcode)

    def said(self) -> str:
        """Return what it printed."""
        return self.log.read_text()

    def wait_for_checkpoint(self) -> None:
        """Wait for one more checkpoint, or for the end of the run."""
        before = checkpoint_time(self.out)
        while self.process.is_alive() and checkpoint_time(self.out) == before:
            time.sleep(0.002)


def checkpoint_time(out: Path) -> int:
    """Return when the latest checkpoint was written; 0 if there is none (or not for a moment)."""
    try:
        return (out / CHECKPOINT_FILE).stat().st_mtime_ns
    except FileNotFoundError:
        return 0


def start(config: TrainConfig, out: Path, before: Callable[[], Any] = lambda: None) -> Run:
    """Train in a process forked off this one, so that nothing need be imported anew."""
    log = out.with_name(f"{out.name}.log")
    log.write_text("")  # for a process that is killed at once

    def work() -> None:
        sys.stdout = sys.stderr = log.open("w", buffering=1)
        before()
        try:
            finished = train(config, out).finished
        except CassleZooError as error:
            print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
            sys.exit(EXPLAINED)
        sys.exit(0 if finished else STOPPED)

    process = _fork.Process(target=work)
    process.start()
    return Run(process, out, log)


def steps_saved(out: Path) -> int:
    """Return the step after which the next start continues."""
    state = load_checkpoint(out)[0]
    return 0 if state is None else int(state["step"])


def steps_lost(out: Path) -> int:
    """Count the logged steps that the next start does again."""
    return steps_logged(out) - steps_saved(out)


def logged(run: Path) -> dict[tuple[str, str], str]:
    """The numbers in metrics.csv that do not tell of speed, by step and name."""
    with (run / "metrics.csv").open(newline="") as file:
        rows = list(csv.reader(file))[1:]
    return {(step, name): value for step, name, value in rows if name != "images_per_second"}


def differences(run: Path, undisturbed: Path) -> int:
    """Count weights and logged numbers that differ, or are missing."""
    found = 0
    for file in ("backbone", "projector"):
        a, b = (load_file(r / "final" / f"{file}.safetensors") for r in (run, undisturbed))
        found += len(a.keys() ^ b.keys())
        found += sum(not np.array_equal(a[key], b[key]) for key in a.keys() & b.keys())
    left, right = logged(run), logged(undisturbed)
    return found + sum(left.get(key) != right.get(key) for key in left.keys() | right.keys())


def steps_logged(run: Path) -> int:
    """The last step that metrics.csv tells of."""
    if not (run / "metrics.csv").exists():
        return 0
    with (run / "metrics.csv").open(newline="") as file:
        steps = [row[0] for row in csv.reader(file) if len(row) == 3]
    return max((int(step) for step in steps if step.isdigit()), default=0)
