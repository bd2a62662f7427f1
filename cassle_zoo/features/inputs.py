"""Inputs of every kind, as one sequence of images with a name for each."""

import os
import sys
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset, IterableDataset

from cassle_zoo.common.errors import ConfigError, DataError
from cassle_zoo.common.image_objects import image_of
from cassle_zoo.common.images import UnreadableImageError, ValueRange
from cassle_zoo.data.listing import list_images

_OBJECTS = "OSTU"  # kinds of arrays that hold paths or objects, not pixels
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
        return _without_label(item)

    def image(self, value_range: ValueRange | None = None) -> Image.Image:
        """Read the image as RGB.

        Args:
            value_range: As for :func:`cassle_zoo.common.images.to_rgb`.

        Raises:
            UnreadableImageError: It cannot be read, or its values are out of range.
            ConfigError: It is not an image, but an object of an unknown type.
        """
        return image_of(self.raw(), self.source, value_range)


class _Source(Protocol):
    """Some of the images of an input; cheap to keep, whatever their number."""

    in_threads: bool
    """Whether several threads may read its images at once."""

    def __len__(self) -> int:
        """Return the number of images."""

    def image(self, index: int) -> InputImage:
        """Return an image, not read yet."""


class Inputs(Sequence[InputImage]):
    """The images of an input, in order. Picklable; an image is opened only when it is read."""

    def __init__(self, sources: Iterable[_Source]) -> None:
        """Store the sources; their images are numbered through."""
        self._sources = [source for source in sources if len(source)]
        self._ends: list[int] = []
        for source in self._sources:
            self._ends.append(len(self) + len(source))

    @property
    def in_threads(self) -> bool:
        """Whether several threads may read images at once."""
        return all(source.in_threads for source in self._sources)

    def __len__(self) -> int:
        """Return the number of images."""
        return self._ends[-1] if self._ends else 0

    def __getitem__(self, index: Any) -> Any:
        """Return an image, or the list of those of a slice."""
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        if index < 0:
            index += len(self)
        if not 0 <= index < len(self):
            raise IndexError(index)
        number = bisect_right(self._ends, index)
        first = self._ends[number - 1] if number else 0
        return self._sources[number].image(index - first)


@dataclass(frozen=True)
class _DatasetItem:
    dataset: Any
    index: int


@dataclass(frozen=True)
class _Items:
    """The items of a map-style dataset."""

    dataset: Any
    in_threads = False

    def __len__(self) -> int:
        return len(self.dataset)

    def image(self, index: int) -> InputImage:
        return InputImage(f"dataset[{index}]", _DatasetItem(self.dataset, index))


@dataclass(frozen=True)
class _Files:
    """Files of this machine."""

    paths: list[str]
    in_threads = True

    def __len__(self) -> int:
        return len(self.paths)

    def image(self, index: int) -> InputImage:
        path = self.paths[index]
        return InputImage(path, path)


@dataclass(frozen=True)
class _Object:
    """An image in memory."""

    name: str
    value: Any
    in_threads = False

    def __len__(self) -> int:
        return 1

    def image(self, index: int) -> InputImage:
        return InputImage(self.name, self.value)


@dataclass(frozen=True)
class _Batch:
    """The images of an array or tensor of four dimensions."""

    name: str
    values: Any
    in_threads = False

    def __len__(self) -> int:
        return len(self.values)

    def image(self, index: int) -> InputImage:
        return InputImage(f"{self.name}[{index}]", self.values[index])


def expand_inputs(inputs: Any) -> tuple[Inputs, list[Skipped]]:
    """Find the single images of inputs, in the order given.

    Args:
        inputs: A file, folder, PIL image, array ((H, W), (H, W, C) or (N, H, W, C)), tensor
            ((H, W), (C, H, W) or (N, C, H, W)), a collection of these (a list, an iterator, a
            column of a table, an array of paths), or a map-style dataset whose items are images,
            ``(image, ...)`` tuples or ``{"image": image}``. Datasets are read by index, all other
            collections by iteration.

    Returns:
        The images, and the folders that could not be opened or have no images.

    Raises:
        DataError: A file or folder does not exist.
        ConfigError: An object is of an unknown type.
    """
    sources: list[_Source] = []
    skipped: list[Skipped] = []
    if isinstance(inputs, (IterableDataset, *_hugging_face("IterableDataset"))):
        raise ConfigError(
            "An IterableDataset has no length and order to report; give a map-style dataset, or "
            "list(dataset) if it fits into memory."
        )
    if _is_dataset(inputs):
        return Inputs([_Items(inputs)]), skipped
    if hasattr(inputs, "columns"):
        raise ConfigError(
            f"the input is a {type(inputs).__name__}, a table; give the column of it that holds "
            "paths or images, such as table['path']."
        )
    for index, value in enumerate(_values_of(inputs)):
        _expand(f"input[{index}]", value, sources, skipped)
    return Inputs(sources), skipped


