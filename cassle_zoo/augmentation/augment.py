"""Augmentation with known parameters, as three functions: sample, apply and describe.

`sample_params` draws all randomness of a view from an explicit generator, `apply_params` is a
deterministic function of pixels and parameters, and `describe` turns the parameters into omega.
The recipe is the paper's (section 4): random resized crop, flip, colour jitter, grayscale, blur.
Cropping needs the whole image, so it happens where that is decoded (`crop.cut_crops`, in the
data workers); the rest is batched and runs on the device of its input.
"""

import dataclasses
import functools
import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor

from cassle_zoo.augmentation import pixels
from cassle_zoo.augmentation.crop import N_CROP_UNIFORMS, crop_box
from cassle_zoo.augmentation.descriptors import DescriptorLayout
from cassle_zoo.common.config import POSITIVE, Range, check_fields
from cassle_zoo.common.devices import to_device
from cassle_zoo.common.errors import ConfigError

_N_UNIFORMS = N_CROP_UNIFORMS + 13
_JITTER_OPS: tuple[Callable[[Tensor, Tensor], Tensor], ...] = (
    pixels.adjust_brightness,
    pixels.adjust_contrast,
    pixels.adjust_saturation,
    pixels.adjust_hue,
)
_NEUTRAL_FACTORS = (1.0, 1.0, 1.0, 0.0)

Fraction = Annotated[float, Range(0, 1)]


@dataclass(frozen=True, kw_only=True)
class AugmentConfig:
    """The distribution that views are drawn from.

    Attributes:
        size: Height and width of a view in pixels.
        crop_scale: Smallest and largest area of a crop, as a fraction of the image's.
        crop_ratio: Smallest and largest ratio of width to height of a crop.
        flip_p: Probability of a horizontal flip.
        jitter_p: Probability of the colour jitter.
        brightness: The factor is drawn from [1 - brightness, 1 + brightness].
        contrast: Likewise.
        saturation: Likewise.
        hue: The shift is drawn from [-hue, hue], in fractions of the colour circle.
        grayscale_p: Probability of the conversion to grey.
        blur_p: Probability of the Gaussian blur.
        blur_sigma: Smallest and largest standard deviation of the blur in pixels.
        blur_kernel: Odd kernel size of the blur; `None` means `size // 20 * 2 + 1`, which is 23
            at 224 px, 9 at 96 px and 7 at 64 px.
        mean: Per-channel mean subtracted at the end.
        std: Per-channel standard deviation divided by at the end.

    Raises:
        ConfigError: If a value is out of its range.
    """

    size: Annotated[int, Range(1)] = 224
    crop_scale: Annotated[tuple[float, float], Range(0, 1, open_low=True)] = (0.2, 1.0)
    crop_ratio: Annotated[tuple[float, float], POSITIVE] = (3 / 4, 4 / 3)
    flip_p: Fraction = 0.5
    jitter_p: Fraction = 0.8
    brightness: Fraction = 0.4
    contrast: Fraction = 0.4
    saturation: Fraction = 0.4
    hue: Annotated[float, Range(0, 0.5)] = 0.1
    grayscale_p: Fraction = 0.2
    blur_p: Fraction = 0.5
    blur_sigma: Annotated[tuple[float, float], POSITIVE] = (0.1, 2.0)
    blur_kernel: Annotated[int | None, Range(1)] = None
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: Annotated[tuple[float, float, float], POSITIVE] = (0.229, 0.224, 0.225)

    def __post_init__(self) -> None:
        """Check every field."""
        check_fields(self)
        for name in ("crop_scale", "crop_ratio", "blur_sigma"):
            low, high = getattr(self, name)
            if low > high:
                raise ConfigError(f"{name} must be 0 < low <= high, got {(low, high)}.")
        if self.kernel % 2 == 0 or self.kernel // 2 >= self.size:
            raise ConfigError(
                f"blur_kernel must be odd and less than twice the size of a view ({self.size}), "
                f"got {self.kernel}."
            )

    @property
    def jitter_strengths(self) -> tuple[float, float, float, float]:
        """Brightness, contrast, saturation and hue, in the order of `AugmentParams.factors`."""
        return self.brightness, self.contrast, self.saturation, self.hue

    @property
    def kernel(self) -> int:
        """Kernel size of the blur, also if it is the default."""
        return self.size // 20 * 2 + 1 if self.blur_kernel is None else self.blur_kernel


