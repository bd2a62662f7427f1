"""Batches of images, read by workers or in this process, and a training loop over them."""

import math
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeAlias

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler, default_collate
from tqdm import tqdm

from cassle_zoo.common.errors import DataError, NonFiniteLossError, NotEnoughMemoryError
from cassle_zoo.common.faults import receive, worker_setup
from cassle_zoo.common.images import UnreadableImageError, to_rgb
from cassle_zoo.common.seeds import seed_of
from cassle_zoo.common.workers import share_batch
from cassle_zoo.features.inference import ADVICE
from cassle_zoo.features.reader import unchanged

Collate = Callable[[list[Any]], Any]
Draw: TypeAlias = tuple[int, int]
"""An epoch and the index of an image."""


class UnreadableDatasetImageError(UnreadableImageError):
    """An image of a dataset, named by its index, cannot be read."""

    def __str__(self) -> str:
        """Return the message."""
        return f"image {self.source} cannot be read: {self.reason}"


def read_image(images: Any, index: int) -> Image.Image:
    """Return an image of a dataset in RGB.

    Args:
        images: See `cassle_zoo.eval.base.Images`.
        index: Index of the image.

    Raises:
        UnreadableDatasetImageError: (a DataError) If it cannot be read.
    """
    try:
        return to_rgb(images[index][0])
    except UnreadableImageError as error:
        raise UnreadableDatasetImageError(str(index), error.reason) from error
    except (OSError, SyntaxError, DataError) as error:
        raise UnreadableDatasetImageError(str(index), str(error)) from error


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
        dataset: Picklable; raises a DataError for samples that cannot be read.
        batches: Keys of the dataset, by batch.
        workers: Number of worker processes; 0 for none.
        collate: Makes a batch from samples.
        pin_memory: Whether tensors go to pinned memory.

    Yields:
        The batches.

    Raises:
        DataError: As the dataset raises it (a DataLoader would add the worker's traceback to the
            message, and turn an error with several arguments into a RuntimeError); or a worker died
            while it sent a batch.
        NotEnoughMemoryError: If the workers' batches do not fit into shared memory.
    """
    loader: DataLoader[Any] = DataLoader(
        _Batches(dataset, collate),
        batch_sampler=batches,
        num_workers=workers,
        collate_fn=unchanged,
        worker_init_fn=worker_setup(),
        pin_memory=pin_memory,
        generator=torch.Generator(),  # otherwise the loader would advance the global one
    )
    for batch in receive(loader, ADVICE):
        if isinstance(batch, DataError | NotEnoughMemoryError):
            raise batch
        yield batch


class Batches(Sampler[list[Draw]]):
    """All batches of all epochs, reshuffled in each."""

    def __init__(self, rows: Tensor, batch: int, epochs: int, seed: int) -> None:
        """Draw `rows` in batches of `batch`, or all at once if there are fewer."""
        self.rows = rows
        self.batch = min(batch, len(rows))
        self.epochs = epochs
        self.seed = seed

    @property
    def per_epoch(self) -> int:
        """Number of batches in an epoch."""
        return len(self.rows) // self.batch

    def __len__(self) -> int:
        """Return the number of batches."""
        return self.per_epoch * self.epochs

    def __iter__(self) -> Iterator[list[Draw]]:
        """Yield the draws of each batch."""
        for epoch in range(self.epochs):
            generator = torch.Generator().manual_seed(seed_of(self.seed, epoch, "order"))
            order = self.rows[torch.randperm(len(self.rows), generator=generator)].tolist()
            for step in range(self.per_epoch):
                part = order[step * self.batch : (step + 1) * self.batch]
                yield [(epoch, index) for index in part]


def train(
    loss_of: Callable[[Any], Tensor],
    batches: "tqdm[Any]",
    optimizer: torch.optim.Optimizer,
    *,
    lr: float,
    schedule: Callable[[int], float],
    advice: str = "use a smaller one",
) -> list[float]:
    """Take an optimiser step for every batch.

    Args:
        loss_of: Computes the loss of a batch.
        batches: The batches, in a progress bar that knows their number.
        optimizer: Groups with an `lr_scale` have that fraction of the learning rate.
        lr: Peak learning rate.
        schedule: Fraction of the peak at a step, from 0.
        advice: How to avoid a learning rate that is too large.

    Returns:
        The loss of each step.

    Raises:
        NonFiniteLossError: If the loss becomes NaN or infinite.
    """
    losses: list[float] = []
    with batches:
        for step, batch in enumerate(batches):
            for group in optimizer.param_groups:
                group["lr"] = lr * schedule(step) * group.get("lr_scale", 1.0)
            loss = loss_of(batch)
            losses.append(loss.item())
            if not math.isfinite(losses[-1]):
                raise NonFiniteLossError(
                    f"the loss is {losses[-1]} at step {step} of {batches.total} with lr {lr:g}; "
                    f"{advice}."
                )
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return losses


class _Batches(Dataset[Any]):
    def __init__(self, dataset: Any, collate: Collate) -> None:
        self.dataset = dataset
        self.collate = collate

    def __getitems__(self, keys: list[Any]) -> Any:
        try:
            return share_batch(self.collate([self.dataset[key] for key in keys]))
        except (DataError, NotEnoughMemoryError) as error:
            return error
