"""The images of a run: a folder, a tar archive, emoji64, or a dataset of timm's factory."""

import functools
import os
from pathlib import Path, PurePosixPath
from typing import Any

from PIL import Image
from timm.data import create_dataset
from timm.utils.misc import natural_key
from torch.utils.data import Dataset, IterableDataset

from cassle_zoo.common.bands import open_channels
from cassle_zoo.common.errors import CassleZooError, DataError, MissingDependencyError, unknown_name
from cassle_zoo.common.images import Array, UnreadableImageError, image_endings, open_image
from cassle_zoo.data.emoji64 import pretraining_dataset
from cassle_zoo.data.listing import counts_as_image, list_images
from cassle_zoo.data.readers import ImageFiles, TarFiles
from cassle_zoo.data.saved import (
    SavedImages,
    columns_of,
    has_splits,
    image_columns,
    is_saved,
    load_saved,
    undecoded,
)
from cassle_zoo.train.config import DataConfig
from cassle_zoo.train.data.shards import Shards, list_shards
from cassle_zoo.train.data.streams import TimmStream
from cassle_zoo.train.distributed.process_group import rank, world_size

SAVED = "hfds/"
"""`data.dataset` of a folder written by `save_to_disk`; such folders are recognised without it."""
_PACKAGES = {
    "hfds": '"cassle-zoo[hfds]"',
    "hfids": '"cassle-zoo[hfds]"',
    "tfds": "tensorflow tensorflow-datasets",
    "torch": "torchvision",
    "wds": '"cassle-zoo[wds]"',
}


def open_dataset(config: DataConfig, channels: int = 3) -> Any:
    """Open the images: a dataset of (image, label) pairs.

    Args:
        config: Where the images are.
        channels: Their number of channels. Folders and tars can hold images with any number; other
            than 3, also as NumPy files (.npy), which
            :func:`cassle_zoo.common.bands.open_channels` reads. Other datasets hold RGB images,
            which can be converted to grey.

    Raises:
        DataError: If there are no images at `config.root`, or not this split or number of images.
        MissingDependencyError: If a package is needed that is not installed.
    """
    if not config.root:
        raise DataError("no data given: pass --data PATH (a folder, a tar file, ...).")
    dataset: Any
    if config.dataset and channels not in (1, 3):
        raise DataError(
            f"images of {channels} channels (augment.channels) are read from folders and tars, "
            f"not from data.dataset {config.dataset!r}, whose images are RGB."
        )
    if config.dataset == "emoji64":
        dataset = _open_emoji64(config)
    elif config.dataset in ("", SAVED) and is_saved(Path(config.root)):
        dataset = _open_saved(Path(config.root), config.split, config.image_column)
    elif config.dataset == SAVED:
        raise DataError(
            f"{config.root!r} was not written by `save_to_disk` of datasets; give --data.dataset "
            "hfds/NAME for a dataset of the Hub."
        )
    elif config.dataset:
        dataset = _open_timm(config)
    else:
        dataset = _open_images(Path(config.root), config.split, channels)
    if config.image_column and not isinstance(dataset, SavedDataset):
        raise DataError(
            f"--data.image-column {config.image_column!r} is for folders written by `save_to_disk` "
            f"of datasets and for hfds/NAME, and {config.root!r} is neither; leave it out."
        )
    if not config.is_stream and config.samples not in (None, len(dataset)):
        raise DataError(
            f"--data.samples {config.samples} is for streams, but there are {len(dataset)} "
            f"images in {config.root!r}; leave it out."
        )
    return dataset


def open_folder(root: Path, channels: int = 3) -> ImageFiles:
    """Open all images of a folder and the folders below it.

    An image's label is the index of its folder's name. The notes list folders that are left out
    because they cannot be opened.

    Raises:
        DataError: If there are no images.
    """
    notes: list[str] = []

    def leave_out(folder: Path, reason: str) -> None:
        notes.append(f"folder {str(folder)!r} is left out: {reason}.")

    files = list_images(root, on_error=leave_out, endings=_endings(channels))
    if not files:
        reasons = "; ".join(notes) or "it holds no images"
        raise DataError(
            f"cannot open {str(root)!r} as a folder of images: {reasons}. Give one that holds "
            "some, at any depth; other kinds of data need --data.dataset."
        )
    number = {name: i for i, name in enumerate(sorted({file.parent.name for file in files}))}
    labels = [number[file.parent.name] for file in files]
    names = [file.relative_to(root).as_posix() for file in files]
    return ImageFiles(root, names, labels=labels, notes=notes, channels=channels)


