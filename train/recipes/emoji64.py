"""Recipes on emoji64: real data of 8,718 training images that a CPU can learn from.

SimCLR is trained for 60 epochs, other methods for 25 with its other settings, except where their
rows differ. Their teachers and queues forget faster than in the paper (momentum 0.99, 4,096 keys),
because 25 epochs are only 1,700 steps,
and projectors of 8,192 become 2,048. Barlow Twins has its own paper's optimiser, LARS without
weight decay of biases and normalisation: its loss is in the thousands, and with SGD no learning
rate from 6e-5 to 0.03 brought the features much above untrained ones in one or two epochs
(docs/methods.md).
"""

import dataclasses
from typing import Any

from cassle_zoo.augmentation.augment import AugmentConfig
from cassle_zoo.specs import DATASETS, MODEL_SPECS, STARTING_WEIGHTS, model_name
from cassle_zoo.train.config import DataConfig, OptimConfig, TrainConfig
from cassle_zoo.train.data.view_config import LocalViews, ViewsConfig
from cassle_zoo.train.methods import MethodConfig
from cassle_zoo.train.methods.barlow_twins import BarlowTwinsConfig
from cassle_zoo.train.methods.byol import BYOLConfig
from cassle_zoo.train.methods.dino import DINOConfig
from cassle_zoo.train.methods.mocov2 import MoCoV2Config
from cassle_zoo.train.methods.mocov3 import MoCoV3Config
from cassle_zoo.train.methods.simclr import SimCLRConfig
from cassle_zoo.train.methods.simsiam import SimSiamConfig
from cassle_zoo.train.methods.vicreg import VICRegConfig
from cassle_zoo.train.recipes.adapt import TAG, adapt_recipe
from cassle_zoo.train.recipes.recipe import Recipe

_DATA = DATASETS["emoji64"]
_LITE0 = "efficientnet_lite0_cassle_simclr.in1k_emoji64"
_AUGMENT = AugmentConfig(size=64, mean=_DATA.mean, std=_DATA.std)
_ONE_CORE = "one core with AVX512-BF16 (--run.threads 1)"
_TWO_CORES = "CPU, 2 cores with AVX512-BF16"


def _pair(
    title: str,
    method: MethodConfig,
    *,
    arch: str = "resnet18",
    views: ViewsConfig | None = None,
    augment: AugmentConfig = _AUGMENT,
    hardware: str = _ONE_CORE,
    time: str,
    results: tuple[str | None, str | None] = (None, None),
    **optim: Any,
) -> tuple[Recipe, Recipe]:
    """Return a CASSLE recipe and its baseline; `optim` holds what differs from the usual."""
    usual = OptimConfig(epochs=25, batch_size=128, base_lr=0.12, warmup_epochs=1)
    config = TrainConfig(
        name=model_name(arch, method.name, conditioned=True, tag="emoji64"),
        arch=arch,
        method=method,
        augment=augment,
        views=ViewsConfig() if views is None else views,
        data=DataConfig(dataset="emoji64"),
        optim=dataclasses.replace(usual, **optim),
    )
    cassle = Recipe(
        title=f"CASSLE-{title}, {arch}, 64 px, {config.optim.epochs} epochs",
        config=config,
        data="emoji64.tar",
        hardware=hardware,
        time=time,
        result=results[0],
    )
    return cassle, cassle.baseline(results[1])


def _adapted() -> tuple[Recipe, Recipe]:
    """Return the recipe of EfficientNet-Lite0, adapted from its ImageNet weights, and its baseline.

    The settings are those of `.adapt`.
    """
    weights = STARTING_WEIGHTS[MODEL_SPECS[_LITE0].init or ""]
    own = adapt_recipe(f"tf_efficientnet_lite0_cassle_simclr{TAG}")
    config = dataclasses.replace(
        own.config,
        name=_LITE0,
        init=weights.name,
        augment=dataclasses.replace(_AUGMENT, size=96),
        data=DataConfig(dataset="emoji64"),
        run=dataclasses.replace(own.config.run, precision="fp32"),
    )
    cassle = Recipe(
        title="CASSLE-SimCLR, tf_efficientnet_lite0 from ImageNet weights, 96 px, 20 epochs",
        config=config,
        data="emoji64.tar",
        hardware="one core with AVX-512 (--run.threads 1)",
        time="80 minutes",
        result="81.0 % subcategory, 75.9 % skin tone (seed 0, MODEL_CARDS.md)",
        notes=f"{weights.name} ({weights.license}) comes with the Python package "
        f"{weights.package}; copy it to the current folder, or name it by --init.",
    )
    return cassle, cassle.baseline()


