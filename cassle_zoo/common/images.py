"""Images in any form that Python users have them in, read as plain 8-bit RGB."""

import contextlib
import functools
import importlib
import io
import math
import os
import stat
import warnings
from collections.abc import Callable
from typing import Any, BinaryIO, TypeAlias

import numpy as np
import torch
from PIL import (
    ExifTags,
    Image,
    ImageCms,
    ImageOps,
    JpegImagePlugin,
    TiffImagePlugin,
    UnidentifiedImageError,
)
from torch import Tensor

from cassle_zoo.common.errors import ConfigError, DataError, reason_of

PathLike: TypeAlias = str | os.PathLike[str]
Array: TypeAlias = np.ndarray[Any, np.dtype[Any]]
ValueRange: TypeAlias = tuple[float, float]
"""The values of black and white, for images of more than 8 bits."""
Reduction: TypeAlias = Callable[[int, int], float]
"""Takes width and height; returns how many times smaller the image may be decoded."""

# Pillow hands EPS to Ghostscript and WMF to the system, and can name but not decode the others.
_REFUSED_FORMATS = frozenset({"EPS", "WMF", "BUFR", "GRIB", "HDF5", "MPEG"})
_WHITE = 65535  # of 16 bits
_UPRIGHT = 1  # as EXIF puts it
_SCALES = (8, 4, 2)  # of the discrete cosine transform
_UNPREMULTIPLIED = {"La": "LA", "RGBa": "RGBA"}


class UnreadableImageError(DataError):
    """One image cannot be read.

    Attributes:
        source: The file, or a description of the object in memory.
        reason: Why, without the name.
    """

    def __init__(self, source: str, reason: str) -> None:
        """Store the name and the reason separately, for reports that list many images."""
        super().__init__(source, reason)
        self.source = source
        self.reason = reason

    def __str__(self) -> str:
        """Return the message."""
        return f"Cannot read image {self.source!r}: {self.reason}."


def open_image(
    source: PathLike | bytes | BinaryIO | Image.Image,
    value_range: ValueRange | None = None,
    *,
    reduction: Reduction | None = None,
) -> Image.Image:
    """Read an image as 8-bit RGB, as it should be displayed.

    The content decides, not the file's ending. EXIF rotation is applied; transparent parts become
    white; palette, CMYK, YCbCr, Lab and grey images are converted (colour profiles are ignored);
    16-bit grey is scaled from 0-65535, not clipped; other integer and float images are scaled by
    :func:`to_rgb`; the first image of an animation or a multi-page file is used.

    Images of more than ``2 * PIL.Image.MAX_IMAGE_PIXELS`` pixels (178,956,970 unless changed)
    are refused: a tiny file can claim to be that large and exhaust the memory. To read such
    images, set ``PIL.Image.MAX_IMAGE_PIXELS`` yourself. EPS and WMF are refused, since reading
    them starts other programs.

    Args:
        source: A file name, the bytes of a file, an open binary file, or an image (not changed).
        value_range: As for :func:`to_rgb`.
        reduction: If given, a JPEG is decoded at 1/2, 1/4 or 1/8 of its size by scaling its cosine
            transform, the smallest of these that the function allows: much faster for large
            photographs, and almost the same as resizing the whole image.

    Returns:
        A new image of mode RGB, or the given one if nothing has to be converted.

    Raises:
        UnreadableImageError: (a DataError) The image is missing, broken, too large or not an image.
    """
    return open_reduced(source, reduction, value_range)[0]


