"""The width of a timm model's features: what a forward pass without classifier gives."""

import functools
import json
from collections.abc import Mapping
from typing import Any

import timm
import torch
from torch import nn

from cassle_zoo.common.errors import ConfigError


def feature_width(
    timm_arch: str, model_args: Mapping[str, Any], input_size: tuple[int, int, int]
) -> int:
    """Return the width F of the (B, F) features that a timm model without classifier gives.

    timm's `num_features` is the width of the last feature map. In a dozen of its families
    (MobileNetV3, GhostNet, HGNet, VGG, ...), wider layers follow it that `num_classes=0` leaves in.
    So the model is run: without memory or computation, on torch's `meta` device, if it permits
    that, else on the CPU. Results are cached.

    Args:
        timm_arch: Name of the timm model.
        model_args: Its builder's arguments, as JSON types.
        input_size: (channels, height, width) in pixels.

    Raises:
        ConfigError: If it cannot be built or run for such images, or does not give one vector per
            image. Its cause is the network's own error.
    """
    return _width(timm_arch, json.dumps(dict(model_args), sort_keys=True), tuple(input_size))


def without_weights(timm_arch: str, model_args: Mapping[str, Any]) -> nn.Module:
    """Return a timm model on torch's `meta` device, without classifier, for inspection.

    Args:
        timm_arch: Name of the timm model.
        model_args: Its builder's arguments, as JSON types.
    """
    return _on_meta(timm_arch, json.dumps(dict(model_args), sort_keys=True))


@functools.lru_cache(maxsize=8)
def _on_meta(timm_arch: str, model_args: str) -> nn.Module:
    with torch.device("meta"):
        return _build(timm_arch, model_args)


def _build(timm_arch: str, model_args: str) -> nn.Module:
    model: nn.Module = timm.create_model(timm_arch, **{"num_classes": 0, **json.loads(model_args)})
    return model.eval()


@functools.lru_cache(maxsize=256)
def _width(timm_arch: str, model_args: str, input_size: tuple[int, int, int]) -> int:
    channels, height, width = input_size
    images = f"images of {height}x{width} pixels and {channels} channels"
    try:
        shape = _shape(timm_arch, model_args, input_size)
    except Exception as error:  # a network may raise anything
        reason = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
        raise ConfigError(
            f"{timm_arch!r} cannot be built, or run, for {images} ({reason})."
        ) from error
    if len(shape) != 2 or not shape[1]:
        raise ConfigError(
            f"{timm_arch!r} gives features of shape {shape} for two {images}, not one vector per "
            "image; use another architecture."
        )
    return shape[1]


def _shape(timm_arch: str, model_args: str, input_size: tuple[int, int, int]) -> tuple[int, ...]:
    with torch.no_grad():
        try:
            model = _on_meta(timm_arch, model_args)
            return tuple(model(torch.zeros(2, *input_size, device="meta")).shape)
        except (RuntimeError, NotImplementedError) as error:
            # Other reasons than a network that looks at values, or a kernel that torch 2.6 lacks.
            if not any(word in str(error) for word in ("meta", "unsupported scalarType")):
                raise
        with torch.random.fork_rng(devices=[]):
            return tuple(_build(timm_arch, model_args)(torch.zeros(2, *input_size)).shape)
