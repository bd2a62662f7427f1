"""A transform from an image to views with their omegas, for any training loop."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any

import torch
from torch import Tensor
from torch.utils.data import get_worker_info

from cassle_zoo.augmentation.augment import AugmentConfig, apply_params, describe, sample_params
from cassle_zoo.augmentation.crop import cut_crops
from cassle_zoo.augmentation.descriptors import PAPER_DESCRIPTORS, DescriptorLayout
from cassle_zoo.common.bands import open_scaled
from cassle_zoo.common.config import Range, check_fields

_MOST = 2**63 - 1  # the largest of torch's random integers


@dataclass(frozen=True, kw_only=True)
class DescribedViews:
    """A transform from an image to augmented views and their omegas.

    Use it like a torchvision transform: it samples, applies and describes the augmentation on the
    CPU, one image at a time. A `DataLoader`'s default collation returns a list of
    (B, 3, size, size) views and a list of (B, D) omegas.

    Attributes:
        config: The distribution that views are drawn from.
        descriptors: Names of the descriptors that make up omega, as in `ProjectorConfig`.
        views: Number of views of each image.
        generator: Source of randomness; `None` means torch's global generator, which a
            `DataLoader` seeds differently in each worker and epoch. Every worker has the same copy
            of a given generator, so there its seed is combined with a draw from the global one;
            workers and epochs then differ, too.

    Raises:
        UnknownNameError: If a descriptor does not exist.
        ConfigError: If a value has the wrong type, or there are no views.

    Examples:
        >>> views = cassle_zoo.DescribedViews()
        >>> with Image.open("photo.jpg") as image:
        ...     (view1, view2), (omega1, omega2) = views(image)
        >>> view1.shape, omega1.shape
        (torch.Size([3, 224, 224]), torch.Size([13]))
    """

    config: AugmentConfig = field(default_factory=AugmentConfig)
    descriptors: tuple[str, ...] = PAPER_DESCRIPTORS
    views: Annotated[int, Range(1)] = 2
    generator: torch.Generator | None = None

    def __post_init__(self) -> None:
        """Check every field; the layout checks the descriptors."""
        check_fields(self)
        DescriptorLayout(self.descriptors)

    def __getstate__(self) -> dict[str, Any]:
        """Store the generator by its state as bytes.

        torch stores it as a tensor in shared memory, which is gone before a spawned worker reads
        it.
        """
        own = self.generator
        state = None if own is None else own.get_state().numpy().tobytes()
        return {**vars(self), "generator": state}

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        """Restore the generator."""
        stored = state["generator"]
        own = None if stored is None else torch.Generator()
        if own is not None:
            own.set_state(torch.frombuffer(bytearray(stored), dtype=torch.uint8))
        vars(self).update({**state, "generator": own})

    @property
    def layout(self) -> DescriptorLayout:
        """Names and columns of omega."""
        return DescriptorLayout(self.descriptors)

    def __call__(self, image: Any) -> tuple[list[Tensor], list[Tensor]]:
        """Make the views of one image.

        Args:
            image: An image of any size: a PIL image of any mode, a file, an array ((H, W) or
                (H, W, C)) or a tensor ((H, W) or (C, H, W)), uint8, uint16 or float in [0, 1];
                converted by :func:`cassle_zoo.common.bands.open_channels`.

        Returns:
            The views, each (C, size, size) float32 and normalised, and their omegas, each (D,).

        Raises:
            UnreadableImageError: The image cannot be read, or its values are out of range.
            ConfigError: It is an object of another type.
        """
        is_file = isinstance(image, str | os.PathLike)
        name = None if is_file else "the image"
        image, (width, height) = open_scaled(image, self.config.channels, None, name)
        source = torch.tensor([[height, width]]).expand(self.views, 2)
        generator = self.generator
        if generator is None or get_worker_info() is not None:
            seed = int(torch.empty((), dtype=torch.int64).random_())
            own = 0 if generator is None else generator.initial_seed() & _MOST
            generator = torch.Generator().manual_seed(seed ^ own)
        params = sample_params(self.config, source, generator=generator)
        crops = cut_crops(image, params.box.tolist(), self.config.size)
        images, color_diff = apply_params(crops, params, self.config)
        omegas = describe(params, color_diff, self.layout, self.config)
        return list(images), list(omegas)
