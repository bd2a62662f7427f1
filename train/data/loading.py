"""Batches of uint8 crops from a dataset.

Workers decode an image once, cut its crops and draw the uniforms that fix the rest of the
augmentation. All of it depends only on (seed, epoch, sample, view): not on the number of workers,
nor on where a run was interrupted.
"""

import functools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset

from cassle_zoo.augmentation.augment import AugmentConfig, draw_uniforms, view_generator
from cassle_zoo.augmentation.crop import crop_box, cut_crops, reduction_for_crops, scale_boxes
from cassle_zoo.common.bands import open_scaled
from cassle_zoo.common.devices import pick_device
from cassle_zoo.common.errors import CassleZooError, DataError
from cassle_zoo.common.faults import receive, worker_setup
from cassle_zoo.common.images import UnreadableImageError
from cassle_zoo.train.config import TrainConfig
from cassle_zoo.train.data.shards import Shards
from cassle_zoo.train.data.streams import Sample, StreamViews, TimmStream, stream_batches
from cassle_zoo.train.data.view_config import ViewsConfig
from cassle_zoo.train.distributed.process_group import local_rows
from cassle_zoo.train.run.faults import BadImages, advice

MAX_CONSECUTIVE_BAD = 20
_NICENESS = 10  # of workers that share the processors with the computation


@dataclass(frozen=True)
class Crops:
    """Cuts the crops of one image's views and draws their uniforms.

    Attributes:
        augment: The distribution of views.
        seed: Seed of the run.
        views: Number of views, and what differs in some of them.
        fast: Decode large JPEGs at the smallest scale at which all crops still cover their view.
    """

    augment: AugmentConfig
    seed: int
    views: ViewsConfig = field(default_factory=ViewsConfig)
    fast: bool = False

    @functools.cached_property
    def _each(self) -> tuple[AugmentConfig, ...]:
        return self.views.of_each(self.augment)

    def __call__(self, source: Any, epoch: int, sample: int) -> Sample:
        """Return the crops of V views, G global and L local ones.

        Args:
            source: As for :func:`cassle_zoo.common.bands.open_channels`. Crops, and `source` in the
                result, are in pixels of the whole image, at whatever scale it is decoded.
            epoch: Epoch of the run.
            sample: Number of the image.

        Returns:
            `crops` (G, C, size, size) uint8, `local_crops` (L, C, local size, local size) uint8 if
            there are any, `uniforms` (V, U), `source` (2,) and `bad` ().
        """
        reduction = self._reduction if self.fast else None
        image, (width, height) = open_scaled(source, self.augment.channels, reduction)
        numbers = range(self.views.total)
        generators = (view_generator(self.seed, epoch, sample, view) for view in numbers)
        uniforms = torch.cat([draw_uniforms(1, generator) for generator in generators])
        boxes = [
            crop_box(height, width, row, own.crop_scale, own.crop_ratio)
            for own, row in zip(self._each, uniforms.tolist(), strict=True)
        ]
        if isinstance(image, Image.Image) and image.size != (width, height):
            boxes = scale_boxes(boxes, (width, height), image)
        count, local = self.views.count, self.views.local
        more = {"local_crops": cut_crops(image, boxes[count:], local.size)} if local.count else {}
        return {
            "crops": cut_crops(image, boxes[:count], self.augment.size),
            **more,
            "uniforms": uniforms,
            "source": torch.tensor([height, width]),
            "bad": torch.tensor(-1),
        }

    def _reduction(self, width: int, height: int) -> float:
        views = self.views
        sizes = [self.augment.size] * views.count + [views.local.size] * views.local.count
        return min(
            reduction_for_crops(width, height, size, own.crop_scale, own.crop_ratio)
            for size, own in zip(sizes, self._each, strict=True)
        )


@dataclass
class MapViews(Dataset[Sample]):
    """Views of a dataset with random access; indexed by (epoch, sample).

    An unreadable image is replaced by one drawn at random (its neighbours in a folder are often bad
    for the same reason), and its index is reported as `bad`.
    """

    dataset: Any
    crops: Crops

    def __getitem__(self, key: tuple[int, int]) -> Sample:
        epoch, wanted = key
        sample = wanted
        reason: Exception | None = None
        for attempt in range(MAX_CONSECUTIVE_BAD):
            if attempt:
                generator = view_generator(self.crops.seed, epoch, wanted, -1 - attempt)
                sample = int(torch.randint(len(self.dataset), (), generator=generator))
            try:
                # Not those of `sample`, which are in the epoch, too.
                views = self.crops(self._source(sample), epoch, wanted)
            except (UnreadableImageError, OSError) as error:
                reason = error
                continue
            return views if sample == wanted else {**views, "bad": torch.tensor(wanted)}
        raise DataError(
            f"image number {wanted} and {MAX_CONSECUTIVE_BAD - 1} drawn to replace it, one after "
            f"the other, cannot be read; the last error: {reason}"
        )

    def _source(self, sample: int) -> Any:
        """Return the undecoded file if it may be decoded fast and is at hand, else the image."""
        encoded = getattr(self.dataset, "encoded", None) if self.crops.fast else None
        source = None if encoded is None else encoded(sample)
        return self.dataset[sample][0] if source is None else source


