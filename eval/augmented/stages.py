"""Features after every stage of a network, and projections."""

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from cassle_zoo.augmentation.descriptors import ALL_DESCRIPTORS, DescriptorLayout
from cassle_zoo.common.errors import ConfigError
from cassle_zoo.features.inference import choose_device, embed, inference
from cassle_zoo.projector import ConditionedProjector

BACKBONE = "backbone"
_ROWS = 4096  # projected at a time


def stage_modules(model: nn.Module) -> dict[str, tuple[nn.Module, int]]:
    """Return the stages of a timm model, in order, with their numbers of channels.

    These are the patch embedding, if there is one, and the modules in timm's `feature_info`
    (`act1`, `layer1`, ... of ResNets; every block of ViTs). Other modules have no stages.
    """
    info: Any = getattr(model, "feature_info", None)
    found: dict[str, tuple[nn.Module, int]] = {}
    if not isinstance(info, list) or not info:
        return found
    patches = getattr(model, "patch_embed", None)
    if isinstance(patches, nn.Module):
        found["patch_embed"] = (patches, int(getattr(model, "embed_dim", info[0]["num_chs"])))
    for stage in info:
        found[stage["module"]] = (model.get_submodule(stage["module"]), int(stage["num_chs"]))
    return found


def embed_stages(model: nn.Module, images: Tensor) -> dict[str, Tensor]:
    """Return the globally average-pooled features after each stage, and those of the backbone.

    Args:
        model: A model in evaluation mode; see `cassle_zoo.features.inference.inference`.
        images: (B, C, H, W) on the model's device.

    Returns:
        (B, D) float32 on the CPU by stage; the last is `backbone`, what
        `cassle_zoo.features.inference.embed` returns. Class tokens do not enter the means.

    Raises:
        ConfigError: If the model does not return (B, D), or a stage yields anything but maps or
            tokens of its number of channels.
    """
    prefix = int(getattr(model, "num_prefix_tokens", 0) or 0)
    pooled: dict[str, Tensor] = {}
    handles = []

    def pool(name: str, channels: int, _module: nn.Module, _inputs: Any, output: Any) -> None:
        skip = 0 if name == "patch_embed" else prefix
        pooled[name] = _pool(output, channels, skip, name).float().cpu()

    try:
        for name, (module, channels) in stage_modules(model).items():
            handles.append(module.register_forward_hook(partial(pool, name, channels)))
        features = embed(model, images)
    finally:
        for handle in handles:
            handle.remove()
    return {**pooled, BACKBONE: features}


def project(
    projector: ConditionedProjector,
    features: Tensor,
    omega: Tensor,
    layout: DescriptorLayout = ALL_DESCRIPTORS,
    *,
    device: str | None = None,
) -> Tensor:
    """Return projections (N, K), float32 on the CPU, in evaluation mode.

    Args:
        projector: The projector.
        features: (N, D).
        omega: (N, layout.width).
        layout: Columns of `omega`.
        device: The device to compute on.
    """
    target = choose_device(projector, device)
    chosen = projector.layout.select(omega, layout)
    with inference(projector, target):
        parts = [
            projector(part.to(target), own.to(target)).cpu()
            for part, own in zip(features.split(_ROWS), chosen.split(_ROWS), strict=True)
        ]
    return torch.cat(parts)


def _pool(output: Any, channels: int, prefix: int, name: str) -> Tensor:
    if isinstance(output, Tensor) and output.ndim == 4 and output.shape[1] == channels:
        return torch.mean(output, dim=(2, 3))
    if isinstance(output, Tensor) and output.ndim == 4 and output.shape[3] == channels:
        return torch.mean(output, dim=(1, 2))
    if isinstance(output, Tensor) and output.ndim == 3 and output.shape[2] == channels:
        return torch.mean(output[:, prefix:], dim=1)
    shape = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
    raise ConfigError(
        f"stage {name} yields {shape}; maps or tokens of {channels} channels are needed."
    )
