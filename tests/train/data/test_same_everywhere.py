"""Processes with other settings, or other images, do not train together."""

import dataclasses
import datetime
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from cassle_zoo.augmentation.augment import AugmentConfig
from cassle_zoo.common.errors import ConfigError
from cassle_zoo.train import loop
from cassle_zoo.train.config import DataConfig, OptimConfig, RunConfig, TrainConfig

CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "setting": ("optim", {"base_lr": 5.0}),
    "seed": ("run", {"seed": 3}),
    "method": ("method", {"temperature": 0.7}),
    "names": ("data", {"root": "renamed"}),
    "number": ("data", {"root": "fewer"}),
    "own ways": ("data", {"root": "moved", "workers": 1}),
}


def work(rank: int, config: TrainConfig, folder: Path) -> None:
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2,
        timeout=datetime.timedelta(seconds=120),
    )  # fmt: skip
    for case, (group, changes) in CASES.items():
        own = config
        if rank == 1:
            values = {k: str(folder / v) if k == "root" else v for k, v in changes.items()}
            part = dataclasses.replace(getattr(config, group), **values)
            own = dataclasses.replace(config, **{group: part})
        try:
            said = str(loop.train(own, folder / case))
        except ConfigError as error:
            said = str(error)
        (folder / f"{case} {rank}").write_text(said)
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def said(tmp_path_factory: pytest.TempPathFactory, images: Path) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("two")
    for copy in ("renamed", "fewer", "moved"):
        shutil.copytree(images, folder / copy)
    (folder / "renamed/class0/00.png").rename(folder / "renamed/class0/000.png")
    (folder / "fewer/class0/00.png").unlink()
    mp.spawn(work, (tiny(images), folder), nprocs=2)  # type: ignore[attr-defined]
    answers = {case: (folder / f"{case} 0").read_text() for case in CASES}
    assert answers == {case: (folder / f"{case} 1").read_text() for case in CASES}
    return answers


def tiny(images: Path) -> TrainConfig:
    return TrainConfig(
        name="tiny",
        arch="test_resnet",
        augment=AugmentConfig(size=32),
        data=DataConfig(root=str(images), workers=0),
        optim=OptimConfig(epochs=1, batch_size=20),
        run=RunConfig(device="cpu", threads=1, monitor_every=0, loggers=("csv",)),
    )


@pytest.mark.parametrize(
    ("case", "difference"),
    [
        ("setting", "optim.base_lr: 0.03 in process 0, 5.0 in 1"),
        ("seed", "run.seed: 0 in process 0, 3 in 1"),
        ("method", "method.temperature: 0.2 in process 0, 0.7 in 1"),
        ("names", "images: 22 in process 0 and in 1, but with other names, or in another order"),
        ("number", "images: 22 in process 0, 21 in 1"),
    ],
)
def test_what_differs_is_named(said: dict[str, str], case: str, difference: str) -> None:
    assert said[case].startswith(f"process 1 differs from process 0 ({difference}); start all")


def test_folders_and_workers_may_differ(said: dict[str, str]) -> None:
    assert said["own ways"] == "TrainResult(steps=1, finished=True, stopped=False)"
