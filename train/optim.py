"""The optimiser and its learning rate."""

import math

import torch
from timm.optim import create_optimizer_v2
from torch import nn

from cassle_zoo.errors import ConfigError
from cassle_zoo.train.config import OptimConfig


def build_optimizer(model: nn.Module, config: OptimConfig) -> torch.optim.Optimizer:
    """Return timm's optimiser of that name over the trainable parameters of `model`.

    Raises:
        ConfigError: If timm has no optimiser of that name.
    """
    try:
        optimizer = create_optimizer_v2(
            model,
            opt=config.optimizer,
            lr=config.peak_lr,
            weight_decay=config.weight_decay,
            momentum=config.momentum,
            filter_bias_and_bn=not config.decay_all,
        )
    except ValueError as error:
        raise ConfigError(
            f"optim.optimizer {config.optimizer!r}: {error} "
            "See timm.optim.list_optimizers() for the names."
        ) from error
    assert isinstance(optimizer, torch.optim.Optimizer)
    return optimizer


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