@dataclass(frozen=True, kw_only=True)
class AugmentParams:
    """All randomness of a batch of B views, as tensors on the CPU.

    Attributes:
        box: (B, 4) int64 top, left, height, width of the crop, in pixels of the image.
        source: (B, 2) int64 height and width of the image.
        flip: (B,) bool.
        jitter: (B,) bool, whether the colour jitter is applied.
        factors: (B, 4) float32 brightness, contrast and saturation factors, and hue shift.
        order: (B, 4) int64 permutation: the factors in the order in which they are applied.
        grayscale: (B,) bool.
        blur: (B,) bool.
        sigma: (B,) float32 standard deviation of the blur in pixels.
    """

    box: Tensor
    source: Tensor
    flip: Tensor
    jitter: Tensor
    factors: Tensor
    order: Tensor
    grayscale: Tensor
    blur: Tensor
    sigma: Tensor

    def __len__(self) -> int:
        """Return the number of views."""
        return len(self.flip)

    def __getitem__(self, index: slice | Tensor) -> "AugmentParams":
        """Return the parameters of some of the views."""
        return AugmentParams(
            **{field.name: getattr(self, field.name)[index] for field in dataclasses.fields(self)}
        )


def view_generator(seed: int, epoch: int, sample: int, view: int) -> torch.Generator:
    """Return a generator that depends only on the four arguments."""
    key = hashlib.blake2b(f"{seed}/{epoch}/{sample}/{view}".encode(), digest_size=8).digest()
    return torch.Generator().manual_seed(int.from_bytes(key, "big", signed=True))


def draw_uniforms(count: int, generator: torch.Generator) -> Tensor:
    """Draw the (count, U) float64 uniforms in [0, 1) that determine `count` views."""
    return torch.rand(count, _N_UNIFORMS, generator=generator, dtype=torch.float64)


def sample_params(
    config: AugmentConfig, source: Tensor, *, generator: torch.Generator
) -> AugmentParams:
    """Draw the augmentation of one view of each image.

    Args:
        config: The distribution.
        source: (B, 2) int64 heights and widths of the images.
        generator: The only source of randomness.
    """
    return params_from_uniforms(config, draw_uniforms(len(source), generator), source)


def params_from_uniforms(config: AugmentConfig, uniforms: Tensor, source: Tensor) -> AugmentParams:
    """Map uniforms to parameters, row by row: a row's result depends on that row alone.

    Args:
        config: The distribution.
        uniforms: (B, U) from `draw_uniforms`.
        source: (B, 2) int64 heights and widths of the images.
    """
    boxes = [
        crop_box(int(size[0]), int(size[1]), row, config.crop_scale, config.crop_ratio)
        for size, row in zip(source.tolist(), uniforms.tolist(), strict=True)
    ]
    rest = uniforms[:, N_CROP_UNIFORMS:]
    reach = torch.tensor(config.jitter_strengths, dtype=rest.dtype)
    neutral = torch.tensor(_NEUTRAL_FACTORS, dtype=rest.dtype)
    low, high = config.blur_sigma
    return AugmentParams(
        box=torch.tensor(boxes, dtype=torch.int64).view(-1, 4),
        source=source,
        flip=rest[:, 0] < config.flip_p,
        jitter=rest[:, 1] < config.jitter_p,
        factors=(neutral + (2 * rest[:, 2:6] - 1) * reach).float(),
        order=rest[:, 6:10].argsort(dim=1),
        grayscale=rest[:, 10] < config.grayscale_p,
        blur=rest[:, 11] < config.blur_p,
        sigma=(low + rest[:, 12] * (high - low)).float(),
    )


