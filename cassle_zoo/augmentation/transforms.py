"""A transform from an image to views with their omegas, for any training loop."""

from dataclasses import dataclass, field

import torch
from PIL import Image
from torch import Tensor

from cassle_zoo.augmentation.augment import AugmentConfig, apply_params, describe, sample_params
from cassle_zoo.augmentation.crop import cut_crops
from cassle_zoo.augmentation.descriptors import PAPER_DESCRIPTORS, DescriptorLayout
from cassle_zoo.common.errors import ConfigError
from cassle_zoo.common.images import to_rgb


@dataclass(frozen=True, kw_only=True)
class DescribedViews:
    """A transform from an image to augmented views and their omegas.

    It is used like a torchvision transform, and samples, applies and describes the augmentation on
    the CPU, one image at a time. A `DataLoader`'s default collation returns a list of
    (B, 3, size, size) views and a list of (B, D) omegas.

    Attributes:
        config: The distribution that views are drawn from.
        descriptors: Names of the descriptors that make up omega, as in `ProjectorConfig`.
        views: Number of views of each image.
        generator: Source of randomness; `None` is torch's global one, which a `DataLoader` seeds
            differently in each worker.

    Raises:
        UnknownNameError: If a descriptor does not exist.
        ConfigError: If there are no views.
    """

    config: AugmentConfig = field(default_factory=AugmentConfig)
    descriptors: tuple[str, ...] = PAPER_DESCRIPTORS
    views: int = 2
    generator: torch.Generator | None = None

    def __post_init__(self) -> None:
        """Check the number of views; the layout checks the descriptors."""
        if self.views < 1:
            raise ConfigError(f"views must be at least 1, got {self.views}.")
        DescriptorLayout(tuple(self.descriptors))

    @property
    def layout(self) -> DescriptorLayout:
        """Names and columns of omega."""
        return DescriptorLayout(tuple(self.descriptors))

    def __call__(self, image: Image.Image) -> tuple[list[Tensor], list[Tensor]]:
        """Make the views of one image.

        Args:
            image: Of any size and mode; converted by :func:`cassle_zoo.common.images.to_rgb`.

        Returns:
            The views, each (3, size, size) float32 and normalised, and their omegas, each (D,).
        """
        image = to_rgb(image)
        source = torch.tensor([[image.height, image.width]]).expand(self.views, 2)
        generator = self.generator
        if generator is None:
            seed = torch.empty((), dtype=torch.int64).random_()
            generator = torch.Generator().manual_seed(int(seed))
        params = sample_params(self.config, source, generator=generator)
        crops = cut_crops(image, params.box.tolist(), self.config.size)
        images, color_diff = apply_params(crops, params, self.config)
        omegas = describe(params, color_diff, self.layout, self.config)
        return list(images), list(omegas)
