"""Datasets that timm's factory knows, and WebDataset shards."""

import functools
import os
from pathlib import Path
from typing import Any

from PIL import Image
from timm.data import ImageDataset, create_dataset
from torch.utils.data import Dataset, IterableDataset

from cassle_zoo.common.errors import DataError, MissingDependencyError
from cassle_zoo.common.images import UnreadableImageError, open_image
from cassle_zoo.train.config import DataConfig
from cassle_zoo.train.data.shard_list import list_shards
from cassle_zoo.train.data.shards import Shards
from cassle_zoo.train.data.streams import TimmStream
from cassle_zoo.train.distributed.process_group import rank, world_size

_PACKAGES = {
    "hfds": '"cassle-zoo[hfds]"',
    "hfids": '"cassle-zoo[hfds]"',
    "tfds": "tensorflow tensorflow-datasets",
    "torch": "torchvision",
    "wds": '"cassle-zoo[wds]"',
}


class ForeignImages(Dataset[tuple[Image.Image, int]]):
    """Images of a dataset, or reader, of timm or torchvision; no bad image is hidden."""

    def __init__(self, source: Any) -> None:
        """Keep the dataset: it gives pairs of (image or open file, label)."""
        self.source = source

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.source)

    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        """Return an image and its label.

        Raises:
            UnreadableImageError: If it cannot be read.
        """
        # Its decoders raise anything: decompression bombs, struct.error, SyntaxError, ...
        try:
            source, label = self.source[index]
        except MemoryError:
            raise
        except Exception as error:
            reason = f"{type(error).__name__}: {error}"
            raise UnreadableImageError(self.filename(index), reason) from error
        image = open_image(source)
        if not isinstance(source, Image.Image):
            source.close()
        return image, -1 if label is None else label

    def filename(self, index: int) -> str:
        """Return the name of the image's file, within its folder, or its number."""
        files = getattr(self.source, "samples", None)
        if isinstance(files, list) and isinstance(files[index], tuple):  # torchvision's folders
            return str(os.path.relpath(files[index][0], self.source.root))
        return f"number {index}"


def open_timm_data(config: DataConfig) -> Any:
    """Open a dataset that `config.dataset` names as `PREFIX/NAME`.

    Raises:
        DataError: If it cannot be opened.
        MissingDependencyError: If a package is needed that is not installed.
    """
    create = functools.partial(
        create_dataset,
        config.dataset,
        root=config.root,
        split=config.split,
        is_training=True,
        num_samples=config.samples,
        input_img_mode="RGB",
    )
    prefix = config.dataset.partition("/")[0]
    try:
        if prefix == "wds":
            import webdataset  # noqa: F401

            listed = list_shards(Path(config.root), config.split, config.samples)
            return Shards(listed, rank(), world_size(), config.workers)
        if config.dataset == "torch/stl10":  # which timm's factory leaves out
            from torchvision.datasets import STL10

            return ForeignImages(STL10(config.root, split=config.split))
        dataset = create()
    except ImportError as error:
        raise MissingDependencyError(
            f"{prefix}/ datasets need {error.name}: pip install {_PACKAGES[prefix]}."
        ) from error
    except DataError:
        raise
    except (OSError, RuntimeError, ValueError, AssertionError) as error:
        raise DataError(
            f"cannot open dataset {config.dataset!r} at {config.root!r}: {error}"
        ) from error
    if isinstance(dataset, IterableDataset):
        return TimmStream(create, int(getattr(dataset.reader, "num_samples", 0)))  # type: ignore[attr-defined]
    return ForeignImages(dataset.reader if isinstance(dataset, ImageDataset) else dataset)
