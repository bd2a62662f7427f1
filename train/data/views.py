"""Two augmented views with their omegas from a batch of crops, on the training device."""

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
from cassle_zoo.train.methods import Views


def check_described(descriptors: Sequence[str], augment: AugmentConfig) -> None:
    """Check that omega holds only what the views are augmented by.

    Raises:
        ConfigError: If it holds a further augmentation that is turned off.
    """
    applied = {one.name for one in augment.extra if one.p > 0}
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
) -> Views:
    """Augment both crops of each image, and compute the omegas.

    Args:
        batch: `crops`, `uniforms` and `source` from `data.batches`.
        config: The distribution of views that the uniforms are mapped to.
        layout: Columns of omega.
        device: Where to augment.
        memory_format: Of the resulting images.
    """
    crops = to_device(batch["crops"], device)
    images, omegas = [], []
    made = config.layout
    for view in range(crops.shape[1]):
        params = params_from_uniforms(config, batch["uniforms"][:, view], batch["source"])
        augmented, color_diff = apply_params(crops[:, view], params, config)
        images.append(augmented.contiguous(memory_format=memory_format))
        omegas.append(describe(params, color_diff, made, config))
    return Views(
        images=(images[0], images[1]),
        descriptors=(layout.select(omegas[0], made), layout.select(omegas[1], made)),
        all_descriptors=(
            ALL_DESCRIPTORS.select(omegas[0], made),
            ALL_DESCRIPTORS.select(omegas[1], made),
        ),
    )