def open_reduced(
    source: PathLike | bytes | BinaryIO | Image.Image,
    reduction: Reduction | None,
    value_range: ValueRange | None = None,
    *,
    name: str | None = None,
) -> tuple[Image.Image, tuple[int, int]]:
    """Read an image as :func:`open_image` does; return it, and its full (width, height), upright.

    Errors call it `name`, by default that of its file.

    Raises:
        UnreadableImageError: (a DataError) The image is missing, broken, too large or not an image.
    """
    name = name or _describe(source)
    # Decoders fed with broken files raise anything: struct.error, SyntaxError, IndexError, ...
    try:
        if isinstance(source, Image.Image):
            image = to_rgb(source, value_range)
            return image, image.size
        if isinstance(source, bytes):
            if not source:
                raise DataError("the file is empty")
            source = io.BytesIO(source)
        elif isinstance(source, str | os.PathLike):
            check_regular_file(source)
        with Image.open(source, formats=readable_formats()) as image:
            # Pillow maps named files into memory, by the wrong width if a TIFF is to be rotated.
            image.filename = ""
            full = image.size
            if reduction is not None and isinstance(image, JpegImagePlugin.JpegImageFile):
                _decode_reduced(image, reduction(*full))
            decoded = image.size
            upright = to_rgb(image, value_range)
            return upright, full if upright.size == decoded else full[::-1]
    except UnidentifiedImageError as error:
        bands = _tiff_bands(source)
        if bands is None:
            text = why_unreadable(error)
        elif bands in (1, 3):
            text = "a TIFF file of a kind that Pillow cannot read: save it with 8 bits per band"
        else:
            fix = "save three of them as RGB, or " if bands > 3 else ""
            text = (
                f"a TIFF file of {bands} bands, where RGB is needed: {fix}use a model of {bands} "
                "channels"
            )
        raise UnreadableImageError(name, text) from error
    except Exception as error:
        raise UnreadableImageError(name, why_unreadable(error)) from error


def _tiff_bands(source: object) -> int | None:
    """Return the number of bands of a file that Pillow cannot decode; `None` if it is no TIFF."""
    try:
        with open(source, "rb") if isinstance(source, str | os.PathLike) else source as file:  # type: ignore[attr-defined]
            file.seek(0)
            tags = TiffImagePlugin.ImageFileDirectory_v2(file.read(8))
            file.seek(tags.next)
            tags.load(file)
        bands: int | None = tags.get(TiffImagePlugin.SAMPLESPERPIXEL)
    except Exception:  # the file may hold anything
        return None
    return bands


def to_rgb(image: Image.Image, value_range: ValueRange | None = None) -> Image.Image:
    """Convert an image of any mode to 8-bit RGB.

    Integer images (mode I) within 0-65535 count as 16-bit. Float images (mode F) within 0-1
    are multiplied by 255, and within 0-255 rounded. Any other range is stretched from its
    minimum (black) to its maximum (white).

    Args:
        image: An image of any mode; it is not changed.
        value_range: The values of black and white in images of more than 8 bits (modes I and F);
            others are clipped. By default as above.

    Returns:
        The image in mode RGB, upright, on white.

    Raises:
        DataError: The image has no pixels, or values that are not finite.

    Warns:
        UserWarning: A 16-bit image uses less than a sixteenth of 0-65535, and no range is given.
    """
    if 0 in image.size:
        raise DataError(f"the image is empty: {image.width}x{image.height} pixels")
    image.load()
    image = _upright(image)
    if image.mode in _UNPREMULTIPLIED:
        image = image.convert(_UNPREMULTIPLIED[image.mode])
    if image.mode == "F" or image.mode.startswith("I"):
        values = np.asarray(image)
        black, white = value_range or _limits(image.mode, values)
        image = Image.fromarray(_to_uint8(values, black, white))
    elif image.mode == "LAB":
        to_srgb = ImageCms.buildTransform(
            ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB"), "LAB", "RGB"
        )
        image = ImageCms.applyTransform(image, to_srgb) or image
    if image.has_transparency_data:
        canvas = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(canvas, image.convert("RGBA"))
    return image.convert("RGB") if image.mode != "RGB" else image


