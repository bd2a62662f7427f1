"""Solarisation, as a further augmentation."""

from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from torch import Tensor

from cassle_zoo.augmentation.base import Augmentation, register_augmentation
from cassle_zoo.common.config import Range


@register_augmentation
@dataclass(frozen=True, kw_only=True)
class Solarize(Augmentation):
    """Invert the bright pixels, as in BYOL (arXiv 2006.07733, there p 0.2 for one of two views).

    Attributes:
        threshold: Values of at least this are inverted.
    """

    name: ClassVar[str] = "solarize"
    columns: ClassVar[tuple[str, ...]] = ("1 if the view was solarised, else 0",)
    threshold: Annotated[float, Range(0, 1)] = 0.5

    def apply(self, images: Tensor, parameters: Tensor) -> Tensor:
        """Invert values of at least the threshold."""
        del parameters
        return torch.where(images >= self.threshold, 1 - images, images)

    def describe(self, parameters: Tensor) -> Tensor:
        """Return 1."""
        return parameters.new_ones(len(parameters), 1)
