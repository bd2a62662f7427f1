"""The optimiser and its learning rate."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from timm.optim import create_optimizer_v2
from torch import nn

from cassle_zoo.common.errors import ConfigError
from cassle_zoo.train.config import OptimConfig
from cassle_zoo.train.methods.base import ParamGroup


def build_optimizer(
    groups: Sequence[ParamGroup], config: OptimConfig, backbone: nn.Module | None = None
) -> torch.optim.Optimizer:
    """Return timm's optimiser of that name over a method's parameters.

    Args:
        groups: The parameters.
        config: The optimiser, its peak learning rate and its weight decay.
        backbone: The timm model among them, which lists parameters that should not decay; for
            `decay_all` False.

    Raises:
        ConfigError: If the optimiser cannot be built, for example because its package is missing,
            or needs second derivatives.
    """
    try:
        optimizer = create_optimizer_v2(
            [part for group in groups for part in _split(group, config, _spared(backbone))],
            opt=config.optimizer,
            lr=config.peak_lr,
            weight_decay=config.weight_decay,
            momentum=config.momentum,
        )
    except (AssertionError, ImportError, TypeError, ValueError) as error:
        raise ConfigError(
            f"optim.optimizer {config.optimizer!r} cannot be used here: {error}"
        ) from error
    assert isinstance(optimizer, torch.optim.Optimizer)
    if getattr(optimizer, "is_second_order", False):
        raise ConfigError(
            f"optim.optimizer {config.optimizer!r} cannot be used here: it needs second "
            "derivatives, which are not computed; momentum, lars, adamw and others do not."
        )
    return optimizer


def set_learning_rate(
    optimizer: torch.optim.Optimizer, step: int, per_epoch: int, config: OptimConfig
) -> float:
    """Give every group of parameters its learning rate of a step.

    Args:
        optimizer: From `build_optimizer`.
        step: Counted from 0.
        per_epoch: Steps in an epoch.
        config: Peak, warm-up and length.

    Returns:
        The learning rate of parameters that are in no special group.
    """
    lr = learning_rate(step, per_epoch, config)
    for group in optimizer.param_groups:
        own = config.peak_lr if group.get("constant_lr") else lr
        group["lr"] = own * group.get("lr_scale", 1.0)
    return lr


def learning_rate(step: int, per_epoch: int, config: OptimConfig) -> float:
    """Return the learning rate of a step: linear warm-up, then half a cosine down to 0.

    Args:
        step: Counted from 0.
        per_epoch: Steps in an epoch.
        config: Peak, warm-up and length.
    """
    warmup = config.warmup_epochs * per_epoch
    if step < warmup:
        return config.peak_lr * (step + 1) / (warmup + 1)
    progress = (step - warmup) / max(config.epochs * per_epoch - warmup, 1)
    return config.peak_lr * (1 + math.cos(math.pi * progress)) / 2


def _spared(backbone: Any) -> set[int]:
    """Return the ids of the parameters in a timm model's `no_weight_decay()`."""
    names = backbone.no_weight_decay() if hasattr(backbone, "no_weight_decay") else ()
    return {id(p) for name, p in backbone.named_parameters() if name in names} if names else set()


def _split(group: ParamGroup, config: OptimConfig, spared: set[int]) -> list[ParamGroup]:
    """Return a group, with the parameters that do not decay apart."""
    if config.decay_all:
        return [{**group}]
    decaying: list[nn.Parameter] = []
    others: list[nn.Parameter] = []
    for p in group["params"]:
        (decaying if p.ndim > 1 and id(p) not in spared else others).append(p)
    parts = {**group, "params": others, "weight_decay": 0.0}, {**group, "params": decaying}
    return [part for part in parts if part["params"]]
