"""Views on a device other than the CPU; `meta` stands in for a GPU."""

from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from cassle_zoo.augmentation.augment import AugmentConfig, draw_uniforms
from cassle_zoo.augmentation.descriptors import DescriptorLayout
from cassle_zoo.train.data.views import make_views

LAYOUT = DescriptorLayout(("color", "crop"))


class Transfers(TorchDispatchMode):
    """Notes of each copy to another device whether it is waited for."""

    def __init__(self) -> None:
        super().__init__()
        self.waited_for: list[bool] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is torch.ops.aten._to_copy.default and kwargs.get("device", args[0].device) != (
            args[0].device
        ):
            self.waited_for.append(not kwargs.get("non_blocking", False))
        return func(*args, **kwargs)


def test_all_is_made_on_the_device_and_nothing_waits_for_it() -> None:
    generator = torch.Generator().manual_seed(0)
    batch = {
        "crops": torch.zeros(16, 2, 3, 32, 32, dtype=torch.uint8),
        "uniforms": draw_uniforms(32, generator).view(16, 2, -1),
        "source": torch.full((16, 2), 40),
    }
    meta = torch.device("meta")
    with Transfers() as transfers:
        views = make_views(
            batch, AugmentConfig(size=32), LAYOUT, meta, memory_format=torch.channels_last
        )
    assert {t.device for t in (*views.images, *views.descriptors)} == {meta}
    assert views.images[0].shape == (16, 3, 32, 32)
    assert views.images[0].is_contiguous(memory_format=torch.channels_last)
    assert [omega.shape for omega in views.descriptors] == [(16, 8)] * 2
    assert len(transfers.waited_for) > 20
    assert not any(transfers.waited_for)
