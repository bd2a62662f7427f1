"""From files to batches of uint8 crops.

Workers decode a picture once, cut its two crops and draw the uniforms that fix the rest of the
augmentation. All of it depends only on (seed, epoch, sample, view): not on the number of workers,
nor on where a run was interrupted.
"""

import signal
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset, Sampler, default_collate

from cassle_zoo.augment import AugmentConfig, draw_uniforms, view_generator
from cassle_zoo.crop import crop_box, cut_crops
from cassle_zoo.errors import DataError
from cassle_zoo.images import UnreadableImageError, open_image
from cassle_zoo.train.config import DataConfig, TrainConfig
from cassle_zoo.train.distributed import share
from cassle_zoo.train.guards import WORKER_ADVICE
from cassle_zoo.train.pictures import FolderPictures, ReaderPictures

N_VIEWS = 2
MAX_CONSECUTIVE_BAD = 20
WORKER_GRACE = 30  # seconds
Sample = dict[str, Tensor]


def open_dataset(config: DataConfig) -> Any:
    """Open the pictures: a data set of (PIL image, label) pairs.

    Raises:
        DataError: If there are no pictures at `config.root`.
    """
    if not config.root:
        raise DataError("no data given: pass --data PATH (a folder, a tar file, ...).")
    if config.dataset == "emoji64":
        from cassle_zoo.eval.emoji64 import pretraining_dataset

        try:
            return pretraining_dataset(config.root)
        except DataError as error:
            raise DataError(f"{error} For pictures of your own add --data.dataset ''.") from error
    root = Path(config.root)
    if not config.dataset and root.is_dir():
        split = root / config.split
        return FolderPictures(split if split.is_dir() else root)
    from timm.data import ImageDataset, create_dataset

    try:
        dataset = create_dataset(
            config.dataset,
            root=config.root,
            split=config.split,
            is_training=True,
            num_samples=config.samples,
            input_img_mode="RGB",
        )
    except (OSError, RuntimeError, ValueError, AssertionError) as error:
        reason = str(error) or "there is no such folder or archive"
        raise DataError(
            f"cannot open data set {config.dataset or 'folder'!r} at {config.root!r}: {reason}"
        ) from error
    if isinstance(dataset, ImageDataset):
        return ReaderPictures(dataset.reader)
    _check_shards(dataset)
    return dataset


def _check_shards(dataset: Any) -> None:
    """Check that what an `_info.json` names lies in its folder."""
    split = getattr(getattr(dataset, "reader", None), "split_info", None)
    for name in getattr(split, "filenames", ()):
        if Path(name).is_absolute() or ".." in Path(name).parts:
            raise DataError(f"shard {name!r} is outside the data set's folder, so it is not read.")


class Crops:
    """Cuts the crops of one picture's views and draws their uniforms."""

    def __init__(self, augment: AugmentConfig, seed: int) -> None:
        """Keep the distribution and the seed."""
        self.augment = augment
        self.seed = seed

    def __call__(self, image: Image.Image, epoch: int, sample: int) -> Sample:
        """Return `crops` (2, 3, size, size) uint8, `uniforms` (2, U), `source` (2,), `bad` ()."""
        image = open_image(image)
        width, height = image.size
        uniforms = torch.cat(
            [
                draw_uniforms(1, view_generator(self.seed, epoch, sample, view))
                for view in range(N_VIEWS)
            ]
        )
        scale, ratio = self.augment.crop_scale, self.augment.crop_ratio
        boxes = [crop_box(height, width, row, scale, ratio) for row in uniforms.tolist()]
        return {
            "crops": cut_crops(image, boxes, self.augment.size),
            "uniforms": uniforms,
            "source": torch.tensor([height, width]),
            "bad": torch.tensor(-1),
        }


class MapViews(Dataset[Sample]):
    """Views of a data set with random access; indexed by (epoch, sample).

    A picture that cannot be read is replaced by one drawn at random (the next ones in a folder are
    often bad for the same reason), and its index reported as `bad`.
    """

    def __init__(self, dataset: Any, crops: Crops) -> None:
        """Wrap a data set of (PIL image, label) pairs."""
        self.dataset = dataset
        self.crops = crops

    def __getitem__(self, key: tuple[int, int]) -> Sample:
        """Return the views of one picture in one epoch."""
        epoch, wanted = key
        sample = wanted
        reason: Exception | None = None
        for attempt in range(MAX_CONSECUTIVE_BAD):
            if attempt:
                generator = view_generator(self.crops.seed, epoch, wanted, -1 - attempt)
                sample = int(torch.randint(len(self.dataset), (), generator=generator))
            try:
                views = self.crops(self.dataset[sample][0], epoch, sample)
            except (UnreadableImageError, OSError) as error:
                reason = error
                continue
            return views if sample == wanted else {**views, "bad": torch.tensor(wanted)}
        raise DataError(
            f"picture number {wanted} and {MAX_CONSECUTIVE_BAD - 1} drawn to replace it, one after "
            f"the other, cannot be read; the last error: {reason}"
        )


