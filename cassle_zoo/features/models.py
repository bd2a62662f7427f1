"""Projectors of models, and hashes of the weights of models."""

import hashlib
from typing import Any

import timm
import torch
from torch import Tensor, nn

from cassle_zoo.common.errors import ConfigError, UnknownNameError
from cassle_zoo.projector import ConditionedProjector
from cassle_zoo.zoo.create import create_projector


def open_projector(name: str) -> ConditionedProjector:
    """Build the projector of a model of the zoo, with its weights.

    Raises:
        ConfigError: The model is one of timm, which have none.
        UnknownNameError: There is no such model or tag.
        ModelFolderError: The model has no projector.
        WeightsUnavailableError: The weights cannot be loaded.
    """
    try:
        return create_projector(name, pretrained=True)
    except UnknownNameError as error:
        if not timm.is_model(name.removeprefix("timm:").removeprefix("timm/")):
            raise
        raise ConfigError(
            f"the output 'projected' needs a projector, and {name!r} is a model of timm, which has "
            "none: leave the output out, or pass projector=."
        ) from error


def state_sha256(model: nn.Module) -> str:
    """Return a hash of all parameters and buffers: their names, types, shapes and bytes."""
    digest = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        _add(digest, name, value)
    return digest.hexdigest()


def _add(digest: Any, name: str, value: Any) -> None:
    """Add a value of a model's state, which of quantised models need not be a tensor."""
    if isinstance(value, tuple):
        for part in value:
            _add(digest, name, part)
    elif isinstance(value, Tensor):
        value = value.dequantize() if value.is_quantized else value
        data = value.detach().cpu().contiguous()
        digest.update(f"{name} {data.dtype} {tuple(data.shape)}\n".encode())
        digest.update(data.flatten().view(torch.uint8).numpy().tobytes())
    else:
        digest.update(f"{name} {value!r}\n".encode())
