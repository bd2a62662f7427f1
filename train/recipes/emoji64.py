"""Recipes on emoji64: real data of 8,718 training images that a CPU can learn from.

The other methods' recipes are SimCLR's with a row of the table below. Their teachers and queues
forget faster than in the paper (momentum 0.99, 4,096 keys), because 25 epochs are only 1,700 steps,
and projectors of 8,192 become 2,048. Barlow Twins has its own paper's optimiser, LARS that spares
biases and normalisation: its loss is in the thousands, and with SGD no learning rate from 6e-5 to
0.03 brought the features much above untrained ones in one or two epochs (docs/methods.md).
"""

import dataclasses
from typing import Any

from cassle_zoo.augmentation.augment import AugmentConfig
from cassle_zoo.train.config import DataConfig, OptimConfig, TrainConfig
from cassle_zoo.train.methods import MethodConfig
from cassle_zoo.train.methods.barlow_twins import BarlowTwinsConfig
from cassle_zoo.train.methods.byol import BYOLConfig
from cassle_zoo.train.methods.mocov2 import MoCoV2Config
from cassle_zoo.train.methods.mocov3 import MoCoV3Config
from cassle_zoo.train.methods.simsiam import SimSiamConfig
from cassle_zoo.train.methods.vicreg import VICRegConfig
from cassle_zoo.train.recipes.baseline import without_conditioning

_HALF = (0.5, 0.5, 0.5)

_RESNET18: dict[str, tuple[MethodConfig, dict[str, Any]]] = {
    "mocov2": (MoCoV2Config(momentum=0.99, queue_size=4096), {"weight_decay": 1e-4}),
    "mocov3": (MoCoV3Config(momentum=0.99), {}),
    "barlow_twins": (
        BarlowTwinsConfig(hidden_features=2048, out_features=2048),
        {
            "optimizer": "lars",
            "base_lr": 0.4,
            "weight_decay": 1.5e-6,
            "decay_all": False,
            "warmup_epochs": 3,
        },
    ),
    "byol": (BYOLConfig(momentum=0.99), {}),
    "simsiam": (SimSiamConfig(depth=2), {"base_lr": 0.06, "warmup_epochs": 0}),
    "vicreg": (
        VICRegConfig(hidden_features=2048, out_features=2048),
        {"base_lr": 0.12, "warmup_epochs": 3},
    ),
}
"""Settings of the method, and of the optimiser where they are not SimCLR's."""


def resnet18_cassle_simclr() -> TrainConfig:
    """CASSLE-SimCLR, resnet18, 64 px, 25 epochs.

    Command: `cassle-zoo train resnet18_cassle_simclr.emoji64 --data emoji64.tar --out RUN`
    Hardware: one core with AVX512-BF16 (the bundled weights: seed 2, `--run.threads 1`). Time: 37
    minutes. Result: 69.1 ± 0.3 % subcategory, 74.8 ± 0.7 % skin tone over three seeds
    (docs/study.md).
    """
    return TrainConfig(
        name="resnet18_cassle_simclr.emoji64",
        arch="resnet18",
        augment=AugmentConfig(size=64, mean=_HALF, std=_HALF),
        data=DataConfig(dataset="emoji64"),
        optim=OptimConfig(epochs=25, batch_size=128, base_lr=0.12, warmup_epochs=1),
    )


def resnet18_simclr() -> TrainConfig:
    """SimCLR without conditioning, else as `resnet18_cassle_simclr`.

    Command: `cassle-zoo train resnet18_simclr.emoji64 --data emoji64.tar --out RUN`
    Hardware and time: the same. Result: 69.4 ± 0.9 % subcategory, 69.4 ± 0.8 % skin tone over
    three seeds (docs/study.md).
    """
    return without_conditioning(resnet18_cassle_simclr(), "resnet18_simclr.emoji64")


