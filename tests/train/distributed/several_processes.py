"""Run by torchrun in the tests: trains every method for ten steps in folders named after them.

In float64, as in float32 rounding alone grows to visible differences within ten steps.
"""

import dataclasses
import json
import sys
from pathlib import Path
from typing import Any

import torch

from cassle_zoo.augmentation.augment import AugmentConfig
from cassle_zoo.train import trainer
from cassle_zoo.train.config import DataConfig, OptimConfig, RunConfig, TrainConfig
from cassle_zoo.train.data.view_config import LocalViews, ViewsConfig
from cassle_zoo.train.data.views import make_views
from cassle_zoo.train.distributed import process_group
from cassle_zoo.train.loop import train
from cassle_zoo.train.methods import METHODS, Views

SMALL: dict[str, dict[str, Any]] = {
    "mocov2": {"queue_size": 32, "momentum": 0.9},
    "mocov3": {"hidden_features": 16, "predictor_features": 16, "momentum": 0.9},
    "barlow_twins": {"hidden_features": 16, "out_features": 16},
    "byol": {"predictor_features": 16, "momentum": 0.9},
    "simsiam": {"hidden_features": 16, "out_features": 16, "predictor_features": 16},
    "vicreg": {"hidden_features": 16, "out_features": 16},
    "dino": {
        "hidden_features": 16,
        "out_features": 8,
        "prototypes": 32,
        "warmup_teacher_epochs": 5,
        "momentum": 0.9,
    },
}
MULTI_CROP = ViewsConfig(local=LocalViews(count=2, size=24))

IN_PARTS = ("simclr-parts", "byol-parts")
"""Runs whose batches are in two parts, with clipped gradients and averaged weights."""


# A backbone that is frozen for three of the steps, and then learns more slowly.
ADAPTING: dict[str, Any] = {
    "freeze_epochs": 3,
    "layer_decay": 0.8,
    "backbone_lr_scale": 0.5,
    "backbone_bn": "eval",
}
RUNS = (*METHODS, *IN_PARTS, "adapting")


def configuration(name: str, images: str) -> TrainConfig:
    """Ten steps of 12 images, which 1, 2 and 3 processes can divide."""
    name, _, parts = name.partition("-")
    extras: dict[str, Any] = {"accumulate": 2, "clip_grad": 0.5, "ema_decay": 0.8} if parts else {}
    if name == "adapting":
        name, extras = "simclr", ADAPTING
    return TrainConfig(
        name=f"test_resnet_cassle_{name}.tiny",
        arch="test_resnet",
        method=dataclasses.replace(METHODS[name](), **SMALL.get(name, {})),
        augment=AugmentConfig(size=32),
        views=MULTI_CROP if name == "dino" else ViewsConfig(),
        data=DataConfig(root=images, workers=0),
        optim=OptimConfig(epochs=10, batch_size=12, base_lr=0.05, **extras),
        run=RunConfig(
            device="cpu",
            precision="fp32",
            threads=1,
            log_every=1,
            monitor_every=0,
            loggers=("csv",),
        ),
    )


def double_views(*args: Any) -> Views:
    views = make_views(*args)
    return Views(
        images=tuple(images.double() for images in views.images),
        descriptors=tuple(omega.double() for omega in views.descriptors),
        local=views.local,
    )


def main(images: str, out: str, *names: str) -> None:
    """Train all methods, and one that adapts its backbone, one after the other."""
    torch.set_default_dtype(torch.float64)
    setattr(trainer, "make_views", double_views)  # noqa: B010  mypy: it is not the trainer's own
    with process_group.init("cpu", 60):
        for name in names or RUNS:
            train(configuration(name, images), Path(out) / name)
        if torch.distributed.is_initialized():
            sizes = {"processes": torch.distributed.get_world_size()}
            Path(out, "sizes.json").write_text(json.dumps(sizes))


if __name__ == "__main__":
    main(*sys.argv[1:])