def _endings(channels: int) -> frozenset[str]:
    return image_endings() | ({".npy"} if channels != 3 else set())


class TarImages(Dataset[tuple[Image.Image | Array, int]]):
    """All images of a tar archive, found by the same rules as in a folder.

    Attributes:
        labels: Label of each image.
        notes: A line if the archive has no end mark.
    """

    def __init__(self, path: Path, channels: int = 3) -> None:
        """Find the images; an image's label is the index of its folder's name.

        Raises:
            DataError: If it is not a tar archive, is compressed, damaged or cut off, or holds no
                images.
        """
        endings = _endings(channels)
        self._channels = channels
        try:
            self._tar = TarFiles(path, lambda name: counts_as_image(name.parts, endings))
        except DataError as error:
            if error.__cause__ is None:  # an archive, but a damaged one
                raise
            raise DataError(
                f"{error} Pass a folder of images, or such an archive of them; unpack a compressed "
                "one. Lists and single images are not read; other kinds need --data.dataset."
            ) from error
        names = self._tar.names
        if not names:
            raise DataError(f"the archive {str(path)!r} holds no images; give one that does.")
        self.notes = self._tar.notes
        # The order of timm's reader of archives.
        self._order = sorted(range(len(names)), key=lambda index: natural_key(names[index]))  # type: ignore[no-untyped-call]
        folders = [PurePosixPath(names[index]).parent.name for index in self._order]
        number = {name: i for i, name in enumerate(sorted(set(folders), key=natural_key))}
        self.labels = [number[folder] for folder in folders]

    def __len__(self) -> int:
        return len(self._order)

    def __getitem__(self, index: int) -> tuple[Image.Image | Array, int]:
        """Return an image and its label.

        Raises:
            UnreadableImageError: If it cannot be decoded.
            OSError: If the archive cannot be read.
        """
        return open_channels(self.encoded(index), self._channels), self.labels[index]

    def encoded(self, index: int) -> bytes:
        """Return the bytes of an image's file.

        Raises:
            OSError: If the archive cannot be read.
        """
        return self._tar.read(self._order[index])

    def filename(self, index: int) -> str:
        """Return the name of the image's file, within the archive."""
        return self._tar.names[self._order[index]]


class TorchImages(Dataset[tuple[Image.Image, int]]):
    """Images of a torchvision dataset; bad images raise, none is hidden."""

    def __init__(self, source: Any) -> None:
        self.source = source

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        """Return an image and its label.

        Raises:
            UnreadableImageError: If it cannot be read.
        """
        # Its decoders can raise anything: decompression bombs, struct.error, SyntaxError, ...
        try:
            image, label = self.source[index]
        except MemoryError:
            raise
        except Exception as error:
            reason = f"{type(error).__name__}: {error}"
            raise UnreadableImageError(self.filename(index), reason) from error
        return open_image(image), -1 if label is None else label

    def filename(self, index: int) -> str:
        """Return the name of the image's file, within its folder, or its number."""
        files = getattr(self.source, "samples", None)
        if isinstance(files, list) and isinstance(files[index], tuple):  # torchvision's folders
            return str(os.path.relpath(files[index][0], self.source.root))
        return f"number {index}"


class SavedDataset(Dataset[tuple[Image.Image, int]]):
    """Images, and labels if any, of a dataset of the `datasets` library."""

    def __init__(self, images: SavedImages, labels: list[int] | None) -> None:
        self._images = images
        self._labels = labels

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        """Return an image and its label; -1 without labels.

        Raises:
            UnreadableImageError: If it cannot be read.
        """
        image, _ = self._images[index]
        return image, -1 if self._labels is None else self._labels[index]

    def filename(self, index: int) -> str:
        """Return the image's number."""
        return f"number {index}"


