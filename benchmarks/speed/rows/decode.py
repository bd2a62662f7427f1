"""Decoding JPEG files and cutting two crops of each in two workers, beside torchvision v2."""

import time
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torchvision import transforms
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2

from benchmarks.speed.timing import Check, Row, speeds, take_turns, times_faster
from benchmarks.speed.workloads import BATCH, IMAGES, SIZE, WORKERS, config, photographs
from cassle_zoo.train.data.datasets import open_dataset
from cassle_zoo.train.data.loading import batches

ROUNDTRIPS = 6
AS_OFFICIAL = "Pillow crops, float tensors"  # what the paper's code does in its workers


def measure(rounds: int) -> Row:
    """Measure passes over a folder, each by new workers; starting them does not count."""
    on_pillow = [transforms.RandomResizedCrop(SIZE, (0.2, 1.0)), transforms.ToTensor()]
    crop = [v2.PILToTensor(), v2.RandomResizedCrop(SIZE, (0.2, 1.0), antialias=True)]
    with photographs() as folder:
        two_tensors = ImageFolder(folder, _twice(transforms.Compose(on_pillow)))
        two_crops = ImageFolder(folder, _twice(v2.Compose(crop)))
        two_views = ImageFolder(folder, _twice(v2.Compose([*crop, *_rest()])))
        contestants = {
            "cassle-zoo": _ours(config(folder)),
            AS_OFFICIAL: _loaded(two_tensors),
            "torchvision v2": _loaded(two_crops),
            "torchvision v2, all augmentation": _loaded(two_views),
        }
        seconds = take_turns(contestants, rounds)
    official_ratio = times_faster(seconds, "cassle-zoo", AS_OFFICIAL)
    ratio = times_faster(seconds, "cassle-zoo", "torchvision v2")
    all_ratio = times_faster(seconds, "cassle-zoo", "torchvision v2, all augmentation")
    return Row(
        title="decode JPEG and cut two crops, 2 workers",
        amounts=speeds(seconds, ROUNDTRIPS * IMAGES - BATCH),
        unit="img/s",
        checks=[
            Check(f"cassle-zoo / {AS_OFFICIAL}", official_ratio, at_least=1.5),
            Check("the same / torchvision v2", ratio),
            Check("the same / with all augmentation", all_ratio),
        ],
        seconds=seconds,
        note="The rest of our augmentation runs in batches on the training device.",
    )


def _twice(transform: Callable[[Any], Any]) -> Callable[[Any], tuple[Any, Any]]:
    return lambda image: (transform(image), transform(image))


def _rest() -> list[Any]:
    return [
        v2.RandomHorizontalFlip(),
        v2.RandomApply([v2.ColorJitter(0.4, 0.4, 0.4, 0.1)], 0.8),
        v2.RandomGrayscale(0.2),
        v2.RandomApply([v2.GaussianBlur(9, (0.1, 2.0))], 0.5),
        v2.ToDtype(torch.float32, scale=True),
        v2.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    ]


def _ours(config: Any) -> Callable[[], float]:
    dataset = open_dataset(config.data)
    return lambda: _pass(batches(config, dataset, 0, ROUNDTRIPS * IMAGES // BATCH))


def _loaded(dataset: Any) -> Callable[[], float]:
    repeated: Any = torch.utils.data.ConcatDataset([dataset] * ROUNDTRIPS)

    def turn() -> float:
        loader = torch.utils.data.DataLoader(
            repeated, BATCH, shuffle=True, drop_last=True, num_workers=WORKERS
        )
        return _pass(iter(loader))

    return turn


def _pass(batches: Iterator[Any]) -> float:
    """Return the seconds from the first batch to the last."""
    next(batches)
    start = time.perf_counter()
    for _ in batches:
        pass
    return time.perf_counter() - start
