"""Recipes on emoji64: real data of 8,718 training pictures that a CPU can learn from."""

import dataclasses

from cassle_zoo.augment import AugmentConfig
from cassle_zoo.train.config import DataConfig, OptimConfig, TrainConfig
from cassle_zoo.train.recipes.baseline import without_conditioning

_HALF = (0.5, 0.5, 0.5)


def resnet18_cassle_simclr() -> TrainConfig:
    """CASSLE-SimCLR, resnet18, 64 px, 35 epochs.

    Command: `cassle-zoo train resnet18_cassle_simclr.emoji64 --data emoji64.tar --out RUN`
    Hardware: CPU, 2 cores with AVX512-BF16. Time: about 35 minutes when nothing else runs.
    Result: see MODEL_CARDS.md.
    """
    return TrainConfig(
        name="resnet18_cassle_simclr.emoji64",
        arch="resnet18",
        augment=AugmentConfig(size=64, mean=_HALF, std=_HALF),
        data=DataConfig(dataset="emoji64"),
        optim=OptimConfig(epochs=35, batch_size=128, base_lr=0.24, warmup_epochs=1),
    )


def resnet18_simclr() -> TrainConfig:
    """SimCLR without conditioning, else as `resnet18_cassle_simclr`.

    Command: `cassle-zoo train resnet18_simclr.emoji64 --data emoji64.tar --out RUN`
    Not run yet.
    """
    return without_conditioning(resnet18_cassle_simclr(), "resnet18_simclr.emoji64")


def resnet50_cassle_simclr() -> TrainConfig:
    """CASSLE-SimCLR, resnet50, 64 px, 12 epochs.

    Command: `cassle-zoo train resnet50_cassle_simclr.emoji64 --data emoji64.tar --out RUN`
    Hardware: CPU, 2 cores with AVX512-BF16. Time: about 40 minutes when nothing else runs.
    Result: see MODEL_CARDS.md.
    """
    base = resnet18_cassle_simclr()
    return dataclasses.replace(
        base,
        name="resnet50_cassle_simclr.emoji64",
        arch="resnet50",
        optim=dataclasses.replace(base.optim, epochs=12),
    )


def resnet50_simclr() -> TrainConfig:
    """SimCLR without conditioning, else as `resnet50_cassle_simclr`.

    Command: `cassle-zoo train resnet50_simclr.emoji64 --data emoji64.tar --out RUN`
    Not run yet.
    """
    return without_conditioning(resnet50_cassle_simclr(), "resnet50_simclr.emoji64")
