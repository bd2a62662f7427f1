"""Images of any number of bands, such as those of satellites and microscopes."""

import importlib
import io
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from cassle_zoo.common.errors import ConfigError, DataError, MissingDependencyError
from cassle_zoo.common.image_objects import channels_last_array
from cassle_zoo.common.images import Array, UnreadableImageError, ValueRange, warn_if_dim

_TIFF_MARKS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")


@dataclass(frozen=True)
class ToBands:
    """Converts an image in any form to a tensor of its bands.

    Attributes:
        channels: Number of bands, which must be the image's.
        value_range: The values that become 0 and 1, of images of more than 8 bits; by default 0 and
            65535 of 16 bits, and 0 and 1 of floats.
    """

    channels: int
    value_range: ValueRange | None = None

    def __call__(self, value: Any) -> Tensor:
        """Convert an image.

        Args:
            value: An array (H, W, C), a tensor (C, H, W), a TIFF file of C bands (its name or
                bytes), or a PIL image of C bands, or a file of one.

        Returns:
            (C, H, W) float32; 0 to 1 is the range of values.

        Raises:
            UnreadableImageError: A file cannot be read or has other bands, or values are out of
                range.
            ConfigError: An object in memory is no image, or has other bands.
            MissingDependencyError: A TIFF file without tifffile.
        """
        is_file = isinstance(value, str | os.PathLike | bytes)
        name = os.fspath(value) if isinstance(value, str | os.PathLike) else "in memory"
        if is_file:
            array = _read(value, name, self.channels)
        elif isinstance(value, Tensor):
            array = channels_last_array(value)
        elif isinstance(value, Image.Image):
            array = np.asarray(value)
        elif isinstance(value, np.ndarray):
            array = value
        else:
            raise ConfigError(f"{type(value).__name__} is no image; expected an array or tensor.")
        if array.ndim == 2:
            array = array[..., None]
        if array.ndim != 3 or array.shape[-1] != self.channels or 0 in array.shape:
            text = (
                f"the model takes {self.channels} channels, but the image is {array.shape}; arrays "
                f"are (H, W, {self.channels}), tensors ({self.channels}, H, W)"
            )
            if is_file:
                raise UnreadableImageError(name, text)
            raise ConfigError(f"{text}.")
        try:
            scaled = self._scaled(array)
        except DataError as error:
            raise UnreadableImageError(name, str(error)) from error
        return torch.from_numpy(np.ascontiguousarray(scaled.transpose(2, 0, 1)))

    def _scaled(self, array: Array) -> Array:
        array = array.astype(array.dtype.newbyteorder("="), copy=False)
        is_float = np.issubdtype(array.dtype, np.floating)
        if array.dtype == np.uint8:
            black, white = 0.0, 255.0
        elif array.dtype == np.bool_:
            black, white = 0.0, 1.0
        elif is_float or array.dtype in (np.uint16, np.int16, np.uint32, np.int32):
            black, white = self.value_range or (0.0, 1.0 if is_float else 65535.0)
        else:
            raise DataError(f"values of type {array.dtype}; expected uint8, uint16, bool or float")
        low, high = float(array.min()), float(array.max())
        if not (np.isfinite(low) and np.isfinite(high)):
            raise DataError("it holds values that are not finite")
        margin = 1e-3 * (white - black)
        if self.value_range is None and not (low >= black - margin and high <= white + margin):
            raise DataError(
                f"values from {low:.4g} to {high:.4g}; expected {black:g} to {white:g}, or pass "
                "their range: value_range=(low, high), --value-range LOW HIGH"
            )
        if self.value_range is None and white == 65535:
            warn_if_dim(low, high)
        scaled = (array.astype(np.float32) - np.float32(black)) / np.float32(white - black)
        clipped: Array = scaled.clip(0, 1)
        return clipped


def _read(file: Any, name: str, channels: int) -> Array:
    # Decoders fed with broken files raise anything.
    try:
        content = file if isinstance(file, bytes) else Path(file).read_bytes()
        if content[:4] not in _TIFF_MARKS:
            with Image.open(io.BytesIO(content)) as image:
                return np.asarray(image)
        return _tiff(content, channels)
    except MissingDependencyError:
        raise
    except Exception as error:
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise UnreadableImageError(name, reason) from error


def _tiff(content: bytes, channels: int) -> Array:
    try:
        tifffile = importlib.import_module("tifffile")
    except ImportError as error:
        raise MissingDependencyError(
            'TIFF files of several bands need tifffile: pip install "cassle-zoo[tiff]".'
        ) from error
    with tifffile.TiffFile(io.BytesIO(content)) as file:
        series = file.series[0]
        limit = 2 * (Image.MAX_IMAGE_PIXELS or 2**62) * channels
        if series.size > limit:
            raise DataError(f"more than {limit:,} values, the limit against decompression bombs")
        array: Array = series.asarray()
        axes: str = series.axes
    # Bands are samples of a pixel, planes, or pages, and stand before or after the rows.
    kept = [i for i, axis in enumerate(axes) if axis in "YX" or array.shape[i] > 1]
    array = array.reshape([array.shape[i] for i in kept])
    before = len(kept) == 3 and axes[kept[0]] not in "YX"
    return np.moveaxis(array, 0, -1) if before else array
