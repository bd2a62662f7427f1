"""What the machine does to a run: disk, memory, workers, damaged files; tests/stress has more."""

import errno
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from changes import change

from cassle_zoo.checkpoints.run_checkpoint import load_checkpoint, save_checkpoint
from cassle_zoo.cli.main import main
from cassle_zoo.common.errors import (
    ModelFolderError,
    NotEnoughMemoryError,
    ProcessLostError,
    StorageError,
)
from cassle_zoo.records import CHECKPOINT_FILE, PREVIOUS_CHECKPOINT_FILE
from cassle_zoo.train import loop
from cassle_zoo.train.config import TrainConfig
from cassle_zoo.train.run import logs
from cassle_zoo.train.trainer import Trainer


@pytest.fixture
def config(config: TrainConfig) -> TrainConfig:
    return change(config, "run", checkpoint_every=1, monitor_every=0)


def assert_saved(out: Path, after: int) -> None:
    state, damaged, _ = load_checkpoint(out)
    assert state is not None
    assert (state["step"], damaged) == (after, [])


def assert_continues(config: TrainConfig, out: Path, after: int) -> None:
    assert_saved(out, after)
    assert loop.train(config, out) == loop.TrainResult(steps=10, finished=True)


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nMore."),
        RuntimeError("[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate"
                     " memory: you tried to allocate 9 bytes. Error code 12"),
        MemoryError(),
        OSError(errno.ENOMEM, "Cannot allocate memory"),
    ],
    ids=["gpu", "cpu", "python", "fork"],
)  # fmt: skip
def test_out_of_memory_advises(
    config: TrainConfig, tmp_path: Path, fault_at: Any, error: Exception
) -> None:
    advice = r"batches of 4.*torchrun.*--optim\.batch-size 2.*--dry-run"
    with fault_at(2, error), pytest.raises(NotEnoughMemoryError, match=advice) as caught:
        loop.train(config, tmp_path)
    assert "\n" not in str(caught.value)
    assert_saved(tmp_path, after=2)


@pytest.mark.parametrize(
    "reason",
    [
        "unable to allocate shared memory(shm) for file </torch_1_2>: No space left on device (28)",
        "unable to resize file </torch_1_2_0> to the right size: File too large (27)",
    ],
)
def test_shared_memory_advises(
    config: TrainConfig, tmp_path: Path, fault_at: Any, reason: str
) -> None:
    error = RuntimeError(
        "Caught RuntimeError in DataLoader worker process 0.\nOriginal Traceback (most recent "
        f"call last):\n  File ...\nRuntimeError: {reason}\n"
    )
    advice = (
        rf"shared memory .*\({re.escape(reason)}\)\. Enlarge /dev/shm.*--data\.workers; 0 needs"
    )
    with fault_at(2, error), pytest.raises(NotEnoughMemoryError, match=advice) as caught:
        loop.train(config, tmp_path)
    assert "\n" not in str(caught.value)
    assert_saved(tmp_path, after=2)


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("[/pytorch/third_party/gloo/gloo/transport/tcp/pair.cc:545] Read error"),
        torch.distributed.DistBackendError("NCCL error"),
    ],
    ids=["gloo", "nccl"],
)
def test_lost_processes_are_reported(
    config: TrainConfig, tmp_path: Path, fault_at: Any, error: Exception
) -> None:
    says = r"lost the other processes \(.*rror\)\. Under torchrun --max-restarts"
    with fault_at(2, error), pytest.raises(ProcessLostError, match=says):
        loop.train(config, tmp_path)
    assert_saved(tmp_path, after=2)


def test_other_errors_pass(config: TrainConfig, tmp_path: Path, fault_at: Any) -> None:
    for error in (RuntimeError("shapes differ"), OSError(errno.EIO, "Input/output error")):
        message = str(error.args[-1])
        with fault_at(0, error), pytest.raises(type(error), match=message) as caught:
            loop.train(config, tmp_path)
        assert caught.value is error


LIMITED = """
import pickle, resource, sys
config, out, kind, limit = pickle.loads(sys.stdin.buffer.read())
import cassle_zoo.common.errors, cassle_zoo.train.loop as loop
from cassle_zoo.train.trainer import Trainer
train_step = Trainer.train_step

def limited(self, *args):
    if self.step == 3:
        room = limit
        if kind == "RLIMIT_AS":
            used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
            room += used
        resource.setrlimit(getattr(resource, kind), (room, room))
        if kind == "RLIMIT_AS":
            import torch
            torch.zeros(2**30)
    return train_step(self, *args)

Trainer.train_step = limited
try:
    loop.train(config, out)
except cassle_zoo.common.errors.CassleZooError as error:
    print(type(error).__name__, error)
"""


