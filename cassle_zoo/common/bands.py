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
from cassle_zoo.common.images import (
    Array,
    Reduction,
    UnreadableImageError,
    ValueRange,
    black_and_white,
    channels_last_array,
    check_regular_file,
    image_of,
    open_reduced,
    readable_formats,
    why_unreadable,
)

_NPY_MARK = b"\x93NUMPY"
_TIFF_MARKS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_WHOLE_NUMBERS = (np.uint8, np.bool_, np.uint16, np.int16, np.uint32, np.int32)


def open_channels(source: Any, channels: int) -> Image.Image | Array:
    """Read an image with a number of channels, in 8 bits.

    Args:
        source: A file, an image or an array: as for `cassle_zoo.common.images.image_of` if it is
            read as RGB or grey, else as for :class:`ToBands`.
        channels: Number of channels: 3 are RGB, 1 is grey (the luma of RGB, or the values of a
            `.npy` file), any other must be the image's own number.

    Returns:
        An image of mode RGB or L if `channels` is 3 or 1, else an array (H, W, channels), uint8.

    Raises:
        UnreadableImageError: It cannot be read, or has another number of channels.
        ConfigError: It is an object in memory that is no image, or has other bands.
        MissingDependencyError: A TIFF file of several bands without tifffile.
    """
    return open_scaled(source, channels, None)[0]


def open_scaled(
    source: Any, channels: int, reduction: Reduction | None, name: str | None = None
) -> tuple[Image.Image | Array, tuple[int, int]]:
    """Read an image as :func:`open_channels` does; return it, and its full (width, height).

    Args:
        source: As for :func:`open_channels`.
        channels: Number of channels.
        reduction: If given, a file without a `name` that is a JPEG may be decoded smaller: as for
            `cassle_zoo.common.images.open_image`.
        name: What to call it in messages.
    """
    if channels not in (1, 3) or is_npy(source):
        bands = ToBands(channels)(source)
        array: Array = (bands.permute(1, 2, 0) * 255).round().to(torch.uint8).numpy()
        whole = Image.fromarray(array.squeeze(2)) if channels == 1 else array
        return whole, (array.shape[1], array.shape[0])
    if name is not None or isinstance(source, np.ndarray | Tensor):
        image = image_of(source, name)
        full = image.size
    else:
        image, full = open_reduced(source, reduction)
    return image if channels == 3 else image.convert("L"), full


def visible(image: Image.Image | Array) -> Image.Image:
    """Return an image of any number of channels: the first three as RGB, or the first as grey."""
    if isinstance(image, Image.Image):
        return image
    return Image.fromarray(image[..., :3] if image.shape[-1] >= 3 else image[..., 0])


def is_npy(source: Any) -> bool:
    """Return whether a file, given by its name or content, is one of NumPy's."""
    if isinstance(source, bytes):
        return source.startswith(_NPY_MARK)
    return isinstance(source, str | os.PathLike) and os.fspath(source).lower().endswith(".npy")


@dataclass(frozen=True)
class ToBands:
    """Converts an image in any form to a tensor of its bands.

    Attributes:
        channels: Number of bands, which must be the image's.
        value_range: The values that become 0 and 1 in images of more than 8 bits; by default 0 and
            65535 for 16 bits, and 0 and 1 for floats.
    """

    channels: int
    value_range: ValueRange | None = None

    def __call__(self, value: Any) -> Tensor:
        """Convert an image.

        Args:
            value: An array (H, W, C), a tensor (C, H, W), a TIFF file of C bands (its name or
                bytes), a NumPy file of shape (H, W, C) or, if only that gives C bands, (C, H, W), a
                PIL image of C bands, or a file of one.

        Returns:
            (C, H, W) float32 in [0, 1].

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
            shape = tuple(value.shape) if isinstance(value, Tensor) else array.shape
            text = (
                f"the model takes {self.channels} channels, but the image is {shape}; arrays "
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
        if not (np.issubdtype(array.dtype, np.floating) or array.dtype in _WHOLE_NUMBERS):
            raise DataError(f"values of type {array.dtype}; expected uint8, uint16, bool or float")
        black, white = black_and_white(array, self.value_range)
        scaled = (array.astype(np.float32) - np.float32(black)) / np.float32(white - black)
        clipped: Array = scaled.clip(0, 1)
        return clipped


def _read(file: Any, name: str, channels: int) -> Array:
    # Decoders may raise anything on broken files.
    try:
        if not isinstance(file, bytes):
            check_regular_file(file)
        content = file if isinstance(file, bytes) else Path(file).read_bytes()
        if content.startswith(_NPY_MARK):
            return _npy(content, channels)
        if content[:4] not in _TIFF_MARKS:
            with Image.open(io.BytesIO(content), formats=readable_formats()) as image:
                return np.asarray(image)
        return _tiff(content, channels)
    except MissingDependencyError:
        raise
    except Exception as error:
        raise UnreadableImageError(name, why_unreadable(error)) from error


def _npy(content: bytes, channels: int) -> Array:
    array: Array = np.load(io.BytesIO(content), allow_pickle=False)
    planes = array.ndim == 3 and array.shape[-1] != channels == array.shape[0]
    return np.moveaxis(array, 0, -1) if planes else array


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
