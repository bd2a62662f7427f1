"""Pixel operations on batches of images, one strength per image. Pure tensor functions.

All take and return (B, C, H, W) floating-point images in [0, 1] and strengths of shape (B,).
Saturation, hue and grayscale need RGB; the others take any number of channels.
"""

import torch
from torch import Tensor

from cassle_zoo.common.devices import to_device

CONTRAST_LUMA = (0.2989, 0.587, 0.114)
GRAYSCALE_LUMA = (0.299, 0.587, 0.114)


def adjust_brightness(images: Tensor, factor: Tensor) -> Tensor:
    """Multiply by `factor` (>= 0) and clamp to [0, 1]."""
    return (images * _per_image(factor)).clamp_(0, 1)


def adjust_contrast(images: Tensor, factor: Tensor) -> Tensor:
    """Blend with the mean grey of each image: factor 0 gives that grey, 1 the image itself.

    Grey is the luma for RGB, and the mean of the channels for any other number of them.
    """
    grey = (_luma(images, CONTRAST_LUMA) if images.shape[1] == 3 else images).mean(dim=(1, 2, 3))
    offset = (1 - factor) * grey
    return (images * _per_image(factor) + _per_image(offset)).clamp_(0, 1)


def adjust_saturation(images: Tensor, factor: Tensor) -> Tensor:
    """Multiply the saturation of HSV by `factor` (>= 0) and clamp it to [0, 1].

    Hue and value do not change, so each channel's distance from the value grows by that factor.
    """
    value = images.amax(dim=1, keepdim=True)
    delta = value - images.amin(dim=1, keepdim=True)
    # The saturation is delta / value, so factors above value / delta are clamped (grey: never).
    most = value / delta.clamp_min_(torch.finfo(delta.dtype).tiny)
    return value.sub(images).mul_(torch.minimum(most, _per_image(factor))).neg_().add_(value)


def adjust_hue(images: Tensor, shift: Tensor) -> Tensor:
    """Shift the hue of HSV by `shift`, a fraction of the full circle in [-0.5, 0.5]."""
    hue, value, delta = _hue_value_delta(images)
    hue += 6 * _per_image(shift)
    hue -= 6 * (hue / 6).floor_()
    # How far each channel is below the value, by the distance of the hue from its own.
    red = 2 - (hue - 3).abs_()
    green = (hue - 2).abs_() - 1
    blue = (hue - 4).abs_() - 1
    fall = torch.cat([red, green, blue], dim=1).clamp_(0, 1)
    return fall.mul_(delta).neg_().add_(value)


def grayscale(images: Tensor) -> Tensor:
    """Replace the three channels by their luma (ITU-R 601)."""
    return _luma(images, GRAYSCALE_LUMA).expand_as(images)


def gaussian_blur(images: Tensor, sigma: Tensor, kernel_size: int) -> Tensor:
    """Blur each image with its own Gaussian, borders reflected.

    Both axes are blurred by one batched matrix product with a banded matrix per image, which is
    several times faster than a depthwise convolution with per-image weights.

    Args:
        images: (B, C, H, W).
        sigma: (B,) standard deviations in pixels, > 0.
        kernel_size: Odd number of taps; the Gaussian is truncated there and normalised.
    """
    _, _, height, width = images.shape
    radius = kernel_size // 2
    offsets = torch.arange(-radius, radius + 1, dtype=images.dtype, device=images.device)
    taps = torch.exp(-(offsets**2) / (2 * sigma.unsqueeze(1) ** 2))
    taps = taps / taps.sum(dim=1, keepdim=True)
    rows = _blur_matrix(taps, height).unsqueeze(1)
    columns = rows if height == width else _blur_matrix(taps, width).unsqueeze(1)
    return rows @ (images @ columns.transpose(2, 3))


def _blur_matrix(taps: Tensor, size: int) -> Tensor:
    """Return (B, size, size) matrices that blur a line of `size` pixels, reflecting at its ends."""
    radius = taps.shape[1] // 2
    source = torch.arange(size).unsqueeze(1) + torch.arange(-radius, radius + 1)
    period = max(2 * (size - 1), 1)
    source = source.remainder(period)
    source = torch.minimum(source, period - source) if size > 1 else torch.zeros_like(source)
    index = to_device(source, taps.device).expand(len(taps), -1, -1)
    weights = taps.unsqueeze(1).expand(-1, size, -1)
    matrix = torch.zeros(len(taps), size, size, dtype=taps.dtype, device=taps.device)
    return matrix.scatter_add_(2, index, weights)


def _hue_value_delta(images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return hue in sextants from -1 to 5, largest channel, and its difference to the smallest."""
    red, green, blue = images.split(1, dim=1)
    value = images.amax(dim=1, keepdim=True)
    delta = value - images.amin(dim=1, keepdim=True)
    # 0 and 1 instead of torch.where, which takes ten times as long on a CPU. If channels are equal,
    # the first counts.
    is_red = (red == value).to(images.dtype)
    is_green = (green == value).to(images.dtype) * (1 - is_red)
    is_blue = 1 - is_red - is_green
    difference = is_red * (green - blue) + is_green * (blue - red) + is_blue * (red - green)
    # Where all channels are equal, the difference is 0.
    hue = difference / delta.clamp_min(torch.finfo(delta.dtype).tiny)
    hue += 2 * is_green + 4 * is_blue
    return hue, value, delta


def _luma(images: Tensor, weights: tuple[float, float, float]) -> Tensor:
    red, green, blue = images.split(1, dim=1)
    luma: Tensor = weights[0] * red + weights[1] * green + weights[2] * blue
    return luma


def _per_image(values: Tensor) -> Tensor:
    return values.view(-1, 1, 1, 1)
