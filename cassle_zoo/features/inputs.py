"""Inputs of every kind, as one list of images with a name for each."""

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import IterableDataset

from cassle_zoo.common.errors import ConfigError, DataError
from cassle_zoo.common.images import UnreadableImageError, array_to_image, open_image
from cassle_zoo.data.listing import list_images

_ARCHIVES = (".tar", ".zip", ".tgz", ".gz", ".xz", ".bz2", ".7z")


@dataclass(frozen=True)
class Skipped:
    """An image that was left out.

    Attributes:
        source: Its file, or its place in the input.
        reason: Why it could not be used.
    """

    source: str
    reason: str


@dataclass(frozen=True)
class _DatasetItem:
    dataset: Any
    index: int


@dataclass(frozen=True)
class InputImage:
    """One image that has not been read yet.

    Attributes:
        source: Its file, or its place in the input such as ``"input[3]"`` or ``"dataset[3]"``.
        value: A path, PIL image, array, tensor or item of a dataset.
    """

    source: str
    value: Any

    def raw(self) -> Any:
        """Return the object as it was given; items of datasets without their labels.

        Raises:
            UnreadableImageError: The dataset cannot read this item's file.
        """
        if not isinstance(self.value, _DatasetItem):
            return self.value
        # What Pillow raises for broken files; other errors are mistakes in the dataset's code.
        try:
            item = self.value.dataset[self.value.index]
        except (OSError, SyntaxError, DataError, Image.DecompressionBombError) as error:
            raise UnreadableImageError(self.source, str(error)) from error
        if isinstance(item, Mapping):
            item = item.get("image", item)
        return item[0] if isinstance(item, tuple | list) and item else item

    def image(self) -> Image.Image:
        """Read the image as RGB.

        Raises:
            UnreadableImageError: It cannot be read, or its values are out of range.
            ConfigError: It is not an image, but an object of an unknown type.
        """
        value = self.raw()
        if isinstance(value, str | os.PathLike | Image.Image):
            try:
                return open_image(value)
            except UnreadableImageError as error:
                raise UnreadableImageError(self.source, error.reason) from error
        if isinstance(value, Tensor):
            value = _channels_last_array(value)
        if not isinstance(value, np.ndarray):
            raise _wrong_type(self.source, value)
        try:
            return array_to_image(value)
        except DataError as error:
            raise UnreadableImageError(self.source, str(error)) from error


def expand_inputs(inputs: Any) -> tuple[list[InputImage], list[Skipped]]:
    """Flatten inputs into single images, in the order given.

    Args:
        inputs: A file, folder, PIL image, array ((H, W), (H, W, C) or (N, H, W, C)), tensor
            ((H, W), (C, H, W) or (N, C, H, W)), a list or iterator of these, or a map-style dataset
            whose items are images, ``(image, ...)`` tuples or ``{"image": image}``.

    Returns:
        The images, and the folders that could not be opened or have no images.

    Raises:
        DataError: A file or folder does not exist.
        ConfigError: An object is of an unknown type.
    """
    images: list[InputImage] = []
    skipped: list[Skipped] = []
    if isinstance(inputs, IterableDataset):
        raise ConfigError(
            "An IterableDataset has no length and order to report; give a map-style dataset, or "
            "list(dataset) if it fits into memory."
        )
    if _is_dataset(inputs):
        items = range(len(inputs))
        return [InputImage(f"dataset[{i}]", _DatasetItem(inputs, i)) for i in items], skipped
    values = inputs if isinstance(inputs, list | tuple | Iterator) else [inputs]
    for index, value in enumerate(values):
        name = f"input[{index}]"
        if isinstance(value, str | os.PathLike):
            _expand_path(value, images, skipped)
        elif isinstance(value, np.ndarray | Tensor) and value.ndim == 4:
            images += [InputImage(f"{name}[{row}]", item) for row, item in enumerate(value)]
        elif isinstance(value, np.ndarray | Tensor | Image.Image):
            file = str(getattr(value, "filename", "") or "")
            images.append(InputImage(file or name, value))
        else:
            raise _wrong_type(name, value)
    return images, skipped


def _expand_path(
    path: str | os.PathLike[str], images: list[InputImage], skipped: list[Skipped]
) -> None:
    if Path(path).suffix.lower() in _ARCHIVES and not Path(path).is_dir():
        skipped.append(Skipped(os.fspath(path), "an archive: unpack it and give the folder"))
        return
    before = len(skipped)
    files = list_images(
        path, on_error=lambda folder, reason: skipped.append(Skipped(str(folder), reason))
    )
    if not files and len(skipped) == before:
        skipped.append(Skipped(os.fspath(path), "the folder holds no images"))
    images += [InputImage(str(file), file) for file in files]


def _is_dataset(value: Any) -> bool:
    plain = (str, os.PathLike, list, tuple, Mapping, np.ndarray, Tensor, Image.Image)
    return (
        hasattr(value, "__getitem__") and hasattr(value, "__len__") and not isinstance(value, plain)
    )


def _channels_last_array(tensor: Tensor) -> "np.ndarray[Any, Any]":
    tensor = tensor.detach().cpu()
    if tensor.dtype == torch.bfloat16:
        tensor = tensor.float()
    if tensor.ndim == 3:
        tensor = tensor.permute(1, 2, 0)
    array: np.ndarray[Any, Any] = tensor.numpy()
    return array


def _wrong_type(name: str, value: object) -> ConfigError:
    return ConfigError(
        f"{name} is a {type(value).__name__}; expected a file, folder, PIL image, array, tensor, "
        "a list of these, or a map-style dataset."
    )