def resnet18_cassle_mocov2() -> TrainConfig:
    """CASSLE-MoCo v2, resnet18, 64 px, 25 epochs.

    Command: `cassle-zoo train resnet18_cassle_mocov2.emoji64 --data emoji64.tar --out RUN`
    Hardware: one core with AVX512-BF16 (`--run.threads 1`). Time: 20 minutes. Result: 63.2 %
    subcategory, 70.5 % skin tone (seed 0, docs/study.md).
    """
    return _resnet18("mocov2")


def resnet18_mocov2() -> TrainConfig:
    """MoCo v2 without conditioning, else as `resnet18_cassle_mocov2`.

    Command: `cassle-zoo train resnet18_mocov2.emoji64 --data emoji64.tar --out RUN`
    Hardware and time: the same. Result: 63.2 % subcategory, 73.5 % skin tone (seed 0,
    docs/study.md).
    """
    return without_conditioning(resnet18_cassle_mocov2(), "resnet18_mocov2.emoji64")


def resnet18_cassle_mocov3() -> TrainConfig:
    """CASSLE-MoCo v3, resnet18, 64 px, 25 epochs.

    Command: `cassle-zoo train resnet18_cassle_mocov3.emoji64 --data emoji64.tar --out RUN`
    Hardware: CPU, 2 cores with AVX512-BF16. Time: about 60 minutes
    (estimated). Not run yet.
    """
    return _resnet18("mocov3")


def resnet18_mocov3() -> TrainConfig:
    """MoCo v3 without conditioning, else as `resnet18_cassle_mocov3`.

    Command: `cassle-zoo train resnet18_mocov3.emoji64 --data emoji64.tar --out RUN`
    Hardware and time: the same. Not run yet.
    """
    return without_conditioning(resnet18_cassle_mocov3(), "resnet18_mocov3.emoji64")


def resnet18_cassle_barlow_twins() -> TrainConfig:
    """CASSLE-Barlow Twins, resnet18, 64 px, 25 epochs.

    Command: `cassle-zoo train resnet18_cassle_barlow_twins.emoji64 --data emoji64.tar --out RUN`
    Hardware: one core with AVX512-BF16 (`--run.threads 1`). Time: 35 minutes. Result: 63.8 %
    subcategory, 66.4 % skin tone (seed 0, docs/study.md).
    """
    return _resnet18("barlow_twins")


def resnet18_barlow_twins() -> TrainConfig:
    """Barlow Twins without conditioning, else as `resnet18_cassle_barlow_twins`.

    Command: `cassle-zoo train resnet18_barlow_twins.emoji64 --data emoji64.tar --out RUN`
    Hardware and time: the same. Result: 64.8 % subcategory, 63.1 % skin tone (seed 0,
    docs/study.md).
    """
    return without_conditioning(resnet18_cassle_barlow_twins(), "resnet18_barlow_twins.emoji64")


def resnet18_cassle_byol() -> TrainConfig:
    """CASSLE-BYOL, resnet18, 64 px, 25 epochs.

    Command: `cassle-zoo train resnet18_cassle_byol.emoji64 --data emoji64.tar --out RUN`
    Hardware: one core with AVX512-BF16 (`--run.threads 1`). Time: 62 minutes on a
    busy machine. Result: 58.0 % subcategory, 71.2 % skin tone (seed 0, docs/study.md).
    """
    return _resnet18("byol")


def resnet18_byol() -> TrainConfig:
    """BYOL without conditioning, else as `resnet18_cassle_byol`.

    Command: `cassle-zoo train resnet18_byol.emoji64 --data emoji64.tar --out RUN`
    Hardware and time: the same. Result: 62.8 % subcategory, 73.9 % skin tone (seed 0,
    docs/study.md).
    """
    return without_conditioning(resnet18_cassle_byol(), "resnet18_byol.emoji64")