def train_limited(config: TrainConfig, out: Path, kind: str, limit: int) -> str:
    import pickle

    done = subprocess.run(
        [sys.executable, "-c", LIMITED], input=pickle.dumps((config, out, kind, limit)),
        capture_output=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr.decode()[-2000:]
    return done.stdout.decode()


@pytest.mark.skipif(sys.platform != "linux", reason="reads its size from /proc")
def test_memory_that_is_really_exhausted(config: TrainConfig, tmp_path: Path) -> None:
    said = train_limited(config, tmp_path, "RLIMIT_AS", 2**30)
    assert said.startswith("NotEnoughMemoryError out of memory with batches of 4")
    assert_continues(config, tmp_path, after=3)


def test_file_that_may_not_grow(config: TrainConfig, tmp_path: Path) -> None:
    said = train_limited(config, tmp_path, "RLIMIT_FSIZE", 10_000)
    assert said.startswith("StorageError cannot write in ")
    assert "Make room" in said
    assert_continues(config, tmp_path, after=3)


def test_disk_full_while_writing_a_checkpoint(
    config: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fsync = os.fsync
    calls = 0

    def full(file: int) -> None:
        nonlocal calls
        calls += 1
        if calls == 6:  # config.json, then a checkpoint each step
            raise OSError(errno.ENOSPC, "No space left on device")
        fsync(file)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(StorageError, match=r"No space left.*Make room"):
            loop.train(config, tmp_path)
    assert not list(tmp_path.glob(".partial-*"))
    assert_continues(config, tmp_path, after=4)


def test_disk_full_while_the_log_is_reopened(
    config: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loop.train(config, tmp_path)
    before = (tmp_path / "metrics.csv").read_text()
    replace = os.replace

    def full(source: Path, target: Path) -> None:
        if target.name == logs.CSV_FILE:
            raise OSError(errno.ENOSPC, "No space left on device")
        replace(source, target)

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(StorageError):
        loop.train(config, tmp_path)
    assert (tmp_path / "metrics.csv").read_text() == before


def cut(path: Path, fraction: float = 0.5) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * fraction)])


def test_checkpoint_cut_short(
    config: TrainConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    loop.train(config, tmp_path / "whole")
    shutil.copytree(tmp_path / "whole", tmp_path / "cut")
    cut(tmp_path / "cut" / CHECKPOINT_FILE)
    capsys.readouterr()
    assert loop.train(config, tmp_path / "cut").finished
    said = capsys.readouterr().err
    assert "checkpoint.pt is damaged; using the one before." in said
    assert "continuing after step 9." in said
    for name in ("backbone", "projector"):
        left, right = (
            (tmp_path / run / "final" / f"{name}.safetensors").read_bytes()
            for run in ("whole", "cut")
        )
        assert left == right
    for name in (CHECKPOINT_FILE, PREVIOUS_CHECKPOINT_FILE):
        cut(tmp_path / "cut" / name, fraction=0.1)
    with pytest.raises(ModelFolderError, match=r"all checkpoints.*are damaged"):
        loop.train(config, tmp_path / "cut")


def test_a_damaged_checkpoint_does_not_push_out_the_intact_one(
    config: TrainConfig, tmp_path: Path
) -> None:
    loop.train(config, tmp_path)
    cut(tmp_path / CHECKPOINT_FILE)
    trainer = Trainer(config, per_epoch=5)
    trainer.restore(tmp_path)
    trainer.save(tmp_path)
    cut(tmp_path / CHECKPOINT_FILE)
    state, damaged, _ = load_checkpoint(tmp_path)
    assert state is not None
    assert (state["step"], damaged) == (9, [CHECKPOINT_FILE])


def test_checkpoint_that_does_not_fit(config: TrainConfig, tmp_path: Path) -> None:
    for state in ({"step": 1}, {"step": 1, "method": {"x": torch.zeros(1)}}):
        save_checkpoint(tmp_path, state)
        with pytest.raises(ModelFolderError, match="does not fit the run"):
            loop.train(config, tmp_path)
    save_checkpoint(tmp_path, [1, 2])  # type: ignore[arg-type]
    with pytest.raises(ModelFolderError, match="holds a list"):
        loop.train(config, tmp_path)


@pytest.mark.parametrize("text", ["[]", "[" * 100_000, '{"a": ', "\x00"])
def test_damaged_config_json(config: TrainConfig, tmp_path: Path, text: str) -> None:
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(ValueError, match="holds no settings"):
        loop.train(config, tmp_path)


def test_storage_error_on_the_command_line(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    argv = ["resnet18_simclr.emoji64", "--data", str(images), "--data.dataset", ""]
    argv += ["--arch", "test_resnet", "--optim.batch-size", "4", "--out", str(tmp_path / "run")]
    assert main(["train", *argv]) == 2
    assert capsys.readouterr().err.startswith("cassle-zoo: error: cannot write in ")


@pytest.mark.parametrize("make", ["unwritable", "settings", "lock"])
def test_unwritable_places_are_explained(
    images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], make: str
) -> None:
    out = Path("/proc/run") if make == "unwritable" else tmp_path / "run"
    if make == "settings":
        (out / "config.json").mkdir(parents=True)
    if make == "lock":
        (out / ".lock").mkdir(parents=True)
    argv = ["test_resnet_simclr", "--data", str(images), "--augment.size", "32"]
    argv += ["--optim.batch-size", "4", "--data.workers", "0", "--out", str(out)]
    assert main(["train", *argv]) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"cassle-zoo: error: cannot write in {str(out)!r}: ")
    assert "use another --out" in said
    assert "Errno" not in said
