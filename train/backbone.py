"""Backbones to train, by name."""

import functools
import warnings
from typing import Any, cast

import timm
from torch import nn

from cassle_zoo.common.errors import ConfigError, unknown_name
from cassle_zoo.specs import BACKBONES, MODEL_SPECS
from cassle_zoo.zoo import width
from cassle_zoo.zoo.vit import MOCOV3_VITS, freeze_fixed_parts, mocov3_vit
from cassle_zoo.zoo.width import without_weights


def resolve_arch(arch: str, size: int) -> tuple[str, dict[str, Any]]:
    """Return the timm model that an architecture's name stands for, and its builder's arguments.

    Args:
        arch: A short name of :data:`cassle_zoo.specs.BACKBONES` (`vit_small` is MoCo-v3's, with 12
            heads), a model of the registry, or any timm model.
        size: Height and width of the views in pixels.

    Raises:
        UnknownNameError: If there is no such architecture.
    """
    known = BACKBONES.get(short_arch(arch))
    timm_arch = arch if known is None else known.timm_arch
    if not timm.is_model(timm_arch):
        names = [*BACKBONES, *timm.list_models()]
        raise unknown_name("arch", arch, names, listed_by="timm.list_models()")
    args: dict[str, Any] = {} if known is None else dict(known.model_args)
    cfg = timm.get_pretrained_cfg(timm_arch)
    # Some networks, ViTs above all, are built for one size of input.
    if cfg is not None and cfg.fixed_input_size and cfg.input_size[-1] != size:
        args["img_size"] = size
    return timm_arch, args


@functools.lru_cache
def feature_width(arch: str, size: int) -> int:
    """Return the width of a network's features, after checking that it takes views of that size.

    The network is built and run without memory for its weights, in a fraction of a second.

    Args:
        arch: As in :func:`resolve_arch`.
        size: Height and width of the views in pixels.

    Raises:
        UnknownNameError: If there is no such architecture.
        ConfigError: If it cannot be built for that size, its patches do not divide it, or it does
            not give one vector per image.
    """
    timm_arch, args = resolve_arch(arch, size)
    try:
        model = without_weights(timm_arch, args)
    except (AssertionError, RuntimeError, TypeError, ValueError) as error:
        raise ConfigError(
            f"arch {arch!r} cannot be built for views of augment.size {size}: {error!s:.200}"
        ) from error
    patch_size = getattr(getattr(model, "patch_embed", None), "patch_size", 1)
    patch = patch_size if isinstance(patch_size, int) else max(patch_size)
    if size % patch:
        below = size // patch * patch
        raise ConfigError(
            f"augment.size {size} is not a multiple of the {patch} px patches of arch {arch!r}; "
            f"use {f'{below} or ' if below else ''}{below + patch}."
        )
    return width.feature_width(timm_arch, args, (3, size, size))


def build_backbone(arch: str, size: int) -> nn.Module:
    """Build a network without classifier, initialised for training.

    MoCo-v3's ViTs get their fixed positions and an untrained patch projection, both frozen.

    Args:
        arch: As in :func:`resolve_arch`.
        size: Height and width of the views in pixels.

    Raises:
        UnknownNameError: If there is no such architecture.

    Warns:
        UserWarning: If a convolutional network halves views of that size until nothing is left.
    """
    timm_arch, args = resolve_arch(arch, size)
    vit = MOCOV3_VITS.get(short_arch(arch))
    if vit is None:
        model: Any = timm.create_model(timm_arch, num_classes=0, **args)
        stages = getattr(model, "feature_info", None) or [{}]
        stride = stages[-1].get("reduction", 1)
        if size < stride:
            warnings.warn(
                f"augment.size {size} is less than the stride of {arch}, {stride} px: its last "
                f"layers see padding more than image; use at least {stride}, better twice that.",
                stacklevel=2,
            )
        return cast(nn.Module, model)
    model = mocov3_vit(num_classes=0, **{**vit, **args})
    freeze_fixed_parts(model)
    return model


def short_arch(arch: str) -> str:
    """Return the short name that begins a model's name, for an architecture named by a model."""
    return next((spec.arch for spec in MODEL_SPECS.values() if spec.name == arch), arch)