def apply_params(
    crops: Tensor, params: AugmentParams, config: AugmentConfig
) -> tuple[Tensor, Tensor]:
    """Flip, jitter, convert to grey, blur and normalise crops.

    Args:
        crops: (B, 3, size, size), uint8, or floating point in [0, 1].
        params: Parameters of each view.
        config: Kernel size, mean and standard deviation.

    Returns:
        images: (B, 3, size, size) normalised views, float32 unless `crops` were float64.
        color_diff: (B, 3) mean RGB before minus after the colour jitter; zeros where not applied.
    """
    images = crops.float().div_(255) if crops.dtype == torch.uint8 else crops.clone()
    _update(images, params.flip, lambda x: x.flip(3))
    before = images.mean(dim=(2, 3))
    factors = to_device(params.factors.to(images.dtype), images.device)
    for step in params.order.unbind(1):  # each image has its own order
        for op, adjust in enumerate(_JITTER_OPS):
            _update(images, params.jitter & (step == op), adjust, factors[:, op])
    color_diff = before - images.mean(dim=(2, 3))
    _update(images, params.grayscale, pixels.grayscale)
    blur = functools.partial(pixels.gaussian_blur, kernel_size=config.kernel)
    _update(images, params.blur, blur, to_device(params.sigma.to(images.dtype), images.device))
    statistics = torch.tensor([config.mean, config.std], dtype=images.dtype).view(2, 3, 1, 1)
    mean, std = to_device(statistics, images.device)
    return images.sub_(mean).div_(std), color_diff


def describe(
    params: AugmentParams, color_diff: Tensor, layout: DescriptorLayout, config: AugmentConfig
) -> Tensor:
    """Return omega, (B, layout.width) float32 on the device of `color_diff`.

    Args:
        params: The parameters of the views.
        color_diff: (B, 3) from `apply_params`.
        layout: Which descriptors, in which columns; DESCRIPTOR_COLUMNS defines the numbers.
        config: The ranges that scale the colour factors.
    """
    scale = torch.tensor([1 / (2 * r) if r > 0 else 0.0 for r in config.jitter_strengths])
    neutral = torch.tensor(_NEUTRAL_FACTORS)
    parts = {
        "blur": (params.sigma * params.blur).unsqueeze(1),
        "color": (params.factors - neutral) * scale * params.jitter.unsqueeze(1),
        "crop": _describe_crop(params),
        "flip": params.flip.unsqueeze(1),
        "grayscale": params.grayscale.unsqueeze(1),
    }
    columns = [
        color_diff.float()
        if name == "color_diff"
        else to_device(parts[name].float(), color_diff.device)
        for name in layout.names
    ]
    return torch.cat(columns, dim=1) if columns else color_diff.new_zeros(len(params), 0).float()


def _describe_crop(params: AugmentParams) -> Tensor:
    height, width = params.source.double().unbind(1)
    top, left, box_height, box_width = params.box.double().unbind(1)
    centre_y = (top + box_height / 2) / height
    centre_x = (left + box_width / 2) / width
    centre_x = torch.where(params.flip, 1 - centre_x, centre_x)
    return torch.stack([centre_y, centre_x, box_height / height, box_width / width], dim=1)


def _update(
    images: Tensor, mask: Tensor, op: Callable[..., Tensor], strengths: Tensor | None = None
) -> None:
    """Replace images[mask] in place. `mask` is on the CPU, which avoids waiting for a GPU."""
    index = to_device(mask.nonzero().squeeze(1), images.device)
    if len(index):
        chosen = images[index]
        images[index] = op(chosen) if strengths is None else op(chosen, strengths[index])
