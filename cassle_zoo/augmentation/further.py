"""Further augmentations of the library: rotation, solarisation, and the vertical flip."""

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import torch
from torch import Tensor
from torch.nn.functional import affine_grid, grid_sample

from cassle_zoo.augmentation.base import Augmentation, register_augmentation
from cassle_zoo.common.config import Range


@register_augmentation
@dataclass(frozen=True, kw_only=True)
class Rotation(Augmentation):
    """Rotate the view about its centre by any angle (bilinear).

    The descriptor `crop` does not change: it says where the view was cut out of the upright image,
    and the rotation is about the centre of that cut.

    Attributes:
        degrees: The angle is drawn from [-degrees, degrees]; positive is counter-clockwise.
        padding: What is seen beyond the view's edges: `zeros` (black), `border` or `reflection`.
    """

    name: ClassVar[str] = "rotation"
    columns: ClassVar[tuple[str, ...]] = (
        "sine of the counter-clockwise angle of the rotation; 0 if there was none",
        "1 - cosine of that angle",
    )
    parameters: ClassVar[int] = 1
    after: ClassVar[str] = "flip"
    degrees: Annotated[float, Range(0, 180)] = 30.0
    padding: Literal["zeros", "border", "reflection"] = "zeros"

    def sample(self, uniforms: Tensor) -> Tensor:
        """Draw angles in radians."""
        return torch.deg2rad((2 * uniforms - 1) * self.degrees)

    def apply(self, images: Tensor, parameters: Tensor) -> Tensor:
        """Rotate by angles in radians."""
        sine, cosine, zero = parameters.sin(), parameters.cos(), torch.zeros_like(parameters)
        aspect = images.shape[2] / images.shape[3]  # of pixels in the grid's coordinates
        rows = [cosine, -sine * aspect, zero, sine / aspect, cosine, zero]
        matrices = torch.cat(rows, dim=1).view(-1, 2, 3)
        grid = affine_grid(matrices, list(images.shape), align_corners=False)
        return grid_sample(images, grid, padding_mode=self.padding, align_corners=False)

    def describe(self, parameters: Tensor) -> Tensor:
        """Return sine, and 1 - cosine: continuous at half a turn, and 0 without rotation."""
        return torch.cat([parameters.sin(), 1 - parameters.cos()], dim=1)


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
