"""Settings, environments and files that no run can work with end in errors that say so."""

import csv
import dataclasses
import errno
import os
from pathlib import Path
from typing import Any

import pytest
from changes import change

from cassle_zoo.checkpoints.run_checkpoint import load_checkpoint, save_checkpoint
from cassle_zoo.common.errors import ConfigError, ModelFolderError, StorageError
from cassle_zoo.train import loop
from cassle_zoo.train.config import OptimConfig, RunConfig, TrainConfig
from cassle_zoo.train.run.logs import CSV_FILE, CsvLogger


def test_device_that_computes_nothing(config: TrainConfig, tmp_path: Path) -> None:
    config = dataclasses.replace(config, run=RunConfig(device="meta"))
    with pytest.raises(ConfigError, match=r"'meta' cannot be used .*has: cpu"):
        loop.train(config, tmp_path)


def test_optimizer_that_needs_second_derivatives(config: TrainConfig, tmp_path: Path) -> None:
    optim = OptimConfig(epochs=1, batch_size=4, optimizer="adahessian")
    with pytest.raises(ConfigError, match=r"'adahessian' .*second"):
        loop.train(dataclasses.replace(config, optim=optim), tmp_path)


@pytest.mark.parametrize("timeout", [1e300, 1e-4])
def test_timeouts_that_nothing_can_wait(timeout: float) -> None:
    with pytest.raises(ConfigError, match=r"run\.timeout must be a number within \[1, 1e\+06\]"):
        RunConfig(timeout=timeout)


@pytest.mark.parametrize(
    ("processes", "says"),
    [
        ("2", "'2', but RANK and LOCAL_RANK and MASTER_ADDR and MASTER_PORT are not set"),
        ("0", "'0', but"),
        ("abc", "'abc', but"),
    ],
)
def test_several_processes_without_torchrun(
    config: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, processes: str, says: str
) -> None:
    monkeypatch.setenv("WORLD_SIZE", processes)
    with pytest.raises(ConfigError, match=f"WORLD_SIZE is {says}.*torchrun, or unset"):
        loop.train(config, tmp_path)


@pytest.mark.parametrize(
    "line",
    [b"\xff\xfe,loss,1", "²,loss,1".encode(), b"1,loss," + b"9" * 200_000, b'"2,loss,1', b"\0,,"],
    ids=["bytes", "superscript", "long", "quote", "zero"],
)
def test_spoilt_lines_of_the_log_are_dropped(tmp_path: Path, line: bytes) -> None:
    (tmp_path / CSV_FILE).write_bytes(b"step,name,value\n1,loss,5.0\n" + line + b"\n2,loss,4.0\n")
    CsvLogger(tmp_path, 2).close()
    with (tmp_path / CSV_FILE).open(newline="") as file:
        assert list(csv.reader(file))[1:] == [["1", "loss", "5.0"], ["2", "loss", "4.0"]]


@pytest.mark.parametrize("step", ["abc", None, 3.5, -5, True])
def test_checkpoint_with_an_impossible_step(config: TrainConfig, tmp_path: Path, step: Any) -> None:
    config = change(config, "optim", epochs=1)
    loop.train(config, tmp_path)
    state = load_checkpoint(tmp_path)[0]
    assert state is not None
    save_checkpoint(tmp_path, {**state, "step": step})
    with pytest.raises(ModelFolderError, match=f"step {step!r},.*--out"):
        loop.train(config, tmp_path)


@pytest.mark.parametrize("make", [Path.touch, lambda path: path.symlink_to("nowhere")])
def test_no_folder_where_the_model_goes(config: TrainConfig, tmp_path: Path, make: Any) -> None:
    make(tmp_path / "final")
    with pytest.raises(ConfigError, match=r"final' is a file or a broken link.*remove it"):
        loop.train(config, tmp_path)
    assert not (tmp_path / CSV_FILE).exists()


@pytest.mark.parametrize("below", ["", "run"])
def test_out_is_no_folder(config: TrainConfig, tmp_path: Path, below: str) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match=r"--out .* is a file.*name a folder"):
        loop.train(config, tmp_path / "file" / below)


@pytest.mark.parametrize("number", [errno.EACCES, errno.EROFS])
def test_out_that_may_not_be_written(
    config: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def refuse(self: Path, *args: Any, **kwargs: Any) -> None:
        raise OSError(number, os.strerror(number), str(self))

    monkeypatch.setattr(Path, "mkdir", refuse)
    with pytest.raises(StorageError, match=rf"{os.strerror(number)}; use another --out"):
        loop.train(config, tmp_path / "run")
