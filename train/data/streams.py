"""Batches of datasets that are read in their own order, without random access."""

import itertools
import math
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import IterableDataset, default_collate, get_worker_info

from cassle_zoo.common.errors import DataError
from cassle_zoo.common.images import UnreadableImageError
from cassle_zoo.common.seeds import seed_of
from cassle_zoo.train.data.shards import Shards, StreamSample
from cassle_zoo.train.distributed.process_group import rank, world_size
from cassle_zoo.train.run.faults import BadImages

Sample = dict[str, Tensor]


class TimmStream(IterableDataset[tuple[Image.Image, int]]):
    """A streamed timm dataset, reopened for each pass.

    timm's readers remember in which worker, and how far, they were first read.
    """

    def __init__(self, open_stream: Callable[..., Any], length: int) -> None:
        self._open = open_stream
        self._length = length
        # Workers that were spawned, not forked, would all take themselves for process 0 of 1.
        self._process = {"dist_rank": rank(), "dist_num_replicas": world_size()}

    def __len__(self) -> int:
        """Return the number of images, 0 if unknown."""
        return self._length

    def __iter__(self) -> Iterator[tuple[Image.Image, int]]:
        yield from _unbroken(self._open())

    def read(self, seed: int, epoch: int, repeat: int) -> Iterator[StreamSample]:
        """Yield the images of an epoch, each identified by a checksum of its pixels."""
        stream = self._open(seed=seed_of(seed, repeat))
        vars(stream.reader).update(self._process)
        stream.set_epoch(epoch)
        for image, label in _unbroken(stream):
            number = zlib.crc32(image.tobytes())
            yield StreamSample(number=number, source=image, label=label, name=f"number {number}")


def _unbroken(stream: Iterable[tuple[Image.Image, int]]) -> Iterator[tuple[Image.Image, int]]:
    """Yield the items of timm's reader; its errors end the stream, so they cannot be skipped.

    Raises:
        DataError: If the reader raises anything, for example when it decodes a damaged image.
    """
    count = 0
    try:
        for item in stream:
            yield item
            count += 1
    except MemoryError:
        raise
    except Exception as error:
        raise DataError(
            f"the stream broke off after {count} images ({type(error).__name__}: {error}). "
            "timm's streams cannot go on after a damaged image; WebDataset shards (wds/NAME) can."
        ) from error


@dataclass
class StreamViews(IterableDataset[Sample | StreamSample]):
    """Views of the images of a stream, and its unreadable parts.

    Attributes:
        dataset: The stream.
        crop: Returns the views of (image, epoch, number).
        reading: Seed and epoch of the run, and how often this epoch was read before.
    """

    dataset: Shards | TimmStream
    crop: Callable[[Any, int, int], Sample]
    reading: tuple[int, int, int]

    def __iter__(self) -> Iterator[Sample | StreamSample]:
        _, epoch, repeat = self.reading
        for item in self.dataset.read(*self.reading):
            made: Sample | StreamSample = item
            try:
                if item.source is not None:  # shown again, an image has other views
                    made = self.crop(item.source, epoch, item.number + (repeat << 64))
                    # Else torch does it in a thread of the worker, whose errors are lost: if shared
                    # memory were full, the main process would wait forever.
                    for value in made.values() if get_worker_info() else ():
                        value.share_memory_()
            except (UnreadableImageError, OSError):
                made = StreamSample(number=item.number, name=item.name)
            yield made


def stream_batches(
    dataset: Shards | TimmStream,
    read: Callable[[int, int], Iterable[Sample | StreamSample]],
    bad: BadImages,
    rows: int,
    steps: range,
    per_epoch: int,
) -> Iterator[Sample]:
    """Yield the batches of some steps; each epoch is a new pass, repeated if images were lost.

    A batch's `bad` lists images that were lost while it was read; none of them is in the batch.

    Args:
        dataset: The stream.
        read: Starts to read an epoch for the first, second, ... time.
        bad: Counts the lost images.
        rows: Images in a batch.
        steps: Consecutive steps of the run. The batches before them in their epoch are read too.
        per_epoch: Steps in an epoch.

    Raises:
        DataError: If no image of a pass can be read, or `bad` has counted too many.
    """
    unreported: list[int] = []

    def samples(epoch: int) -> Iterator[Sample]:
        for repeat in itertools.count():
            lost: StreamSample | None = None
            found = False
            for item in read(epoch, repeat):
                if not isinstance(item, StreamSample):
                    found = True
                    # Workers send tensors in shared memory, each of them an open file; those of a
                    # large batch would exceed the limit of open files per process.
                    yield {name: value.clone() for name, value in item.items()}
                    continue
                lost = item
                if isinstance(dataset, Shards):
                    dataset.note(item)
                if bad.note(torch.tensor([item.number])):
                    unreported.append(item.number)
            if not found:
                reason = f"; the last: {lost.name!r}" if lost else ""
                raise DataError(f"no image of the stream can be read{reason}.")

    for epoch in range(steps.start // per_epoch, math.ceil(steps.stop / per_epoch)):
        stream = samples(epoch)
        for step in range(epoch * per_epoch, min((epoch + 1) * per_epoch, steps.stop)):
            batch = default_collate(list(itertools.islice(stream, rows)))
            if step in steps:
                reported = torch.tensor(unreported[:rows], dtype=torch.int64)
                del unreported[:rows]
                batch["bad"][: len(reported)] = reported
                yield batch
