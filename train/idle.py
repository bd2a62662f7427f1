"""Settings that do nothing beside the others: named for flags, and for settings made in Python."""

from collections.abc import Iterator
from typing import Any

from timm.optim import get_optimizer_info

from cassle_zoo.augmentation.registry import augmentations
from cassle_zoo.train.backbone import has_batch_norm
from cassle_zoo.train.config import TrainConfig
from cassle_zoo.train.methods.dino import DINOConfig

BACKBONE_BN = "optim.backbone_bn"


def idle(config: TrainConfig, *, backbone_bn: bool) -> list[tuple[str, str]]:
    """Return settings, or beginnings of their names, that do nothing, and why.

    Args:
        config: All settings.
        backbone_bn: Whether to look at `optim.backbone_bn`, too, which takes a second.
    """
    mode, optimizer = config.conditioning.mode, config.optim.optimizer
    plain = mode == "none"
    no_encoder = plain or mode.startswith("raw_")
    has_momentum = get_optimizer_info(optimizer.removeprefix("lookahead_")).has_momentum
    descriptors = bool(config.conditioning.descriptors)  # baselines have none on the command line
    rules = [
        ("conditioning.depth", no_encoder, f"conditioning.mode is {mode}"),
        ("conditioning.width", no_encoder, f"conditioning.mode is {mode}"),
        ("conditioning.descriptors", plain and descriptors, "conditioning.mode is none"),
        ("method.hidden_features", config.method.depth == 1, "method.depth is 1"),
        ("optim.momentum", not has_momentum, f"{optimizer} has no momentum"),
        ("run.monitor_samples", config.run.monitor_every == 0, "run.monitor_every is 0"),
        ("views.local.", config.views.local.count == 0, "views.local.count is 0"),
    ]
    if backbone_bn:
        no_norm = not has_batch_norm(config.arch, config.augment.size)
        rules.append((BACKBONE_BN, no_norm, f"{config.arch} has no BatchNorm"))
    off = augmentations().keys() - {one.name for one in config.augment.extra}
    rules += [(f"augment.{name}.", True, f"augment.{name}.p is 0") for name in off]
    return [(name, reason) for name, holds, reason in rules if holds]


def notes(config: TrainConfig) -> Iterator[str]:
    """Yield what to say of settings made in Python: which differ from the default in vain."""
    changed = _differs(config, BACKBONE_BN)
    for name, reason in idle(config, backbone_bn=changed):
        if not name.startswith("augment.") and _differs(config, name):
            yield f"{name.removesuffix('.')} does nothing, because {reason}."
    yield from dino_note(config)


def dino_note(config: TrainConfig) -> Iterator[str]:
    """Yield a note if DINO's prototypes stay frozen for the whole training."""
    method, epochs = config.method, config.optim.epochs
    if isinstance(method, DINOConfig) and method.freeze_last_layer_epochs >= epochs:
        yield (
            "DINO's prototypes will not learn, because method.freeze_last_layer_epochs is "
            f"{method.freeze_last_layer_epochs:g} and optim.epochs {epochs}; lower the first."
        )


def _differs(config: TrainConfig, name: str) -> bool:
    section, _, field = name.removesuffix(".").partition(".")
    part: Any = getattr(config, section)
    return bool(getattr(part, field) != getattr(type(part)(), field))
