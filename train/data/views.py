"""Augmented views with their omegas from a batch of crops, on the training device."""

from collections.abc import Sequence

import torch
from torch import Tensor

from cassle_zoo.augmentation.augment import (
    AugmentConfig,
    apply_params,
    describe,
    params_from_uniforms,
)
from cassle_zoo.augmentation.descriptors import ALL_DESCRIPTORS, DescriptorLayout
from cassle_zoo.common.devices import to_device
from cassle_zoo.common.errors import ConfigError
from cassle_zoo.train.data.view_config import ViewsConfig
from cassle_zoo.train.methods import Views


def check_described(descriptors: Sequence[str], views: Sequence[AugmentConfig]) -> None:
    """Check that omega describes only augmentations that the views have.

    Args:
        descriptors: Names of the descriptors that make up omega.
        views: The distribution of each view.

    Raises:
        ConfigError: If it describes a further augmentation that is turned off.
    """
    applied = {one.name for view in views for one in view.extra if one.p > 0}
    if absent := sorted(set(descriptors) - {*ALL_DESCRIPTORS.names, *applied}):
        flags = " ".join(f"--augment.{name.replace('_', '-')}.p 0.5" for name in absent)
        raise ConfigError(
            f"conditioning.descriptors has {', '.join(absent)}, but no view is augmented so: pass "
            f"{flags}, or leave it out of the descriptors."
        )


def make_views(
    batch: dict[str, Tensor],
    config: AugmentConfig,
    layout: DescriptorLayout,
    device: torch.device,
    memory_format: torch.memory_format = torch.contiguous_format,
    views: ViewsConfig | None = None,
) -> Views:
    """Augment the crops of each image, and compute the omegas.

    Args:
        batch: `crops`, `local_crops`, `uniforms` and `source` from `data.batches`.
        config: The distribution of views that the uniforms are mapped to; it also scales omega, so
            that one number of omega means the same in all views.
        layout: Columns of omega.
        device: Where to augment.
        memory_format: Of the resulting images.
        views: Number of views, and what differs in some of them; by default two, drawn alike.
    """
    views = ViewsConfig() if views is None else views
    crops = [*to_device(batch["crops"], device).unbind(1)]
    if views.local.count:
        crops += to_device(batch["local_crops"], device).unbind(1)
    each = views.of_each(config)
    scale, made = each[0], each[0].layout
    images, omegas = [], []
    for view, (crop, own) in enumerate(zip(crops, each, strict=True)):
        params = params_from_uniforms(own, batch["uniforms"][:, view], batch["source"])
        augmented, color_diff = apply_params(crop, params, own)
        images.append(augmented.contiguous(memory_format=memory_format))
        omegas.append(describe(params, color_diff, made, scale))
    return Views(
        images=tuple(images),
        descriptors=tuple(layout.select(omega, made) for omega in omegas),
        all_descriptors=tuple(ALL_DESCRIPTORS.select(omega, made) for omega in omegas),
        local=views.local.count,
    )
