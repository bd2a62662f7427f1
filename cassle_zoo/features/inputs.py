"""Inputs of every kind, as one sequence of images with a name for each."""

import itertools
import os
import sys
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from io import IOBase
from typing import Any, cast

import numpy as np
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset, IterableDataset

from cassle_zoo.common.bands import ToBands, is_npy
from cassle_zoo.common.errors import ConfigError
from cassle_zoo.common.images import Reduction, UnreadableImageError, ValueRange, image_of
from cassle_zoo.data.tables import TABLES
from cassle_zoo.features.places import (
    Files,
    Items,
    Lazy,
    Source,
    find_images,
    image_column,
    without_label,
)

_OBJECTS = "OSTU"  # kinds of arrays that hold paths or objects, not pixels


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
        value: A path, the content of a file, a PIL image, array or tensor, or a `Lazy` that reads
            one.
    """

    source: str
    value: Any

    def raw(self) -> Any:
        """Return the object as it was given; items of datasets without their labels.

        Raises:
            UnreadableImageError: It is stored elsewhere and cannot be read, or is `None` there.
        """
        value = self.value.read() if isinstance(self.value, Lazy) else self.value
        if value is None:  # a dataset's row without an image
            raise UnreadableImageError(self.source, "there is no image, the value is None")
        return value

    def image(
        self,
        value_range: ValueRange | None = None,
        reduction: Reduction | None = None,
        channels: int = 3,
    ) -> Image.Image:
        """Read the image as RGB.

        Args:
            value_range: As for :func:`cassle_zoo.common.images.to_rgb`.
            reduction: As for :func:`cassle_zoo.common.images.open_image`.
            channels: Those of the model; for 1, NumPy files can be read, too.

        Raises:
            UnreadableImageError: It cannot be read, or its values are out of range.
            ConfigError: It is not an image, but an object of an unknown type.
        """
        value = self.raw()
        if channels == 1 and is_npy(value):
            value, value_range = ToBands(1, value_range)(value), None
        return image_of(value, self.source, value_range, reduction)


class Inputs(Sequence[InputImage]):
    """The images of an input, in order. Picklable; an image is opened only when it is read."""

    def __init__(self, sources: Iterable[Source]) -> None:
        """Store the sources; their images are numbered consecutively."""
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
        return InputImage(*self._sources[number].item(index - first))


@dataclass(frozen=True)
class _Object:
    """An image in memory."""

    name: str
    value: Any
    in_threads = False

    def __len__(self) -> int:
        return 1

    def item(self, index: int) -> tuple[str, Any]:
        return self.name, self.value


@dataclass(frozen=True)
class _Stack:
    """The images of an array or tensor of four dimensions."""

    name: str
    values: Any
    in_threads = False

    def __len__(self) -> int:
        return len(self.values)

    def item(self, index: int) -> tuple[str, Any]:
        return f"{self.name}[{index}]", self.values[index]


def expand_inputs(inputs: Any, column: str | None = None) -> tuple[Inputs, list[Skipped]]:
    """Find the individual images in inputs, in the given order.

    Args:
        inputs: A path of any kind that :func:`cassle_zoo.features.places.find_images` knows, the
            content of a file, a PIL image, an array ((H, W), (H, W, C) or (N, H, W, C)), a tensor
            ((H, W), (C, H, W) or (N, C, H, W)), a collection of these (a list, an iterator, a
            column of a table, an array of paths), or a map-style dataset whose items are images,
            ``(image, ...)`` tuples or ``{"image": image}``. Datasets are read by index, all other
            collections by iteration. A result of this function is returned unchanged.
        column: The column of a list or dataset that holds the images; by default recognised by its
            name or type.

    Returns:
        The images, and the folders that could not be opened or have no images.

    Raises:
        DataError: A file or folder does not exist.
        ConfigError: An object is of an unknown type, or nothing in the inputs has columns but one
            is given.
    """
    if isinstance(inputs, Inputs):
        return inputs, []
    if isinstance(inputs, tuple) and len(inputs) == 2 and isinstance(inputs[0], Inputs):
        return inputs[0], list(inputs[1])
    sources: list[Source] = []
    skipped: list[Skipped] = []
    if isinstance(inputs, (IterableDataset, *_hugging_face("IterableDataset"))):
        raise ConfigError(
            "An IterableDataset has no length and order to report; give a map-style dataset, or "
            "list(dataset) if it fits into memory."
        )
    if hasattr(inputs, "columns"):
        raise ConfigError(
            f"the input is a {type(inputs).__name__}, a table; give the column of it that holds "
            "paths or images, such as table['path']."
        )
    if _is_dataset(inputs):
        if isinstance(inputs, _hugging_face("Dataset")):
            column = image_column(inputs, column)
        return Inputs([Items("dataset", inputs, column or "image")]), skipped

    has_columns = not _is_plain(inputs)

    def find(path: str | os.PathLike[str]) -> list[Source]:
        nonlocal has_columns
        found = find_images(path, lambda name, why: skipped.append(Skipped(name, why)), column)
        is_table = any(ending in os.fspath(path).lower() for ending in TABLES)
        has_columns |= is_table or any(isinstance(source, Items) for source in found)
        return found

    found = (
        source
        for index, value in enumerate(_values_of(inputs, column or "image"))
        for source in _expand(f"input[{index}]", value, find)
    )
    for kind, group in itertools.groupby(found, type):
        if kind is Files:
            sources.append(Files([path for files in group for path in cast(Files, files).paths]))
        else:
            sources += group
    if column is not None and sources and not has_columns:
        raise ConfigError(
            f"column {column!r}: none of the inputs is a table (.csv, .tsv) or a dataset, which "
            "have columns; leave out --column (column=)."
        )
    return Inputs(sources), skipped


def nothing_read(
    skipped: Sequence[Skipped],
    what: str = "No image could be read",
    *,
    fix: str = "Give images, or folders, archives or lists that hold some.",
) -> str:
    """Say why there are no images to extract, naming a few, and what to do."""
    if not skipped:
        return "No images were given. Give images, or folders, archives or lists that hold some."
    shown = "; ".join(f"{skip.source!r}: {skip.reason}" for skip in skipped[:5])
    more = f"; and {len(skipped) - 5} more" if len(skipped) > 5 else ""
    return f"{what}: {shown}{more}. {fix}"


def _expand(
    name: str,
    value: Any,
    find: Callable[[str | os.PathLike[str]], list[Source]],
) -> Iterator[Source]:
    value = value.as_py() if hasattr(value, "as_py") else value  # of pyarrow
    if isinstance(value, np.bytes_):
        value = os.fsdecode(value)
    if isinstance(value, str | os.PathLike):
        yield from find(value)
    elif isinstance(value, np.ndarray) and value.dtype.kind in _OBJECTS and value.ndim:
        for row, item in enumerate(value):
            yield from _expand(f"{name}[{row}]", item, find)
    elif isinstance(value, np.ndarray | Tensor) and value.ndim == 4:
        yield _Stack(name, value)
    elif isinstance(value, np.ndarray | Tensor | Image.Image | bytes):
        file = str(getattr(value, "filename", "") or "")
        yield _Object(file or name, value)
    else:
        raise ConfigError(
            f"{name} is a {type(value).__name__}; expected a path, the bytes of a file, a PIL "
            "image, array or tensor, a list of these, or a map-style dataset."
        )


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
    # An open file would be read line by line.
    return isinstance(value, str | bytes | os.PathLike | Mapping | Tensor | Image.Image | IOBase)


def _is_plain(inputs: Any) -> bool:
    """Return whether an input is an image, a path, or a list of these, not of labelled items."""
    return _is_single(inputs) or isinstance(inputs, list | tuple | Iterator | np.ndarray)


def _values_of(inputs: Any, column: str) -> Iterable[Any]:
    if _is_single(inputs) or not isinstance(inputs, Iterable):
        return [inputs]
    if _is_plain(inputs):
        return inputs
    # Perhaps a dataset, whose items have labels.
    return (without_label(value, column) for value in inputs)


def _hugging_face(name: str) -> tuple[type, ...]:
    """Return a class of the package `datasets`; none if it is not loaded, so no object is one."""
    found = getattr(sys.modules.get("datasets"), name, None)
    return (found,) if isinstance(found, type) else ()
