"""Batches of datasets that are read in their own order, without random access."""

import itertools
import zlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, default_collate

from cassle_zoo.common.errors import DataError
from cassle_zoo.common.images import UnreadableImageError
from cassle_zoo.train.data.shards import Shards, StreamSample
from cassle_zoo.train.run.faults import BadImages

Sample = dict[str, Tensor]
CropViews = Callable[[Any, int, int], Sample]


class TimmStream(IterableDataset[tuple[Image.Image, int]]):
    """A streamed dataset of timm, opened anew for each reading.

    timm's readers remember in which worker, and how far, they were first read.
    """

    def __init__(self, open_stream: Callable[[], Any], length: int) -> None:
        """Keep how the dataset is opened, and how many images it states to have."""
        self._open = open_stream
        self._length = length

    def __len__(self) -> int:
        """Return the number of images, 0 if it is not known."""
        return self._length

    def __iter__(self) -> Iterator[tuple[Image.Image, int]]:
        """Yield images and labels."""
        yield from _unbroken(self._open())

    def read(self, seed: int, epoch: int, repeat: int) -> Iterator[StreamSample]:
        """Yield the images of an epoch; a checksum of its pixels identifies each."""
        stream = self._open()
        if hasattr(stream, "set_epoch"):
            stream.set_epoch(epoch)
        for image, label in _unbroken(stream):
            number = zlib.crc32(image.tobytes())
            yield StreamSample(number=number, source=image, label=label, name=f"number {number}")


def _unbroken(stream: Iterable[tuple[Image.Image, int]]) -> Iterator[tuple[Image.Image, int]]:
    """Yield what timm's reader gives; what breaks it ends the stream, so it cannot be passed over.

    Raises:
        DataError: If the reader raises anything, such as its decoders for a damaged image.
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


class StreamViews(IterableDataset[Sample | StreamSample]):
    """Views of the images of a stream, and what of it is lost."""

    def __init__(
        self, dataset: Shards | TimmStream, crop: CropViews, seed: int, epoch: int, repeat: int
    ) -> None:
        """Keep the stream, what cuts crops, and which reading it is."""
        self.dataset = dataset
        self.crop = crop
        self.reading = (seed, epoch, repeat)

    def __iter__(self) -> Iterator[Sample | StreamSample]:
        """Yield this worker's part."""
        epoch = self.reading[1]
        for item in self.dataset.read(*self.reading):
            try:
                yield item if item.source is None else self.crop(item.source, epoch, item.number)
            except (UnreadableImageError, OSError):
                yield StreamSample(number=item.number, name=item.name)


MakeLoader = Callable[[StreamViews], DataLoader[Any]]


class StreamBatches:
    """Batches of a stream, each epoch of it read anew, and again if images were lost.

    A batch's `bad` names what was lost while it was read; none of it is in the batch.
    """

    def __init__(
        self,
        dataset: Any,
        crop: CropViews,
        make_loader: MakeLoader,
        seed: int,
        max_bad_fraction: float,
    ) -> None:
        """Prepare to read.

        Args:
            dataset: `Shards` or `TimmStream`.
            crop: Returns the views of (image, epoch, number).
            make_loader: Makes the loader of samples.
            seed: Of the run.
            max_bad_fraction: Fraction of the images that may be unreadable.
        """
        self._dataset = dataset
        self._crop = crop
        self._make_loader = make_loader
        self._seed = seed
        self._bad = BadImages(dataset, max_bad_fraction)
        self._unreported: list[int] = []

    def epoch(self, epoch: int, rows: int, first: int, last: int) -> Iterator[Sample]:
        """Yield batches `first` to `last - 1` of an epoch.

        Args:
            epoch: Of the run.
            rows: Images in a batch.
            first: Batch to begin with; those before are read all the same.
            last: Batch to end before.
        """
        samples = self._samples(epoch)
        for index in range(last):
            batch = default_collate(list(itertools.islice(samples, rows)))
            if index >= first:
                reported, self._unreported = self._unreported[:rows], self._unreported[rows:]
                batch["bad"][: len(reported)] = torch.tensor(reported, dtype=torch.int64)
                yield batch

    def _samples(self, epoch: int) -> Iterator[Sample]:
        for repeat in itertools.count():
            last: StreamSample | None = None
            found = False
            for item in self._make_loader(
                StreamViews(self._dataset, self._crop, self._seed, epoch, repeat)
            ):
                if isinstance(item, StreamSample):
                    last = item
                    self._note(item)
                else:
                    found = True
                    yield item
            if not found:
                reason = f"; the last: {last.name!r}" if last else ""
                raise DataError(f"no image of the stream can be read{reason}.")

    def _note(self, part: StreamSample) -> None:
        if isinstance(self._dataset, Shards):
            self._dataset.note(part)
        if self._bad.note(torch.tensor([part.number])):
            self._unreported.append(part.number)
