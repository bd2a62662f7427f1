"""Models by name, of the zoo or of timm, and hashes of their weights."""

import hashlib

import timm
import torch
from timm.models import get_pretrained_cfg
from torch import nn

from cassle_zoo.common.errors import (
    ConfigError,
    UnknownNameError,
    WeightsUnavailableError,
    unknown_name,
)
from cassle_zoo.projector import ConditionedProjector


def open_model(name: str, *, pretrained: bool) -> nn.Module:
    """Build a model of the zoo or of timm, without its classifier.

    Args:
        name: As for :func:`cassle_zoo.create_model`, or a name of timm.
        pretrained: Whether to load the weights.

    Raises:
        UnknownNameError: There is no such model or tag.
        WeightsUnavailableError: The weights cannot be loaded.
    """
    from cassle_zoo.zoo.create import create_model

    # Other models of timm are welcome too, to be compared with.
    try:
        return create_model(name, pretrained=pretrained)
    except UnknownNameError:
        if not timm.is_model(name.removeprefix("timm/")):
            raise
    return timm_model(name, pretrained=pretrained)


def open_projector(name: str) -> ConditionedProjector:
    """Build the projector of a model of the zoo, with its weights.

    Raises:
        ConfigError: The model is one of timm, which have none.
        UnknownNameError: There is no such model or tag.
        ModelFolderError: The model has no projector.
        WeightsUnavailableError: The weights cannot be loaded.
    """
    from cassle_zoo.zoo.create import create_projector

    try:
        return create_projector(name, pretrained=True)
    except UnknownNameError as error:
        if not timm.is_model(name.removeprefix("timm/")):
            raise
        raise ConfigError(
            f"the output 'projected' needs a projector, and {name!r} is a model of timm, which has "
            "none: leave the output out, or pass projector=."
        ) from error


def timm_model(name: str, *, pretrained: bool = True, advice: str = "") -> nn.Module:
    """Build a model of timm without its classifier.

    Args:
        name: A name that timm knows, with or without tag.
        pretrained: Whether to load timm's weights.
        advice: What to do if they cannot be loaded.

    Raises:
        UnknownNameError: There is no such tag.
        WeightsUnavailableError: timm has no weights, or they cannot be loaded.
    """
    check_timm_tag(name)
    # The Hub's client, the network and timm raise errors of many types.
    try:
        model: nn.Module = timm.create_model(name, pretrained=pretrained, num_classes=0)
    except Exception as error:
        if not pretrained:
            raise
        raise WeightsUnavailableError(
            f"timm's pretrained weights of {name} cannot be loaded: {error} They come from the "
            f"network once and are cached by the Hub's client (HF_HOME){advice}."
        ) from error
    return model


def check_timm_tag(name: str) -> None:
    """Check that timm has the tag of a name; a name without tag passes.

    Raises:
        UnknownNameError: It has not; the message lists the tags there are.
    """
    name = name.removeprefix("timm/")
    architecture, _, tag = name.partition(".")
    if not tag:
        return
    try:
        get_pretrained_cfg(name)
    except RuntimeError:
        known = [other.partition(".")[2] for other in timm.list_pretrained(f"{architecture}.*")]
        if not known:
            raise UnknownNameError(
                f"timm has no tag {tag!r} of {architecture!r}, which has no pretrained weights."
            ) from None
        raise unknown_name(f"tag of timm's {architecture}", tag, known) from None


def state_sha256(model: nn.Module) -> str:
    """Return a hash of all parameters and buffers: their names, types, shapes and bytes."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        data = tensor.detach().cpu().contiguous()
        digest.update(f"{name} {data.dtype} {tuple(data.shape)}\n".encode())
        digest.update(data.flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
