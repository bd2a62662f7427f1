"""Faults of a run in one process; every run must end as if nothing had happened."""

import os
import resource
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from runs import DICE, EPOCHS, EXPLAINED, STOPPED, Run, differences, start, steps_logged, steps_lost
from tiny import configuration

from cassle_zoo.train import trainer
from cassle_zoo.train.checkpoint import LATEST, PREVIOUS
from cassle_zoo.train.config import TrainConfig
from cassle_zoo.train.trainer import Trainer

KILLS = int(os.environ.get("CASSLE_ZOO_KILLS", "50"))
TIMES = max(2, KILLS // 5)


@pytest.fixture
def config(pictures: Path) -> TrainConfig:
    return configuration(pictures, epochs=EPOCHS)


def repeat(
    fault: Callable[[Path], Run],
    times: int,
    *,
    status: int,
    says: str = "",
    config: TrainConfig,
    folder: Path,
    undisturbed: Path,
    row: Any,
) -> None:
    """Disturb runs until a fault has happened so many times; let each finish, and compare."""
    runs = [folder / "run0"]
    while row.injected < times:
        run = fault(runs[-1])
        found = run.wait()
        if found == 0:  # it had finished before the fault
            runs.append(folder / f"run{len(runs)}")
            continue
        row.injected += 1
        assert found == status, run.said()
        assert says in run.said()
        row.steps_lost += steps_lost(runs[-1])
        row.survived += 1
    last = start(config, runs[-1])
    assert last.wait() == 0, last.said()
    row.else_lost = sum(differences(run, undisturbed) for run in runs)
    assert row.else_lost == 0


def test_sigkill(config: TrainConfig, tmp_path: Path, undisturbed: Path, row: Any) -> None:
    def fault(out: Path) -> Run:
        run = start(config, out)
        if DICE.random() < 0.5:  # else perhaps before the first step
            run.let_it_work(0.3)
        run.process.join(DICE.uniform(0, 0.3))
        run.signal(signal.SIGKILL)
        return run

    repeat(
        fault, KILLS, status=-signal.SIGKILL, config=config, folder=tmp_path,
        undisturbed=undisturbed, row=row("SIGKILL at a random moment"),
    )  # fmt: skip


def test_sigterm(config: TrainConfig, tmp_path: Path, undisturbed: Path, row: Any) -> None:
    line = row("SIGTERM at a random moment")

    def fault(out: Path) -> Run:
        run = start(config, out)
        run.let_it_work(0.3)
        run.signal(signal.SIGTERM)
        return run

    repeat(
        fault, TIMES, status=STOPPED, says="the same command continues", config=config,
        folder=tmp_path, undisturbed=undisturbed, row=line,
    )  # fmt: skip
    assert line.steps_lost == 0


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    disk = tmp_path / "disk"
    disk.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", str(disk)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"cannot mount a small file system: {done.stderr.strip()}")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


def test_full_disk(config: TrainConfig, small_disk: Path, undisturbed: Path, row: Any) -> None:
    size = 1_700_000  # of a checkpoint, and a bit

    def fault(out: Path) -> Run:
        step = a_later_step(out)
        start(config, out, lambda: stop_at(step)).wait()
        ballast = small_disk / "ballast"
        free = shutil.disk_usage(small_disk).free
        ballast.write_bytes(bytes(max(0, free - DICE.randrange(size))))
        run = start(config, out)
        run.process.join()
        ballast.unlink()
        return run

    def stop_at(step: int) -> None:
        at_step(step, lambda _: os.kill(os.getpid(), signal.SIGTERM))

    repeat(
        fault, TIMES, status=EXPLAINED, says="No space left on device; the checkpoints",
        config=config, folder=small_disk, undisturbed=undisturbed,
        row=row("disk full (a small tmpfs)"),
    )  # fmt: skip


def at_step(step: int, fault: Callable[[Trainer], Any]) -> None:
    """Let a fault happen before a step, if the run comes to it (call this in the process)."""
    train_step = Trainer.train_step

    def faulty(self: Trainer, *args: Any) -> dict[str, float]:
        if self.step == step:
            fault(self)
        return train_step(self, *args)

    Trainer.train_step = faulty  # type: ignore[method-assign]


def a_later_step(out: Path) -> int:
    return steps_logged(out) + DICE.randrange(1, 12)


def exhaust_memory(_: Trainer) -> None:
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    room = used + 2**20
    resource.setrlimit(resource.RLIMIT_AS, (room, room))
    torch.zeros(2**26)


def limit_files(_: Trainer) -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (DICE.randrange(10**6),) * 2)


def break_loss(_: Trainer) -> None:
    make_views = trainer.make_views

    def broken(*args: Any) -> Any:
        views = make_views(*args)
        views.images[0].mul_(float("nan"))
        return views

    trainer.make_views = broken  # type: ignore[assignment]


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
    config: TrainConfig, pictures: Path, tmp_path: Path, undisturbed: Path, row: Any,
    name: str, fault: Callable[[Trainer], Any], says: str,
) -> None:  # fmt: skip
    workers = 1 if fault is kill_worker else 0
    config = configuration(pictures, epochs=EPOCHS, workers=workers)

    def faulty(out: Path) -> Run:
        step = a_later_step(out)
        return start(config, out, lambda: at_step(step, fault))

    repeat(
        faulty, TIMES, status=EXPLAINED, says=says, config=config, folder=tmp_path,
        undisturbed=undisturbed, row=row(name),
    )  # fmt: skip


def cut(path: Path) -> None:
    os.truncate(path, DICE.randrange(path.stat().st_size))


def test_checkpoints_cut_short(
    config: TrainConfig, tmp_path: Path, undisturbed: Path, row: Any
) -> None:
    def fault(out: Path) -> Run:
        if (out / PREVIOUS).exists():
            cut(out / LATEST)
        step = a_later_step(out)
        stop = start(config, out, lambda: at_step(step, lambda _: os.kill(os.getpid(), 15)))
        return stop

    line = row("latest checkpoint cut short")
    repeat(
        fault, TIMES + 1, status=STOPPED, config=config, folder=tmp_path,
        undisturbed=undisturbed, row=line,
    )  # fmt: skip
    # The first time there was nothing to cut; each cut costs one step.
    line.injected, line.survived, line.steps_lost = TIMES, line.survived - 1, TIMES

    line = row("both checkpoints cut short: an error")
    out = tmp_path / "run0"
    for _ in range(TIMES):
        line.injected += 1
        for name in (LATEST, PREVIOUS):
            cut(out / name)
        run = start(config, out)
        assert run.wait() == EXPLAINED, run.said()
        assert "all checkpoints" in run.said()
        line.survived += 1


def test_vanishing_files(pictures: Path, tmp_path: Path, undisturbed: Path, row: Any) -> None:
    line = row("picture vanishes during the run")
    for number in range(TIMES):
        root = tmp_path / f"pictures{number}"
        shutil.copytree(pictures, root)
        victim = root / f"{DICE.randrange(22):02d}.png"
        config = configuration(root, epochs=EPOCHS)
        line.injected += 1
        step = DICE.randrange(40)
        out = tmp_path / f"run{number}"
        run = start(config, out, lambda s=step, v=victim: at_step(s, lambda _: v.unlink()))
        assert run.wait() == 0, run.said()
        assert run.said().count(f"{victim.name}' cannot be read") == 1
        line.else_lost += steps_logged(out) != steps_logged(undisturbed)
        line.survived += 1
    assert line.else_lost == 0
