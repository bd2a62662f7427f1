"""Backbones to train, by name."""

import functools
import warnings
from typing import Any

import timm
from torch import nn

from cassle_zoo.common.errors import ConfigError
from cassle_zoo.zoo.names import resolve_arch, short_arch
from cassle_zoo.zoo.vit import MOCOV3_VITS, freeze_fixed_parts, mocov3_vit
from cassle_zoo.zoo.width import feature_width, without_weights


@functools.lru_cache
def backbone_width(arch: str, size: int, channels: int = 3, local_size: int | None = None) -> int:
    """Return the width of a network's features, after checking that it takes views of these sizes.

    The network is built and run without allocating its weights, in a fraction of a second.

    Args:
        arch: As in :func:`cassle_zoo.zoo.names.resolve_arch`.
        size: Height and width of the views in pixels.
        channels: Their number of channels.
        local_size: Height and width of the local crops, if there are any.

    Raises:
        UnknownNameError: If there is no such architecture.
        ConfigError: If it cannot be built for such a size, its patches do not divide it, or it does
            not give one vector per image.
    """
    timm_arch, args = resolve_arch(arch, size, channels)
    try:
        model = without_weights(timm_arch, args)
    except (AssertionError, RuntimeError, TypeError, ValueError) as error:
        raise ConfigError(
            f"arch {arch!r} cannot be built for views of augment.size {size}: {error!s:.200}"
        ) from error
    patch_size = getattr(getattr(model, "patch_embed", None), "patch_size", 1)
    patch = patch_size if isinstance(patch_size, int) else max(patch_size)
    for name, side in (("augment.size", size), ("views.local.size", local_size or 0)):
        if side % patch:
            below = side // patch * patch
            raise ConfigError(
                f"{name} {side} is not a multiple of the {patch} px patches of arch {arch!r}; "
                f"use {f'{below} or ' if below else ''}{below + patch}."
            )
    if local_size is not None:
        any_size = args | _any_size(timm_arch, size, local_size)
        try:
            feature_width(timm_arch, any_size, (channels, local_size, local_size))
        except ConfigError as error:
            raise ConfigError(
                f"arch {arch!r} takes no local crops of views.local.size {local_size}: {error}"
            ) from error
    return feature_width(timm_arch, args, (channels, size, size))


@functools.lru_cache
def has_batch_norm(arch: str, size: int) -> bool:
    """Return whether a network has BatchNorm; the arguments are those of `backbone_width`."""
    network = without_weights(*resolve_arch(arch, size))
    return any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in network.modules())


def _any_size(timm_arch: str, size: int, local_size: int | None) -> dict[str, Any]:
    """Return the arguments that make a network of fixed input size take another size as well."""
    cfg = timm.get_pretrained_cfg(timm_arch)
    other = local_size not in (None, size)
    return {"dynamic_img_size": True} if other and cfg is not None and cfg.fixed_input_size else {}


def build_backbone(
    arch: str, size: int, channels: int = 3, local_size: int | None = None
) -> nn.Module:
    """Build a network without classifier, initialised for training.

    MoCo-v3's ViTs get their fixed positions and an untrained patch projection, both frozen.

    Args:
        arch: As in :func:`cassle_zoo.zoo.names.resolve_arch`.
        size: Height and width of the views in pixels.
        channels: Their number of channels.
        local_size: Height and width of the local crops, if any. The weights do not change; a
            network of fixed input size resamples its position embeddings in the forward pass.

    Raises:
        UnknownNameError: If there is no such architecture.

    Warns:
        UserWarning: If a convolutional network halves views of that size until nothing is left.
    """
    timm_arch, args = resolve_arch(arch, size, channels)
    args |= _any_size(timm_arch, size, local_size)
    vit = MOCOV3_VITS.get(short_arch(arch))
    if vit is None:
        network: nn.Module = timm.create_model(timm_arch, num_classes=0, **args)
        stages: Any = getattr(network, "feature_info", None) or [{}]
        stride = stages[-1].get("reduction", 1)
        if size < stride:
            warnings.warn(
                f"augment.size {size} is less than the stride of {arch}, {stride} px: its last "
                f"layers see padding more than image; use at least {stride}, better twice that.",
                stacklevel=2,
            )
        return network
    model = mocov3_vit(num_classes=0, **{**vit, **args})
    freeze_fixed_parts(model)
    return model
