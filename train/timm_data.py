"""Data sets that timm's factory knows, and WebDataset shards."""

import functools
import os
from pathlib import Path
from typing import Any

from PIL import Image
from timm.data import ImageDataset, create_dataset
from torch.utils.data import Dataset, IterableDataset

from cassle_zoo.errors import DataError, MissingDependencyError
from cassle_zoo.images import UnreadableImageError, open_image
from cassle_zoo.train.config import DataConfig
from cassle_zoo.train.distributed import count, rank
from cassle_zoo.train.shard_list import list_shards
from cassle_zoo.train.shards import Shards
from cassle_zoo.train.streams import TimmStream

_PACKAGES = {
    "hfds": '"cassle-zoo[hfds]"',
    "hfids": '"cassle-zoo[hfds]"',
    "tfds": "tensorflow tensorflow-datasets",
    "torch": "torchvision",
    "wds": '"cassle-zoo[wds]"',
}


class ForeignPictures(Dataset[tuple[Image.Image, int]]):
    """Pictures of a data set, or reader, of timm or torchvision; no bad picture is hidden."""

    def __init__(self, source: Any) -> None:
        """Keep the data set: it gives pairs of (picture or open file, label)."""
        self.source = source

    def __len__(self) -> int:
        """Return the number of pictures."""
        return len(self.source)

    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        """Return a picture and its label.

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
        """Return the name of the picture's file, within its folder, or its number."""
        files = getattr(self.source, "samples", None)
        if isinstance(files, list) and isinstance(files[index], tuple):  # torchvision's folders
            return str(os.path.relpath(files[index][0], self.source.root))
        return f"number {index}"


def open_timm_data(config: DataConfig) -> Any:
    """Open a data set that `config.dataset` names as `PREFIX/NAME`.

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
            return Shards(listed, rank(), count(), config.workers)
        if config.dataset == "torch/stl10":  # which timm's factory leaves out
            from torchvision.datasets import STL10

            return ForeignPictures(STL10(config.root, split=config.split))
        dataset = create()
    except ImportError as error:
        raise MissingDependencyError(
            f"{prefix}/ data sets need {error.name}: pip install {_PACKAGES[prefix]}."
        ) from error
    except DataError:
        raise
    except (OSError, RuntimeError, ValueError, AssertionError) as error:
        raise DataError(
            f"cannot open data set {config.dataset!r} at {config.root!r}: {error}"
        ) from error
    if isinstance(dataset, IterableDataset):
        return TimmStream(create, int(getattr(dataset.reader, "num_samples", 0)))  # type: ignore[attr-defined]
    return ForeignPictures(dataset.reader if isinstance(dataset, ImageDataset) else dataset)
