"""Random resized crops with known boxes."""

import math
from collections.abc import Sequence
from typing import TypeAlias

import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import interpolate
from torchvision.transforms.v2.functional import pil_to_tensor

from cassle_zoo.common.images import Array

_TRIES = 10
N_CROP_UNIFORMS = 2 * _TRIES + 2

Box: TypeAlias = tuple[int, int, int, int]
"""Top, left, height and width in pixels."""


def crop_box(
    height: int,
    width: int,
    uniforms: Sequence[float],
    scale: tuple[float, float],
    ratio: tuple[float, float],
) -> Box:
    """Choose top, left, height and width of a random resized crop.

    As in torchvision: ten tries to find an area and a ratio that fit, else the central crop that is
    closest to the allowed ratios.

    Args:
        height: Height of the image in pixels.
        width: Width of the image in pixels.
        uniforms: N_CROP_UNIFORMS or more numbers in [0, 1), the only randomness.
        scale: Smallest and largest fraction of the image's area.
        ratio: Smallest and largest ratio of width to height.
    """
    log_low, log_high = math.log(ratio[0]), math.log(ratio[1])
    for i in range(_TRIES):
        area = height * width * (scale[0] + uniforms[i] * (scale[1] - scale[0]))
        aspect = math.exp(log_low + uniforms[_TRIES + i] * (log_high - log_low))
        w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < w <= width and 0 < h <= height:
            top = int(uniforms[2 * _TRIES] * (height - h + 1))
            left = int(uniforms[2 * _TRIES + 1] * (width - w + 1))
            return top, left, h, w
    aspect = min(max(width / height, ratio[0]), ratio[1])
    w = min(width, max(1, round(height * aspect)))
    h = min(height, max(1, round(width / aspect)))
    return (height - h) // 2, (width - w) // 2, h, w


def reduction_for_crops(
    width: int,
    height: int,
    size: int,
    scale: tuple[float, float],
    ratio: tuple[float, float],
) -> float:
    """Return how many times smaller an image may be for the smallest crop to cover `size` pixels.

    Args:
        width: Width of the image in pixels.
        height: Height of the image in pixels.
        size: Width and height of the views in pixels.
        scale: Smallest and largest fraction of the image's area.
        ratio: Smallest and largest ratio of width to height.
    """
    shortest = math.sqrt(height * width * scale[0] * min(ratio[0], 1 / ratio[1]))
    return min(shortest, width, height) / size


def scale_boxes(boxes: Sequence[Box], full: tuple[int, int], image: Image.Image) -> list[Box]:
    """Scale boxes from an image of size `full` (width, height) to the same image decoded smaller.

    Edges are rounded to whole pixels.
    """
    across, down = image.width / full[0], image.height / full[1]
    scaled = []
    for top, left, height, width in boxes:
        upper, lower = min(round(top * down), image.height - 1), round((top + height) * down)
        start, end = min(round(left * across), image.width - 1), round((left + width) * across)
        scaled.append((upper, start, max(1, lower - upper), max(1, end - start)))
    return scaled


def cut_crops(image: Image.Image | Array, boxes: Sequence[Box], size: int) -> Tensor:
    """Cut boxes out of an image and resize each to a square (bilinear, antialiased).

    Args:
        image: A PIL image of mode RGB or L, or a uint8 array (H, W, C).
        boxes: Top, left, height and width of each crop.
        size: Height and width of the result.

    Returns:
        (len(boxes), C, size, size) uint8.
    """
    if isinstance(image, Image.Image):
        pixels = pil_to_tensor(image)
    else:
        pixels = torch.from_numpy(image).permute(2, 0, 1)
    # Pillow's resize gives the same up to rounding, but takes three times as long.
    crops = [pixels[None, :, top : top + h, left : left + w] for top, left, h, w in boxes]
    return torch.cat([interpolate(c, (size, size), mode="bilinear", antialias=True) for c in crops])