RECIPES: tuple[Recipe, ...] = (
    *_pair(
        "SimCLR",
        SimCLRConfig(),
        epochs=60,
        hardware="one core with AVX512-BF16 (the bundled weights: seed 2, --run.threads 1)",
        time="90 to 110 minutes",
        results=(
            "71.8 ± 0.3 % subcategory, 74.5 ± 0.9 % skin tone over three seeds (docs/study.md)",
            "73.2 ± 0.4 % subcategory, 71.1 ± 1.9 % skin tone over three seeds (docs/study.md)",
        ),
    ),
    *_pair(
        "MoCo v2",
        MoCoV2Config(momentum=0.99, queue_size=4096),
        weight_decay=1e-4,
        time="20 minutes",
        results=(
            "63.2 % subcategory, 70.5 % skin tone (seed 0, docs/study.md)",
            "63.2 % subcategory, 73.5 % skin tone (seed 0, docs/study.md)",
        ),
    ),
    *_pair(
        "MoCo v3",
        MoCoV3Config(momentum=0.99),
        hardware=_TWO_CORES,
        time="about 60 minutes (estimated)",
    ),
    *_pair(
        "Barlow Twins",
        BarlowTwinsConfig(hidden_features=2048, out_features=2048),
        optimizer="lars",
        base_lr=0.4,
        weight_decay=1.5e-6,
        decay_all=False,
        warmup_epochs=3,
        time="35 minutes",
        results=(
            "63.8 % subcategory, 66.4 % skin tone (seed 0, docs/study.md)",
            "64.8 % subcategory, 63.1 % skin tone (seed 0, docs/study.md)",
        ),
    ),
    *_pair(
        "BYOL",
        BYOLConfig(momentum=0.99),
        time="62 minutes on a busy machine",
        results=(
            "58.0 % subcategory, 71.2 % skin tone (seed 0, docs/study.md)",
            "62.8 % subcategory, 73.9 % skin tone (seed 0, docs/study.md)",
        ),
    ),
    *_pair(
        "SimSiam",
        SimSiamConfig(depth=2),
        base_lr=0.06,
        warmup_epochs=0,
        time="27 minutes",
        results=(
            "55.9 % subcategory, 70.7 % skin tone (seed 0, docs/study.md)",
            "57.4 % subcategory, 70.6 % skin tone (seed 0, docs/study.md)",
        ),
    ),
    *_pair(
        "VICReg",
        VICRegConfig(hidden_features=2048, out_features=2048),
        base_lr=0.12,
        warmup_epochs=3,
        hardware=_TWO_CORES,
        time="about 50 minutes (estimated)",
    ),
    *_pair(
        "DINO",
        DINOConfig(momentum=0.99, prototypes=4096, warmup_teacher_epochs=8),
        augment=dataclasses.replace(_AUGMENT, crop_scale=(0.25, 1.0)),
        views=ViewsConfig(local=LocalViews(count=6, size=32, crop_scale=(0.05, 0.25))),
        base_lr=0.12,
        weight_decay=1e-4,
        time="about 70 minutes of processor time (estimated)",
    ),
    *_pair(
        "SimCLR",
        SimCLRConfig(),
        arch="resnet50",
        epochs=60,
        hardware=f"{_TWO_CORES} (the bundled weights: --run.threads 2)",
        time="2 hours",
        results=("73.7 % subcategory, 82.3 % skin tone (MODEL_CARDS.md)", None),
    ),
    *_adapted(),
)