def epoch_batches(
    length: int, batch_size: int, seed: int, steps: range
) -> Iterator[list[tuple[int, int]]]:
    """Yield this process's rows (epoch, sample) of each step's batch; each epoch is shuffled.

    Args:
        length: Images in the dataset.
        batch_size: Images in a batch of all processes.
        seed: Seed of the run.
        steps: Consecutive steps of the run.
    """
    rows = local_rows(batch_size)
    per_epoch = length // batch_size
    order: list[int] = []
    for step in steps:
        epoch, position = divmod(step, per_epoch)
        if not order or position == 0:
            generator = view_generator(seed, epoch, -1, -1)
            order = torch.randperm(length, generator=generator).tolist()
        start = position * batch_size
        batch = order[start : start + batch_size]
        yield [(epoch, sample) for sample in batch[rows]]


def steps_per_epoch(dataset: Any, batch_size: int) -> int:
    """Return the number of full batches in an epoch.

    Raises:
        DataError: If there is not even one, or the size of a stream is unknown.
    """
    length = len(dataset)
    if length == 0:
        raise DataError("the dataset is empty or does not state its size; pass --data.samples N.")
    if length < batch_size:
        fix = f"pass --optim.batch-size {length} or less" if length > 1 else "at least 2 are needed"
        raise DataError(
            f"the dataset has {length} images, fewer than one batch of {batch_size}; {fix}."
        )
    return length // batch_size


def batches(config: TrainConfig, dataset: Any, first: int, last: int) -> Iterator[Sample]:
    """Yield the batches of steps `first` to `last - 1` of a run.

    Args:
        config: The run.
        dataset: From `cassle_zoo.train.data.datasets.open_dataset`.
        first: Step to begin with, counted from 0.
        last: Step to end before.

    Yields:
        This process's B rows of each batch (all of them in a single process), each with V views,
        G of them global and L local: `crops` (B, G, C, size, size) uint8,
        `local_crops` (B, L, C, local size, local size) uint8 if there are any, `uniforms`
        (B, V, U), `source` (B, 2) height and width, `bad` (B,) index of the image that could not be
        read and was replaced, or -1.

    Raises:
        DataError: If too many images, or all of a stream, cannot be read, or a worker was killed.
    """
    fast = config.data.decode != "exact"
    crops = Crops(config.augment, config.run.seed, config.views, fast)
    size = config.optim.batch_size
    made: Iterable[Sample]
    if isinstance(dataset, Shards | TimmStream):

        def read(epoch: int, repeat: int) -> Iterator[Any]:
            views = StreamViews(dataset, crops, (config.run.seed, epoch, repeat))
            return receive(_loader(config, views, batch_size=None), advice(size))

        rows = local_rows(size)
        bad = BadImages(dataset, config.data.max_bad_fraction)
        steps, per_epoch = range(first, last), steps_per_epoch(dataset, size)
        made = stream_batches(dataset, read, bad, rows.stop - rows.start, steps, per_epoch)
    else:
        keys = epoch_batches(len(dataset), size, config.run.seed, range(first, last))
        pin = pick_device(config.run.device).type == "cuda"
        made = _loader(config, MapViews(dataset, crops), batch_sampler=keys, pin_memory=pin)
    try:
        yield from receive(made, advice(size))
    except CassleZooError as error:
        # A worker's error comes with its traceback as text; the last line is the message.
        kind = type(error)
        message = str(error).rpartition(f"{kind.__name__}: ")[2].strip()
        raise kind(message) from error.__cause__


def _loader(config: TrainConfig, dataset: Any, **options: Any) -> DataLoader[Any]:
    # Else workers displace compute threads that others wait for: a fifth of a bf16 step's speed.
    niceness = _NICENESS if pick_device(config.run.device).type == "cpu" else 0
    return DataLoader(
        dataset,
        num_workers=config.data.workers,
        generator=torch.Generator().manual_seed(config.run.seed),
        worker_init_fn=worker_setup(niceness),
        **options,
    )
