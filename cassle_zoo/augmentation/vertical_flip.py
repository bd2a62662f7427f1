"""The vertical flip, as a further augmentation."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from cassle_zoo.augmentation.base import Augmentation, register_augmentation


@register_augmentation
@dataclass(frozen=True, kw_only=True)
class VerticalFlip(Augmentation):
    """Turn the view upside down by mirroring it, for images without a right way up."""

    name: ClassVar[str] = "vertical_flip"
    columns: ClassVar[tuple[str, ...]] = (
        "1 if the view was flipped vertically, else 0; `crop` then has 1 - y for y",
    )
    after: ClassVar[str] = "flip"

    def apply(self, images: Tensor, parameters: Tensor) -> Tensor:
        """Mirror the rows."""
        del parameters
        return images.flip(2)

    def describe(self, parameters: Tensor) -> Tensor:
        """Return 1."""
        return parameters.new_ones(len(parameters), 1)

    def describe_crop(self, crop: Tensor, parameters: Tensor) -> Tensor:
        """Mirror the centre's y, as the horizontal flip mirrors its x."""
        del parameters
        y, rest = crop.split([1, 3], dim=1)
        return torch.cat([1 - y, rest], dim=1)
