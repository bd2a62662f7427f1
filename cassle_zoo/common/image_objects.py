"""Images in any form that Python users have them in: files, bytes, Pillow's, arrays, tensors."""

import os
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from cassle_zoo.common.errors import ConfigError, DataError
from cassle_zoo.common.images import (
    Array,
    Reduction,
    UnreadableImageError,
    ValueRange,
    array_to_image,
    open_image,
)


def image_of(
    value: Any,
    name: str,
    value_range: ValueRange | None = None,
    reduction: Reduction | None = None,
) -> Image.Image:
    """Return an image as 8-bit RGB.

    Args:
        value: A file, the bytes of one, a PIL image, an array ((H, W) or (H, W, C)), or a tensor
            ((H, W) or (C, H, W)); types and ranges as for
            :func:`cassle_zoo.common.images.array_to_image`.
        name: What to call it in messages.
        value_range: As for :func:`cassle_zoo.common.images.to_rgb`.
        reduction: As for :func:`cassle_zoo.common.images.open_image`.

    Raises:
        UnreadableImageError: It cannot be read, or its values are out of range.
        ConfigError: It is an object of an unknown type.
    """
    if isinstance(value, str | os.PathLike | bytes | Image.Image):
        try:
            return open_image(value, value_range, reduction=reduction)
        except UnreadableImageError as error:
            raise UnreadableImageError(name, error.reason) from error
    if isinstance(value, Tensor):
        if value.ndim == 3 and value.shape[0] > 4:
            text = f"a tensor of shape {tuple(value.shape)}; expected (H, W) or (C, H, W) with C"
            fix = "if its channels come last: tensor.permute(2, 0, 1)"
            raise UnreadableImageError(name, f"{text} from 1-4; {fix}")
        value = channels_last_array(value)
    if not isinstance(value, np.ndarray):
        raise ConfigError(
            f"{name} is a {type(value).__name__}; expected a file, PIL image, array or tensor."
        )
    try:
        return array_to_image(value, value_range)
    except DataError as error:
        raise UnreadableImageError(name, str(error)) from error


def channels_last_array(tensor: Tensor) -> Array:
    """Return a tensor (H, W) or (C, H, W) as an array (H, W) or (H, W, C) on the CPU."""
    tensor = tensor.detach().cpu()
    if tensor.dtype == torch.bfloat16:
        tensor = tensor.float()
    if tensor.ndim == 3:
        tensor = tensor.permute(1, 2, 0)
    array: Array = tensor.numpy()
    return array