class StreamViews(IterableDataset[Sample]):
    """Views of a streamed data set; a sample is identified by a checksum of its pixels."""

    def __init__(self, dataset: Any, crops: Crops, epoch: int) -> None:
        """Wrap a stream of (PIL image, label) pairs."""
        self.dataset = dataset
        self.crops = crops
        self.epoch = epoch

    def __iter__(self) -> Iterator[Sample]:
        """Yield the views of one epoch."""
        if hasattr(self.dataset, "set_epoch"):
            self.dataset.set_epoch(self.epoch)
        for image, _ in self.dataset:
            yield self.crops(image, self.epoch, zlib.crc32(image.tobytes()))


class EpochBatches(Sampler[list[tuple[int, int]]]):
    """Batches of (epoch, sample) from any step of a run to its end, each epoch shuffled anew.

    Of each batch only the rows that are this process's share are given.
    """

    def __init__(self, length: int, batch_size: int, seed: int, first: int, last: int) -> None:
        """Prepare the batches of steps `first` to `last - 1`."""
        self.length = length
        self.batch_size = batch_size
        self.seed = seed
        self.steps = range(first, last)
        self.share = share(batch_size)

    def __len__(self) -> int:
        """Return the number of batches."""
        return len(self.steps)

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        """Yield the batches in order."""
        per_epoch = self.length // self.batch_size
        order: list[int] = []
        for step in self.steps:
            epoch, position = divmod(step, per_epoch)
            if not order or position == 0:
                generator = view_generator(self.seed, epoch, -1, -1)
                order = torch.randperm(self.length, generator=generator).tolist()
            start = position * self.batch_size
            batch = order[start : start + self.batch_size]
            yield [(epoch, sample) for sample in batch[self.share]]


def steps_per_epoch(dataset: Any, batch_size: int) -> int:
    """Return the number of full batches in an epoch.

    Raises:
        DataError: If there is not even one, or the size of a stream is not known.
    """
    try:
        length = len(dataset)
    except TypeError:
        length = 0
    if length == 0:
        raise DataError("the data set is empty or does not state its size; pass --data.samples N.")
    if length < batch_size:
        fix = f"pass --optim.batch-size {length} or less" if length > 1 else "at least 2 are needed"
        raise DataError(
            f"the data set has {length} pictures, fewer than one batch of {batch_size}; {fix}."
        )
    return length // batch_size


def batches(config: TrainConfig, dataset: Any, first: int, last: int) -> Iterator[Sample]:
    """Yield the batches of steps `first` to `last - 1` of a run.

    Args:
        config: The run.
        dataset: From `open_dataset`.
        first: Step to begin with, counted from 0.
        last: Step to end before.

    Yields:
        This process's share of each batch (B rows: all of them unless there are several processes):
        `crops` (B, 2, 3, size, size) uint8, `uniforms` (B, 2, U), `source` (B, 2) height and width,
        `bad` (B,) index of the picture that could not be read and was replaced, or -1.
    """
    crops = Crops(config.augment, config.run.seed)
    batch_size, workers = config.optim.batch_size, config.data.workers
    pin = torch.cuda.is_available()
    if not isinstance(dataset, IterableDataset):
        sampler = EpochBatches(len(dataset), batch_size, config.run.seed, first, last)
        loader = DataLoader(
            MapViews(dataset, crops),
            batch_sampler=sampler,
            num_workers=workers,
            pin_memory=pin,
            generator=_seeded(config),
            worker_init_fn=_outlast_stop_signals,
        )
        try:
            yield from loader
        except DataError as error:
            # A worker's error comes with its traceback as text; the last line is the message.
            raise DataError(str(error).rpartition("DataError: ")[2].strip()) from None
        except (ConnectionError, EOFError) as error:
            raise DataError(
                f"a data worker died while it sent a picture ({error!r}). {WORKER_ADVICE}"
            ) from error
        return
    per_epoch = steps_per_epoch(dataset, batch_size)
    rows = share(batch_size)
    step = first
    while step < last:
        epoch, skip = divmod(step, per_epoch)
        loader = DataLoader(
            StreamViews(dataset, crops, epoch),
            batch_size=None,
            num_workers=workers,
            generator=_seeded(config),
            worker_init_fn=_outlast_stop_signals,
        )
        for index, batch in enumerate(_collated(loader, rows.stop - rows.start, per_epoch)):
            if index >= skip and step < last:
                yield batch
                step += 1


def _outlast_stop_signals(_: int) -> None:
    """Let a worker go on for a while: queues signal all processes, but the step must end."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: signal.alarm(WORKER_GRACE))


def _seeded(config: TrainConfig) -> torch.Generator:
    """Return the generator from which a loader seeds its workers (streams shuffle with it)."""
    return torch.Generator().manual_seed(config.run.seed)


def _collated(samples: Any, batch_size: int, count: int) -> Iterator[Sample]:
    """Yield `count` full batches, taking samples round-robin from the workers."""
    group: list[Sample] = []
    made = 0
    for sample in samples:
        group.append(sample)
        if len(group) == batch_size:
            yield default_collate(group)
            group = []
            made += 1
            if made == count:
                return
    raise DataError(
        f"the stream ended after {made} batches of {batch_size}, but {count} were expected; "
        "correct --data.samples."
    )
