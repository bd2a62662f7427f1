"""The optimiser and its learning rate."""

import fnmatch
import math
from collections.abc import Sequence
from typing import Any

import torch
from timm.optim import create_optimizer_v2, param_groups_layer_decay
from torch import nn

from cassle_zoo.common.errors import ConfigError
from cassle_zoo.train.config import OptimConfig
from cassle_zoo.train.methods.base import ParamGroup


def build_optimizer(
    groups: Sequence[ParamGroup], config: OptimConfig, backbone: nn.Module | None = None
) -> torch.optim.Optimizer:
    """Build timm's optimiser `config.optimizer` for a method's parameters.

    Args:
        groups: The parameters.
        config: The optimiser, its peak learning rate and its weight decay.
        backbone: The timm model among them, which lists parameters that should not decay (for
            `decay_all` False), and its layers (for `layer_decay`).

    Raises:
        ConfigError: If the optimiser cannot be built, for example because its package is missing,
            or needs second derivatives; or timm does not know the layers of the backbone.
    """
    spared, scales = _spared(backbone), _scales(backbone, config)
    try:
        optimizer = create_optimizer_v2(
            [part for group in groups for part in _split(group, config, spared, scales)],
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
    """Set the learning rate of every parameter group for a step.

    Args:
        optimizer: From `build_optimizer`.
        step: Counted from 0.
        per_epoch: Steps in an epoch.
        config: Peak, warm-up and length.

    Returns:
        The learning rate of groups without factors of their own.
    """
    lr = learning_rate(step, per_epoch, config)
    rise = _rise_after_freezing(step, per_epoch, config)
    for group in optimizer.param_groups:
        own = config.peak_lr if group.get("constant_lr") else lr
        group["lr"] = own * group.get("lr_scale", 1.0) * (rise if group.get("backbone") else 1.0)
    return lr


def _rise_after_freezing(step: int, per_epoch: int, config: OptimConfig) -> float:
    """Return the factor on the backbone's learning rate while it warms up after freezing."""
    if config.freeze_epochs == 0:
        return 1.0
    done = step - frozen_steps(per_epoch, config)
    return min(max((done + 1) / (config.warmup_epochs * per_epoch + 1), 0.0), 1.0)


def frozen_steps(per_epoch: int, config: OptimConfig) -> int:
    """Return the number of steps in which the backbone is frozen."""
    return round(config.freeze_epochs * per_epoch)


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
    """Return the ids of the parameters that a timm model's `no_weight_decay()` matches."""
    names = backbone.no_weight_decay() if hasattr(backbone, "no_weight_decay") else ()
    named = backbone.named_parameters() if names else ()
    return {id(p) for name, p in named if any(fnmatch.fnmatch(name, known) for known in names)}


def _scales(backbone: nn.Module | None, config: OptimConfig) -> dict[int, float]:
    """Return the factors on the learning rates of a backbone's parameters, by their ids.

    Empty if the backbone learns like the rest.
    """
    settings = (config.freeze_epochs, config.backbone_lr_scale, config.layer_decay)
    if backbone is None or settings == (0, 1, 1):
        return {}
    if config.layer_decay == 1:
        return {id(p): config.backbone_lr_scale for p in backbone.parameters()}
    layers: list[dict[str, Any]] = param_groups_layer_decay(
        backbone, layer_decay=config.layer_decay
    )
    if len({layer["lr_scale"] for layer in layers}) == 1:
        raise ConfigError(
            f"timm does not know the layers of {type(backbone).__name__}, so optim.layer_decay "
            f"{config.layer_decay} would do nothing; set it to 1."
        )
    return {
        id(p): layer["lr_scale"] * config.backbone_lr_scale
        for layer in layers
        for p in layer["params"]
    }


def _split(
    group: ParamGroup, config: OptimConfig, spared: set[int], scales: dict[int, float]
) -> list[ParamGroup]:
    """Split a group by weight decay and learning rate."""
    parts: dict[tuple[bool, float], ParamGroup] = {}
    for p in group["params"]:
        decays = config.decay_all or (p.ndim > 1 and id(p) not in spared)
        scale = scales.get(id(p), 0.0)
        part = parts.setdefault((decays, scale), {**group, "params": []})
        part["params"].append(p)
        if not decays:
            part["weight_decay"] = 0.0
        elif config.weight_decay == 0:  # where timm's LARS and LAMB would not adapt the steps
            part["always_adapt"] = True
        if scale:
            part["backbone"] = True
            part["lr_scale"] = group.get("lr_scale", 1.0) * scale
    return [parts[key] for key in sorted(parts)]
