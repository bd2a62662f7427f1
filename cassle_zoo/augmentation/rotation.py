"""Rotation, as a further augmentation."""

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
