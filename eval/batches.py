"""Reading batches of images, in worker processes or in this one, with the same errors from both."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset, default_collate

from cassle_zoo.common.errors import DataError
from cassle_zoo.common.images import to_rgb

Collate = Callable[[list[Any]], Any]


def read_image(images: Any, index: int) -> Image.Image:
    """Return an image of a dataset in RGB.

    Args:
        images: See `cassle_zoo.eval.base.Images`.
        index: Which of them.

    Raises:
        DataError: If it cannot be read.
    """
    try:
        return to_rgb(images[index][0])
    except (OSError, SyntaxError, DataError) as error:
        raise DataError(f"image {index} cannot be read: {error}") from error


def read_batches(
    dataset: Any,
    batches: Iterable[list[Any]],
    *,
    workers: int,
    collate: Collate = default_collate,
    pin_memory: bool = False,
) -> Iterator[Any]:
    """Read the batches of a map-style dataset.

    Args:
        dataset: Picklable; raises a DataError for what cannot be read.
        batches: Keys of the dataset, by batch.
        workers: Processes that read; 0 for this one.
        collate: Makes a batch of samples.
        pin_memory: Whether tensors go to pinned memory.

    Yields:
        The batches.

    Raises:
        DataError: As the dataset raises it. (A DataLoader would write the worker's traceback into
            the message, and make a RuntimeError of an error of several arguments.)
    """
    loader: DataLoader[Any] = DataLoader(
        _Batches(dataset, collate),
        batch_sampler=batches,
        num_workers=workers,
        collate_fn=_unchanged,
        pin_memory=pin_memory,
        generator=torch.Generator(),  # without, the loader would advance the global one
    )
    for batch in loader:
        if isinstance(batch, DataError):
            raise batch
        yield batch


class _Batches(Dataset[Any]):
    def __init__(self, dataset: Any, collate: Collate) -> None:
        self.dataset = dataset
        self.collate = collate

    def __getitems__(self, keys: list[Any]) -> Any:
        try:
            return self.collate([self.dataset[key] for key in keys])
        except DataError as error:
            return error


def _unchanged(batch: Any) -> Any:
    return batch