def _expand(name: str, value: Any, sources: list[_Source], skipped: list[Skipped]) -> None:
    value = value.as_py() if hasattr(value, "as_py") else value  # of pyarrow
    if isinstance(value, np.bytes_):
        value = os.fsdecode(value)
    if isinstance(value, str | os.PathLike):
        files = _files_of(value, skipped)
        if sources and isinstance(sources[-1], _Files):
            sources[-1].paths.extend(files)
        else:
            sources.append(_Files(files))
    elif isinstance(value, bytes):
        sources.append(_Object(name, value))
    elif isinstance(value, np.ndarray) and value.dtype.kind in _OBJECTS and value.ndim:
        for row, item in enumerate(value):
            _expand(f"{name}[{row}]", item, sources, skipped)
    elif isinstance(value, np.ndarray | Tensor) and value.ndim == 4:
        sources.append(_Batch(name, value))
    elif isinstance(value, np.ndarray | Tensor | Image.Image):
        file = str(getattr(value, "filename", "") or "")
        sources.append(_Object(file or name, value))
    else:
        raise _wrong_type(name, value)


def _files_of(path: str | os.PathLike[str], skipped: list[Skipped]) -> list[str]:
    if Path(path).suffix.lower() in _ARCHIVES and not Path(path).is_dir():
        skipped.append(Skipped(os.fspath(path), "an archive: unpack it and give the folder"))
        return []
    before = len(skipped)
    files = list_images(
        path, on_error=lambda folder, reason: skipped.append(Skipped(str(folder), reason))
    )
    if not files and len(skipped) == before:
        skipped.append(Skipped(os.fspath(path), "the folder holds no images"))
    return [str(file) for file in files]


def _is_dataset(value: Any) -> bool:
    """Return whether a value is read by index: `value[i]` is its item number i.

    That is so by convention for datasets, and by Python's rules for objects without `__iter__`.
    Others may read `[i]` as a label, as a pandas Series does.
    """
    indexed = hasattr(value, "__getitem__") and hasattr(value, "__len__")
    known = isinstance(value, (Dataset, *_hugging_face("Dataset")))
    return indexed and (known or not hasattr(value, "__iter__")) and not _is_single(value)


def _is_single(value: Any) -> bool:
    if isinstance(value, np.ndarray):
        return value.dtype.kind not in _OBJECTS or value.ndim == 0
    return isinstance(value, str | bytes | os.PathLike | Mapping | Tensor | Image.Image)


def _values_of(inputs: Any) -> Iterable[Any]:
    if _is_single(inputs) or not isinstance(inputs, Iterable):
        return [inputs]
    if isinstance(inputs, list | tuple | Iterator | np.ndarray):
        return inputs
    # Perhaps a dataset, whose items have labels.
    return (_without_label(value) for value in inputs)


def _without_label(item: Any) -> Any:
    if isinstance(item, Mapping):
        item = item.get("image", item)
    return item[0] if isinstance(item, tuple | list) and item else item


def _hugging_face(name: str) -> tuple[type, ...]:
    """Return a class of the package `datasets`; nothing if it is not loaded, so nobody has one."""
    found = getattr(sys.modules.get("datasets"), name, None)
    return (found,) if isinstance(found, type) else ()


def _wrong_type(name: str, value: object) -> ConfigError:
    return ConfigError(
        f"{name} is a {type(value).__name__}; expected a file, folder, PIL image, array, tensor, "
        "a list of these, or a map-style dataset."
    )