def array_to_image(array: Array, value_range: ValueRange | None = None) -> Image.Image:
    """Make an image from an array.

    Args:
        array: (H, W) or (H, W, C) with C = 1 grey, 2 grey and alpha, 3 RGB or 4 RGB and alpha;
            bool, uint8, uint16 (0-65535), or float in [0, 1]; in any byte order.
        value_range: The values of black and white in uint16 and float arrays; others are clipped.

    Returns:
        An image of mode RGB.

    Raises:
        DataError: Shape, type or range is not one of these.
    """
    array = array.astype(array.dtype.newbyteorder("="), copy=False)
    shape, dtype = tuple(array.shape), array.dtype
    if array.ndim == 2:
        array = array[..., None]
    if array.ndim != 3 or array.shape[-1] not in (1, 2, 3, 4) or 0 in array.shape:
        text = f"an array of shape {shape}; expected (H, W) or (H, W, C) with C from 1-4"
        if len(shape) == 3 and shape[0] in (1, 3, 4):
            text += "; its channels seem to come first: array.transpose(1, 2, 0), or give a tensor"
        raise DataError(text)
    if not (dtype in (np.uint8, np.uint16, np.bool_) or np.issubdtype(dtype, np.floating)):
        raise DataError(
            f"values of type {dtype}; expected uint8, uint16, bool or float: array.astype('uint8') "
            "if they are within 0-255"
        )
    if dtype != np.uint8:
        array = _to_uint8(array, *black_and_white(array, value_range))
    if array.shape[-1] == 1:
        array = array[..., 0]
    return to_rgb(Image.fromarray(np.ascontiguousarray(array)))


def black_and_white(array: Array, value_range: ValueRange | None) -> tuple[float, float]:
    """Return the values of an array that become black and white, after checking all others.

    Args:
        array: Of uint8, bool, other whole numbers, which count as 16 bits, or floats.
        value_range: Those of whole numbers and floats; by default 0 and 65535, and 0 and 1.

    Raises:
        DataError: Values are not finite or, without `value_range`, beyond these.

    Warns:
        UserWarning: As :func:`to_rgb`.
    """
    if array.dtype in (np.uint8, np.bool_):
        return 0.0, 255.0 if array.dtype == np.uint8 else 1.0
    low, high = float(array.min()), float(array.max())
    if not (np.isfinite(low) and np.isfinite(high)):
        raise DataError("it holds values that are not finite")
    if value_range is not None:
        return value_range
    white = 1.0 if np.issubdtype(array.dtype, np.floating) else float(_WHITE)
    margin = 1e-3 * white
    if not (low >= -margin and high <= white + margin):
        raise DataError(
            f"values from {low:.4g} to {high:.4g}; expected 0 to {white:g}: scale them, or for "
            "features pass their range: value_range=(low, high), --value-range LOW HIGH"
        )
    if white == _WHITE:
        warn_if_dim(low, high)
    return 0.0, white


