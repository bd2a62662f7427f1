"""Recipes on images of one's own: `ARCH_cassle_METHOD` or `ARCH_METHOD`, without a tag.

Any timm architecture and any method. The views are ImageNet's: 224 px, its normalisation. The rest
follows what was measured on emoji64 (docs/study.md, docs/methods.md), because a folder of one's own
is like it in what matters here: it is small, so that a run has thousands of steps and not the
hundreds of thousands of the paper's.

- The learning rate is the one that was best there for SimCLR, four times the paper's; methods that
  needed another have their own.
- EMA teachers follow faster (momentum 0.99) and MoCo's queue is shorter (4,096 keys): with the
  paper's 0.999 a teacher is mostly its random initialisation after a thousand steps. Only DINO's
  teacher and prototypes, which were not tuned, are its paper's.
- Projectors of 8,192 are 2,048 wide, a sixteenth of the weights.
- Networks without BatchNorm (ViT, ConvNeXt, Swin, ...) are trained with AdamW as in MoCo v3
  (arXiv 2104.02057), since SGD at these rates needs BatchNorm.
- Batches of 128, so that a few hundred images make several steps; 100 epochs, 5 of them warm-up.
"""

import dataclasses
import difflib
from typing import Any

import timm

from cassle_zoo.common.errors import UnknownNameError
from cassle_zoo.common.workers import usable_workers
from cassle_zoo.specs import BACKBONES
from cassle_zoo.train.backbone import has_batch_norm
from cassle_zoo.train.config import DataConfig, OptimConfig, TrainConfig
from cassle_zoo.train.methods import METHODS, MethodConfig
from cassle_zoo.train.recipes.recipe import Recipe
from cassle_zoo.zoo.names import is_arch

_SIZE = 224
_SGD = OptimConfig(epochs=100, batch_size=128, base_lr=0.12, warmup_epochs=5)
_ADAMW = dataclasses.replace(
    _SGD, optimizer="adamw", base_lr=1.5e-4, weight_decay=0.1, decay_all=False, warmup_epochs=10
)
_METHODS: dict[str, dict[str, Any]] = {
    "mocov2": {"momentum": 0.99, "queue_size": 4096},
    "mocov3": {"momentum": 0.99},
    "barlow_twins": {"hidden_features": 2048, "out_features": 2048},
    "byol": {"momentum": 0.99},
    "simsiam": {"depth": 2},
    "vicreg": {"hidden_features": 2048, "out_features": 2048},
}
"""Settings of methods that differ from their papers'."""
_OPTIM: dict[str, dict[str, Any]] = {
    "mocov2": {"weight_decay": 1e-4},
    "barlow_twins": {
        **{"optimizer": "lars", "base_lr": 0.4, "weight_decay": 1.5e-6},
        **{"decay_all": False, "warmup_epochs": 10},
    },
    "simsiam": {"base_lr": 0.06, "warmup_epochs": 0},
    "vicreg": {"warmup_epochs": 10},
}
"""Training of networks with BatchNorm, where it differs from SimCLR's."""


def own_recipe(name: str) -> Recipe:
    """Return the recipe `ARCH_cassle_METHOD` or `ARCH_METHOD` on images of one's own.

    Raises:
        UnknownNameError: If the name does not end with a method, or does not begin with a timm
            model or a short name.
    """
    method = max((m for m in METHODS if name.endswith(f"_{m}")), key=len, default=None)
    base = name.removesuffix(f"_{method}")
    arch = base.removesuffix("_cassle")
    if method is None or not is_arch(arch):
        raise _unknown_recipe(name)
    config = _config(arch, METHODS[method](**_METHODS.get(method, {})))
    length = f"{config.augment.size} px, {config.optim.epochs} epochs"
    cassle = Recipe(
        title=f"CASSLE-{method}, {arch}, your own images, {length}",
        config=config,
        data="DIR",
        hardware="any; --dry-run measures memory and time",
        time="depends on the images",
        result="`cassle-zoo eval` measures it",
        called=name,
        notes="--data is a folder or tar of images; no labels are needed. The learning rate is the "
        "best one on emoji64; --optim.epochs matters most for what comes out.",
    )
    return cassle.baseline(cassle.result) if base == arch else cassle


def _unknown_recipe(name: str) -> UnknownNameError:
    """Return the error for a name that is no recipe, with the nearest recipes."""
    archs = [*BACKBONES, *timm.list_models()]
    archs = [arch for arch in dict.fromkeys(archs) if is_arch(arch)]
    words = name.split("_")
    starts = ("_".join(words[:count]) for count in range(1, len(words)))
    near = {arch for start in starts for arch in difflib.get_close_matches(start, archs, n=2)}
    endings = [f"{cassle}{method}" for cassle in ("cassle_", "") for method in METHODS]
    guesses = [f"{arch}_{ending}" for arch in sorted(near) for ending in endings]
    best = difflib.get_close_matches(name, guesses, n=1, cutoff=0.86)  # more: the variants
    hint = f" Did you mean {best[0]!r}?" if best else ""
    return UnknownNameError(
        f"{name!r} is no recipe.{hint} A recipe is called ARCH_cassle_METHOD, or ARCH_METHOD for "
        f"the baseline; ARCH is any of timm.list_models(), METHOD one of {', '.join(METHODS)}."
    )


def _config(arch: str, method: MethodConfig) -> TrainConfig:
    optim = _ADAMW
    if has_batch_norm(arch, _SIZE):
        optim = dataclasses.replace(_SGD, **_OPTIM.get(method.name, {}))
    return TrainConfig(
        arch=arch,
        method=method,
        data=DataConfig(workers=usable_workers(4)),
        optim=optim,
    )
