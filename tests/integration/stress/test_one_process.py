"""Faults of a run in one process; every run must end as if nothing had happened."""

import os
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from stress_run import CHECKPOINT_EVERY, configuration
from stress_runs import (
    DICE,
    EPOCHS,
    EXPLAINED,
    KILLS,
    STOPPED,
    Run,
    differences,
    start,
    steps_logged,
    steps_lost,
    steps_saved,
)

from cassle_zoo.records import CHECKPOINT_FILE, PREVIOUS_CHECKPOINT_FILE
from cassle_zoo.train import trainer
from cassle_zoo.train.config import TrainConfig
from cassle_zoo.train.trainer import Trainer

pytestmark = pytest.mark.slow

TIMES = max(2, KILLS // 5)
CHECKPOINT_BYTES = 1_700_000  # rounded up


@pytest.fixture
def config(images: Path) -> TrainConfig:
    return configuration(images, epochs=EPOCHS)


@pytest.fixture
def repeat(config: TrainConfig, tmp_path: Path, undisturbed: Path, row: Any) -> Callable[..., Any]:
    """Call with a fault: it disturbs runs, lets each of them end, and compares them."""

    def repeat(
        name: str,
        fault: Callable[[Path], Run],
        *,
        status: int,
        says: str = "",
        times: int = TIMES,
        folder: Path = tmp_path,
    ) -> Any:
        line = row(name)
        runs = [folder / "run0"]
        while line.injected < times:
            run = fault(runs[-1])
            found = run.wait()
            if found == 0:  # it had finished before the fault
                runs.append(folder / f"run{len(runs)}")
                continue
            line.injected += 1
            assert found == status, run.said()
            assert says in run.said()
            lost = steps_lost(runs[-1])
            assert lost <= CHECKPOINT_EVERY
            line.steps_lost += lost
            line.survived += 1
        last = start(config, runs[-1])
        assert last.wait() == 0, last.said()
        line.else_lost = sum(differences(run, undisturbed) for run in runs)
        assert line.else_lost == 0
        return line

    return repeat


def at_step(step: int, fault: Callable[[Trainer], Any]) -> Callable[[], None]:
    """Return what a process calls so that a fault happens before a step, if it comes to it."""

    def prepare() -> None:
        train_step = Trainer.train_step

        def faulty(self: Trainer, *args: Any) -> dict[str, float]:
            if self.step == step:
                fault(self)
            return train_step(self, *args)

        setattr(Trainer, "train_step", faulty)  # noqa: B010  an assignment that mypy accepts

    return prepare


def a_later_step(out: Path) -> int:
    return steps_logged(out) + DICE.randrange(1, 12)


def terminate(_: Trainer) -> None:
    os.kill(os.getpid(), signal.SIGTERM)


def test_sigkill(config: TrainConfig, repeat: Callable[..., Any]) -> None:
    def fault(out: Path) -> Run:
        run = start(config, out)
        if DICE.random() < 0.5:  # else perhaps before the first step
            run.wait_for_checkpoint()
        run.process.join(DICE.uniform(0, 0.3))
        run.process.kill()
        return run

    repeat("SIGKILL at a random moment", fault, status=-signal.SIGKILL, times=KILLS)


@pytest.mark.parametrize("workers", [0, 1])
def test_sigterm(images: Path, repeat: Callable[..., Any], workers: int) -> None:
    config = configuration(images, epochs=EPOCHS, workers=workers)

    def fault(out: Path) -> Run:
        run = start(config, out, os.setsid)
        run.wait_for_checkpoint()
        run.process.join(DICE.uniform(0, 0.3))
        if run.process.is_alive():
            os.killpg(run.process.pid, signal.SIGTERM)
        return run

    name = "SIGTERM to " + ("the run and its data worker" if workers else "the run")
    says = "the same command continues"
    line = repeat(name, fault, status=STOPPED, says=says)
    assert line.steps_lost == 0


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    if os.geteuid() != 0 or sys.platform != "linux":
        pytest.skip("only root on Linux can mount a small file system")
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=128m", "tmpfs", str(disk)]
    done = subprocess.run(mount, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"cannot mount a small file system: {done.stderr.strip()}")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


def test_full_disk(config: TrainConfig, small_disk: Path, repeat: Callable[..., Any]) -> None:
    def fault(out: Path) -> Run:
        step = a_later_step(out)
        start(config, out, at_step(step, terminate)).wait()
        ballast = small_disk / "ballast"
        room = DICE.randrange(CHECKPOINT_BYTES)
        ballast.write_bytes(bytes(max(0, shutil.disk_usage(small_disk).free - room)))
        run = start(config, out)
        run.process.join()
        ballast.unlink()
        return run

    says = "No space left on device; the checkpoints"
    repeat("disk full (a small tmpfs)", fault, status=EXPLAINED, says=says, folder=small_disk)


def exhaust_memory(_: Trainer) -> None:
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    room = used + 2**20
    resource.setrlimit(resource.RLIMIT_AS, (room, room))
    torch.zeros(2**26)


def limit_files(_: Trainer) -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (DICE.randrange(10**6),) * 2)