def image_of(
    value: Any,
    name: str | None = None,
    value_range: ValueRange | None = None,
    reduction: Reduction | None = None,
) -> Image.Image:
    """Return an image as 8-bit RGB.

    Args:
        value: A file, the bytes of one, a PIL image, an array ((H, W) or (H, W, C)), or a tensor
            ((H, W) or (C, H, W)); types and ranges as for :func:`array_to_image`.
        name: What to call it in messages; by default the name of its file, if it has one.
        value_range: As for :func:`to_rgb`.
        reduction: As for :func:`open_image`.

    Raises:
        UnreadableImageError: It cannot be read, or its values are out of range.
        ConfigError: It is an object of an unknown type.
    """
    name = name or _describe(value)
    if isinstance(value, str | os.PathLike | bytes | Image.Image):
        return open_reduced(value, reduction, value_range, name=name)[0]
    if isinstance(value, Tensor):
        if value.ndim == 3 and value.shape[0] > 4:
            shape = tuple(value.shape)
            text = f"a tensor of shape {shape}; expected (H, W) or (C, H, W) with C from 1-4"
            raise UnreadableImageError(
                name, f"{text}; if its channels come last: tensor.permute(2, 0, 1)"
            )
        value = channels_last_array(value)
    if not isinstance(value, np.ndarray):
        raise ConfigError(
            f"{name} is a {type(value).__name__}; expected a path, the bytes of a file, a PIL "
            "image, array or tensor."
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


def warn_if_dim(low: float, high: float) -> None:
    """Warn if a 16-bit image with these extreme values would become almost one shade."""
    if 0 < high - low < (_WHITE + 1) / 16:
        # The same text for all images, so that Python shows it once.
        warnings.warn(
            "a 16-bit image uses less than a sixteenth of the values 0-65535, so it becomes almost "
            "one shade of grey. If its values have a smaller range, such as 0-4095 for 12 bits, "
            "scale them or, for features, pass it: value_range=(0, 4095), --value-range 0 4095.",
            stacklevel=2,
        )


def check_value_range(given: ValueRange | None) -> ValueRange | None:
    """Return the values of black and white as floats; `None` if none are given.

    Raises:
        ConfigError: If they are not two finite numbers, the smaller one first.
    """
    if given is None:
        return None
    try:
        low, high = map(float, given)
    except (TypeError, ValueError):
        low = high = math.nan
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise ConfigError(f"value_range must be two finite numbers LOW < HIGH, got {given}.")
    return low, high


def limit_pixels(most: int) -> None:
    """Refuse images of more pixels from now on, in this process.

    Raises:
        ConfigError: If the limit is not positive.
    """
    if most < 1:
        raise ConfigError(f"the largest number of pixels must be at least 1, got {most}.")
    # Pillow warns above its limit, and refuses above twice the limit.
    Image.MAX_IMAGE_PIXELS = -(-most // 2)


def image_endings() -> frozenset[str]:
    """Return the file endings, lower case with the dot, of the formats that can be read."""
    readable = set(readable_formats())
    return frozenset(end for end, name in Image.registered_extensions().items() if name in readable)


def readable_formats() -> list[str]:
    """Return Pillow's names of the formats that are read."""
    # Not cached: plugins may be registered at any time.
    Image.init()
    _register_heif()
    return [name for name in Image.ID if name not in _REFUSED_FORMATS]


@functools.cache
def _register_heif() -> None:
    with contextlib.suppress(ImportError):  # the extra `heic` is not installed
        importlib.import_module("pillow_heif").register_heif_opener()


def check_regular_file(path: PathLike) -> None:
    """Raise a `DataError` for what cannot be read as a file, and an `OSError` if it is missing."""
    status = os.stat(path)
    if stat.S_ISDIR(status.st_mode):
        raise DataError("it is a folder")
    # Opening a named pipe would wait for ever.
    if not stat.S_ISREG(status.st_mode):
        raise DataError("it is not a regular file")
    if status.st_size == 0:
        raise DataError("the file is empty")


def _decode_reduced(image: JpegImagePlugin.JpegImageFile, most: float) -> None:
    """Let a JPEG that is not yet decoded be decoded `most` times smaller, or less."""
    scale = next((scale for scale in _SCALES if scale <= most), 1)
    width, height = image.size
    if scale > 1 and min(width, height) >= scale:
        image.draft(None, (width // scale, height // scale))


def _upright(image: Image.Image) -> Image.Image:
    # With broken EXIF data the rotation is unknown, but the image is readable.
    try:
        if image.getexif().get(ExifTags.Base.Orientation, _UPRIGHT) == _UPRIGHT:
            return image  # which exif_transpose would copy
        return ImageOps.exif_transpose(image)
    except Exception:
        return image


def _limits(mode: str, values: Array) -> tuple[float, float]:
    low, high = float(values.min()), float(values.max())
    if not (np.isfinite(low) and np.isfinite(high)):
        raise DataError("it holds values that are not finite")
    for white in (1, 255) if mode == "F" else (_WHITE,):
        if low >= 0 and high <= white:
            if white == _WHITE:
                warn_if_dim(low, high)
            return 0, white
    return low, high


def _to_uint8(values: Array, black: float, white: float) -> Array:
    scale = 255 / (white - black) if white > black else 0.0
    scaled = (values.astype(np.float64) - black) * scale
    return np.rint(scaled).clip(0, 255).astype(np.uint8)


def _describe(source: object) -> str:
    if isinstance(source, str | os.PathLike):
        return os.fspath(source)
    return str(getattr(source, "filename", None) or getattr(source, "name", None) or "in memory")


def why_unreadable(error: BaseException) -> str:
    """Return what an error of a decoder means to the user."""
    if isinstance(error, UnreadableImageError):
        return error.reason
    if isinstance(error, UnidentifiedImageError):
        return "not an image, or of a kind that cannot be read"
    if isinstance(error, Image.DecompressionBombError):
        limit = 2 * (Image.MAX_IMAGE_PIXELS or 0)
        return f"more than {limit:,} pixels, the limit against decompression bombs"
    return reason_of(error)
