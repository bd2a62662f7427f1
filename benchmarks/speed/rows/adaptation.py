"""Adapting a pretrained resnet18 on one core, end to end, beside lightly-train's SimCLR."""

import dataclasses
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from benchmarks.speed.lightly_train import pretrain
from benchmarks.speed.timing import Check, Row, speeds, take_turns, times_faster
from benchmarks.speed.workloads import SKIPPED, jpeg_folder, timed_steps
from cassle_zoo import create_model
from cassle_zoo.augmentation.augment import AugmentConfig
from cassle_zoo.train.config import DataConfig
from cassle_zoo.train.data.datasets import open_dataset
from cassle_zoo.train.data.loading import batches, steps_per_epoch
from cassle_zoo.train.recipes import get_recipe
from cassle_zoo.train.trainer import Trainer

WEIGHTS = "resnet18_cassle_simclr.emoji64"
BATCH, SIZE = 32, 96
COUNTED = 3  # steps of a turn
STEPS = SKIPPED + COUNTED + 1  # of lightly-train's turn, one epoch, as each ends in a checkpoint


def measure(rounds: int) -> Row:
    """Measure steps with data loading, each turn with its own loader, from the same weights.

    Batch, size, precision and augmentations are the same, all layers learn with SGD, and images are
    decoded in this process. `adapt` is the recipe after its epoch with a frozen backbone; `SimCLR`
    is the same method as the peer's.
    """
    if hasattr(os, "sched_setaffinity"):  # not on macOS
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})  # OpenCV's threads, too
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        root = jpeg_folder(Path(folder, "images"), BATCH * STEPS)
        contestants: dict[str, Callable[[], float]] = {
            "adapt": _ours("resnet18_cassle_simclr.adapt", root),
            "SimCLR": _ours("resnet18_simclr", root),
            "lightly-train": _lightly_train(root, Path(folder, "runs")),
        }
        seconds = take_turns(contestants, rounds, warm=0)  # every turn warms up itself
    return Row(
        title=f"adapting resnet18, {SIZE} px, batch {BATCH}, fp32, one core, JPEG folder",
        amounts=speeds(seconds, BATCH * COUNTED),
        unit="img/s",
        checks=[
            Check(
                f"{name} / lightly-train",
                times_faster(seconds, name, "lightly-train"),
                at_least=1.0 if name == "SimCLR" else None,
            )
            for name in ("SimCLR", "adapt")
        ],
        seconds=seconds,
    )


def _ours(recipe: str, root: Path) -> Callable[[], float]:
    settings = get_recipe(recipe)
    config = dataclasses.replace(
        settings,
        init=WEIGHTS,
        init_projector="no",
        augment=AugmentConfig(size=SIZE),
        data=DataConfig(root=str(root), workers=0),
        optim=dataclasses.replace(settings.optim, batch_size=BATCH, freeze_epochs=0),
        run=dataclasses.replace(settings.run, precision="fp32", threads=1),
    )
    dataset = open_dataset(config.data)
    trainer = Trainer(config, steps_per_epoch(dataset, BATCH))

    def turn() -> float:
        loader = batches(config, dataset, trainer.step, trainer.step + STEPS)
        return timed_steps((trainer.train_step(batch, 10**6) for batch in loader), COUNTED)

    return turn


def _lightly_train(root: Path, runs: Path) -> Callable[[], float]:
    model: Any = create_model(WEIGHTS, pretrained=True)
    clock = _Clock()
    model.conv1.register_forward_pre_hook(clock)

    def turn() -> float:
        clock.times.clear()
        out = runs / str(time.time_ns())
        pretrain(model, root, out, batch_size=BATCH, size=SIZE, steps=STEPS)
        if len(clock.times) != STEPS:
            raise RuntimeError(f"{len(clock.times)} forward passes in {STEPS} steps.")
        return clock.times[-1] - clock.times[SKIPPED]

    return turn


class _Clock:
    """Records when the first layer starts: once per step, for both views."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def __call__(self, *_: object) -> None:
        self.times.append(time.perf_counter())
