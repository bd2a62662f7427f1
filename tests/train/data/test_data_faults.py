"""What happens to the data while a run goes on: workers die, files vanish, many are bad."""

import os
import shutil
import signal
import subprocess
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from changes import change
from PIL import Image
from start_methods import spawning

from cassle_zoo.checkpoints.run_checkpoint import load_checkpoint
from cassle_zoo.common.errors import DataError, MissingDependencyError
from cassle_zoo.train import loop
from cassle_zoo.train.config import TrainConfig
from cassle_zoo.train.data import loading as data
from cassle_zoo.train.data.datasets import TorchImages, open_dataset


@pytest.fixture
def config(config: TrainConfig) -> TrainConfig:
    return change(config, "run", checkpoint_every=1, monitor_every=0)


def test_killed_data_worker(config: TrainConfig, tmp_path: Path, fault_at: Any) -> None:
    def kill_worker() -> None:
        for process in torch.multiprocessing.active_children():
            assert process.pid is not None
            os.kill(process.pid, signal.SIGKILL)

    # Many epochs, so that the worker still has something to do.
    config = change(change(config, "data", workers=1), "optim", epochs=8)
    advice = r"worker.*\. Usual reasons.*--data\.workers"
    with fault_at(3, kill_worker), pytest.raises(DataError, match=advice):
        loop.train(config, tmp_path)
    state = load_checkpoint(tmp_path)[0]
    assert state is not None
    assert state["step"] >= 3
    assert loop.train(config, tmp_path).finished


@pytest.mark.parametrize("error", [ConnectionResetError(), EOFError()])
def test_worker_killed_while_it_sends(
    config: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def loader(*_: Any, **__: Any) -> Iterator[Any]:
        raise error
        yield  # type: ignore[unreachable]

    monkeypatch.setattr(data, "DataLoader", loader)
    with pytest.raises(DataError, match=r"worker died.*--data\.workers"):
        loop.train(config, tmp_path)


def test_sigterm_to_the_workers_too(config: TrainConfig, tmp_path: Path, fault_at: Any) -> None:
    def stop_all() -> None:
        [worker] = torch.multiprocessing.active_children()
        # From elsewhere: a worker that its parent stops makes no noise.
        subprocess.run(["kill", str(worker.pid), str(os.getpid())], check=True)
        time.sleep(0.3)  # a worker's death would come as an error

    config = change(change(config, "data", workers=1), "optim", epochs=8)
    with fault_at(3, stop_all):
        assert loop.train(config, tmp_path) == loop.TrainResult(
            steps=4, finished=False, stopped=True
        )
    assert loop.train(config, tmp_path).finished


def test_vanishing_file(
    config: TrainConfig, images: Path, tmp_path: Path, fault_at: Any,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    root = tmp_path / "images"
    shutil.copytree(images, root)
    victim = root / "class1" / "07.png"
    config = change(config, "data", root=str(root))
    with fault_at(2, victim.unlink):
        assert loop.train(config, tmp_path / "run").finished
    assert capsys.readouterr().err.count("07.png' cannot be read; another one is used") == 1


def test_vanishing_archive(
    config: TrainConfig, images: Path, tmp_path: Path, fault_at: Any
) -> None:
    root = tmp_path / "images.tar"
    with tarfile.open(root, "w") as tar:
        tar.add(images, ".")
    config = change(config, "data", root=str(root))
    cut_short = fault_at(2, lambda: os.truncate(root, 9000))
    with cut_short, pytest.raises(DataError, match="cannot be read"):
        loop.train(config, tmp_path / "run")


class NeedsAPackage(TorchImages):
    def __len__(self) -> int:
        return 22

    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        raise MissingDependencyError("these files need tifffile")


def test_error_in_a_worker_is_one_line(config: TrainConfig, tmp_path: Path) -> None:
    for index in range(22):
        (tmp_path / f"{index}.jpg").write_bytes(b"not an image")
    config = change(config, "data", root=str(tmp_path), workers=1)
    with pytest.raises(DataError) as caught:
        list(data.batches(config, open_dataset(config.data), 0, 2))
    assert str(caught.value).startswith("image number ")
    assert "Traceback" not in str(caught.value)
    with pytest.raises(MissingDependencyError, match=r"^these files need tifffile$"):
        list(data.batches(config, NeedsAPackage(()), 0, 2))


def test_spawned_workers_have_the_limit_of_pixels(
    config: TrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("PIL.Image.MAX_IMAGE_PIXELS", 100)
    config = change(config, "data", workers=1)
    with spawning(), pytest.raises(DataError, match=r"the last error: .*more than 200 pixels"):
        list(data.batches(config, open_dataset(config.data), 0, 1))


def test_many_bad_neighbours_are_replaced(config: TrainConfig) -> None:
    class Images(TorchImages):
        def __init__(self) -> None:
            pass

        def __len__(self) -> int:
            return 100

        def __getitem__(self, index: int) -> tuple[Image.Image, int]:
            if index < 40:
                raise OSError("bad")
            return Image.new("RGB", (20, 20)), 0

    got = list(data.batches(config, Images(), 0, 25))
    bad = torch.cat([batch["bad"] for batch in got])
    assert sorted(bad[bad >= 0].tolist()) == list(range(40))