def _open_saved(root: Path, split: str, column: str) -> SavedDataset:
    splits = load_saved(root)
    if has_splits(root):
        if split and split not in splits:
            raise DataError(
                f"{str(root)!r} has no split {split!r}, but {', '.join(map(repr, splits))}; pass "
                "one with --data.split, or '' for all."
            )
        parts = [splits[split]] if split else list(splits.values())
    elif split in ("", DataConfig.split):
        parts = list(splits.values())
    else:
        raise DataError(f"{str(root)!r} is one split without a name; leave out --data.split.")
    return _images_of(parts, column, str(root))


def _images_of(parts: list[Any], column: str, name: str) -> SavedDataset:
    """Find the images of datasets of the `datasets` library, and their labels if there are any."""
    first = parts[0]
    if column and column not in first.features:
        raise unknown_name("data.image_column", column, first.features)
    columns = [column] if column else image_columns(first)
    if len(columns) != 1:
        raise DataError(
            f"{name!r} has {len(columns) or 'no'} columns of type Image among "
            f"{', '.join(first.features)}; pass one with --data.image-column."
        )
    images = SavedImages([undecoded(part, columns[0]) for part in parts], columns[0])
    if not len(images):
        raise DataError(f"{name!r} holds no images; give a dataset that does.")
    named = columns_of(first, "ClassLabel")
    labels = None
    if len(named) == 1 and all(
        part.features.get(named[0]) == first.features[named[0]] for part in parts
    ):
        values = [value for part in parts for value in part.with_format(None)[named[0]]]
        labels = [-1 if value is None else int(value) for value in values]
    return SavedDataset(images, labels)


def _open_emoji64(config: DataConfig) -> Any:
    if config.split != DataConfig.split:
        raise DataError(
            f"emoji64 has only the split {DataConfig.split!r} for training; leave out "
            f"--data.split {config.split!r}."
        )
    try:
        return pretraining_dataset(config.root)
    except DataError as error:
        raise DataError(f"{error} For your own images add --data.dataset ''.") from error


def _open_images(root: Path, split: str, channels: int) -> ImageFiles | TarImages:
    if split and (root / split).is_dir():
        images = open_folder(root / split, channels)
        images.notes.append(
            f"only the folder {split!r} of {str(root)!r} is used; "
            "--data.split '' takes all folders."
        )
        return images
    if root.exists() and split not in ("", DataConfig.split):
        raise DataError(f"{str(root)!r} has no folder {split!r}; --data.split '' takes all of it.")
    return open_folder(root, channels) if root.is_dir() else TarImages(root, channels)


def _open_timm(config: DataConfig) -> Any:
    """Open a dataset that `config.dataset` names as `PREFIX/NAME`."""
    create = functools.partial(
        create_dataset,
        config.dataset,
        root=config.root,
        split=config.split,
        is_training=True,
        num_samples=config.samples,
        input_img_mode="RGB",
    )
    prefix, _, name = config.dataset.partition("/")
    try:
        if prefix == "hfds":  # timm's reader wants a column `label`, and images in `image`
            from datasets import load_dataset

            part: Any = load_dataset(name, split=config.split, cache_dir=config.root)
            usual = "image" if "image" in part.features else ""
            return _images_of([part], config.image_column or usual, config.dataset)
        if prefix == "wds":
            import webdataset  # noqa: F401

            shards = list_shards(Path(config.root), config.split, config.samples)
            return Shards(shards, rank(), world_size(), config.workers)
        if config.dataset == "torch/stl10":  # which timm's factory leaves out
            from torchvision.datasets import STL10

            return TorchImages(STL10(config.root, split=config.split))
        dataset = create()
    except CassleZooError:
        raise
    except ImportError as error:
        raise MissingDependencyError(
            f"{prefix}/ datasets need {error.name}: pip install {_PACKAGES[prefix]}."
        ) from error
    except (OSError, RuntimeError, ValueError, AssertionError) as error:
        raise DataError(
            f"cannot open dataset {config.dataset!r} at {config.root!r}: {error}"
        ) from error
    if isinstance(dataset, IterableDataset):
        return TimmStream(create, int(getattr(dataset.reader, "num_samples", 0)))  # type: ignore[attr-defined]
    return TorchImages(dataset)