def break_loss(_: Trainer) -> None:
    make_views = getattr(trainer, "make_views")  # noqa: B009  mypy: it is not the trainer's own

    def broken(*args: Any) -> Any:
        views = make_views(*args)
        views.images[0].mul_(float("nan"))
        return views

    setattr(trainer, "make_views", broken)  # noqa: B010


def kill_worker(_: Trainer) -> None:
    for process in torch.multiprocessing.active_children():
        process.kill()


@pytest.mark.parametrize(
    ("name", "fault", "says"),
    [
        ("memory exhausted (RLIMIT_AS)", exhaust_memory, "--optim.batch-size 2"),
        ("file too large (RLIMIT_FSIZE)", limit_files, "File too large; the checkpoints"),
        ("a loss that is not finite", break_loss, "the loss became nan"),
        ("data worker killed", kill_worker, "--data.workers"),
    ],
)
def test_explained(
    images: Path,
    repeat: Callable[..., Any],
    name: str,
    fault: Callable[[Trainer], Any],
    says: str,
) -> None:
    if fault is exhaust_memory and sys.platform != "linux":
        pytest.skip("reads its size from /proc")
    workers = 1 if fault is kill_worker else 0
    config = configuration(images, epochs=EPOCHS, workers=workers)

    def faulty(out: Path) -> Run:
        step = a_later_step(out)
        return start(config, out, at_step(step, fault))

    repeat(name, faulty, status=EXPLAINED, says=says)


def cut(path: Path) -> None:
    os.truncate(path, DICE.randrange(path.stat().st_size))


def test_checkpoints_cut_short(
    config: TrainConfig, tmp_path: Path, undisturbed: Path, row: Any
) -> None:
    out = tmp_path / "run"
    start(config, out, at_step(7, terminate)).wait()
    line = row("latest checkpoint cut short")
    for _ in range(TIMES):
        saved = steps_saved(out)
        cut(out / CHECKPOINT_FILE)
        line.injected += 1
        line.steps_lost += saved - steps_saved(out)
        step = a_later_step(out)
        run = start(config, out, at_step(step, terminate))
        assert run.wait() in (STOPPED, 0), run.said()
        assert f"{CHECKPOINT_FILE} is damaged; using the one before" in run.said()
        line.survived += 1
    last = start(config, out)
    assert last.wait() == 0, last.said()
    line.else_lost = differences(out, undisturbed)
    assert line.else_lost == 0

    line = row("both checkpoints cut short: an error")
    for _ in range(TIMES):
        line.injected += 1
        for name in (CHECKPOINT_FILE, PREVIOUS_CHECKPOINT_FILE):
            cut(out / name)
        run = start(config, out)
        assert run.wait() == EXPLAINED, run.said()
        assert "all checkpoints" in run.said()
        line.survived += 1


def test_vanishing_files(images: Path, tmp_path: Path, undisturbed: Path, row: Any) -> None:
    line = row("image vanishes during the run")
    for number in range(TIMES):
        root = tmp_path / f"images{number}"
        shutil.copytree(images, root)
        victim = root / f"{DICE.randrange(22):02d}.png"
        config = configuration(root, epochs=EPOCHS)
        line.injected += 1
        step = DICE.randrange(40)
        out = tmp_path / f"run{number}"

        def vanish(_: Trainer, path: Path = victim) -> None:
            path.unlink()

        run = start(config, out, at_step(step, vanish))
        assert run.wait() == 0, run.said()
        assert run.said().count(f"{victim.name}' cannot be read") == 1
        line.else_lost += steps_logged(out) != steps_logged(undisturbed)
        line.survived += 1
    assert line.else_lost == 0
