"""The optimiser and its learning rate."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from timm.optim import create_optimizer_v2

from cassle_zoo.errors import ConfigError
from cassle_zoo.train.config import OptimConfig
from cassle_zoo.train.methods.base import ParamGroup


def build_optimizer(groups: Sequence[ParamGroup], config: OptimConfig) -> torch.optim.Optimizer:
    """Return timm's optimiser of that name over a method's parameters.

    Raises:
        ConfigError: If timm has no optimiser of that name.
    """
    try:
        optimizer = create_optimizer_v2(
            [part for group in groups for part in _split(group, config)],
            opt=config.optimizer,
            lr=config.peak_lr,
            weight_decay=config.weight_decay,
            momentum=config.momentum,
        )
    except ValueError as error:
        raise ConfigError(
            f"optim.optimizer {config.optimizer!r}: {error} "
            "See timm.optim.list_optimizers() for the names."
        ) from error
    assert isinstance(optimizer, torch.optim.Optimizer)
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


def _split(group: ParamGroup, config: OptimConfig) -> list[dict[str, Any]]:
    """Return torch's form of a group; biases and normalisation apart if they do not decay."""
    rates = {"lr_scale": group.lr_scale, "constant_lr": group.constant_lr}
    if config.decay_all:
        return [{"params": group.parameters, **rates}]
    parts = (
        {"params": [p for p in group.parameters if p.ndim <= 1], "weight_decay": 0.0, **rates},
        {"params": [p for p in group.parameters if p.ndim > 1], **rates},
    )
    return [part for part in parts if part["params"]]