def resnet18_cassle_simsiam() -> TrainConfig:
    """CASSLE-SimSiam, resnet18, 64 px, 25 epochs.

    Command: `cassle-zoo train resnet18_cassle_simsiam.emoji64 --data emoji64.tar --out RUN`
    Hardware: one core with AVX512-BF16 (`--run.threads 1`). Time: 27 minutes. Result: 55.9 %
    subcategory, 70.7 % skin tone (seed 0, docs/study.md).
    """
    return _resnet18("simsiam")


def resnet18_simsiam() -> TrainConfig:
    """SimSiam without conditioning, else as `resnet18_cassle_simsiam`.

    Command: `cassle-zoo train resnet18_simsiam.emoji64 --data emoji64.tar --out RUN`
    Hardware and time: the same. Result: 57.4 % subcategory, 70.6 % skin tone (seed 0,
    docs/study.md).
    """
    return without_conditioning(resnet18_cassle_simsiam(), "resnet18_simsiam.emoji64")


def resnet18_cassle_vicreg() -> TrainConfig:
    """CASSLE-VICReg, resnet18, 64 px, 25 epochs.

    Command: `cassle-zoo train resnet18_cassle_vicreg.emoji64 --data emoji64.tar --out RUN`
    Hardware: CPU, 2 cores with AVX512-BF16. Time: about 50 minutes
    (estimated). Not run yet.
    """
    return _resnet18("vicreg")


def resnet18_vicreg() -> TrainConfig:
    """VICReg without conditioning, else as `resnet18_cassle_vicreg`.

    Command: `cassle-zoo train resnet18_vicreg.emoji64 --data emoji64.tar --out RUN`
    Hardware and time: the same. Not run yet.
    """
    return without_conditioning(resnet18_cassle_vicreg(), "resnet18_vicreg.emoji64")


def resnet50_cassle_simclr() -> TrainConfig:
    """CASSLE-SimCLR, resnet50, 64 px, 12 epochs.

    Command: `cassle-zoo train resnet50_cassle_simclr.emoji64 --data emoji64.tar --out RUN`
    Hardware: one core with AVX512-BF16 (the bundled weights: `--run.threads 1`). Time: 36 minutes
    of processor time. Result: 70.5 % subcategory, 79.6 % skin tone (MODEL_CARDS.md).
    """
    base = resnet18_cassle_simclr()
    return dataclasses.replace(
        base,
        name="resnet50_cassle_simclr.emoji64",
        arch="resnet50",
        optim=dataclasses.replace(base.optim, epochs=12, base_lr=0.24),
    )


def resnet50_simclr() -> TrainConfig:
    """SimCLR without conditioning, else as `resnet50_cassle_simclr`.

    Command: `cassle-zoo train resnet50_simclr.emoji64 --data emoji64.tar --out RUN`
    Hardware and time: the same. Not run yet.
    """
    return without_conditioning(resnet50_cassle_simclr(), "resnet50_simclr.emoji64")


def _resnet18(method: str) -> TrainConfig:
    """Return SimCLR's settings with another method's row of the table."""
    base = resnet18_cassle_simclr()
    config, optim = _RESNET18[method]
    return dataclasses.replace(
        base,
        name=f"resnet18_cassle_{method}.emoji64",
        method=config,
        optim=dataclasses.replace(base.optim, **optim),
    )


RECIPES = {
    f"{recipe.__name__}.emoji64": recipe
    for recipe in (
        resnet18_cassle_simclr,
        resnet18_simclr,
        resnet18_cassle_mocov2,
        resnet18_mocov2,
        resnet18_cassle_mocov3,
        resnet18_mocov3,
        resnet18_cassle_barlow_twins,
        resnet18_barlow_twins,
        resnet18_cassle_byol,
        resnet18_byol,
        resnet18_cassle_simsiam,
        resnet18_simsiam,
        resnet18_cassle_vicreg,
        resnet18_vicreg,
        resnet50_cassle_simclr,
        resnet50_simclr,
    )
}
"""Every recipe of this module by the full name of the model it produces."""
