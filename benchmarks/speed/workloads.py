"""Workloads of several rows: synthetic photographs, and the measured training run."""

import dataclasses
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from cassle_zoo.augmentation.augment import AugmentConfig, draw_uniforms
from cassle_zoo.train.config import DataConfig, OptimConfig, TrainConfig
from cassle_zoo.train.trainer import Trainer

WIDTH, HEIGHT = 500, 375  # ImageNet's most frequent size
BATCH, SIZE, IMAGES, WORKERS = 64, 96, 192, 2
SKIPPED, COUNTED = 2, 4  # steps of a turn; during the first ones workers get ahead


def photo(seed: int, width: int = WIDTH, height: int = HEIGHT) -> Image.Image:
    """Return an image with the spectrum of photographs: amplitude falls as 1 / frequency."""
    generator = np.random.default_rng(seed)
    noise = np.fft.rfft2(generator.standard_normal((3, height, width)))
    down, right = np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None]
    frequency = np.maximum(np.hypot(down, right), 1 / width)
    planes = np.fft.irfft2(noise / frequency, s=(height, width))
    planes /= planes.std(axis=(1, 2), keepdims=True)
    grey, colour = planes[:1], planes[1:]
    mixed = np.concatenate([grey + 0.3 * colour[:1], grey, grey + 0.3 * colour[1:]])
    pixels = (110 + 50 * mixed).clip(0, 255).astype(np.uint8)
    return Image.fromarray(np.ascontiguousarray(pixels.transpose(1, 2, 0)))


def jpeg_folder(folder: Path, count: int, size: tuple[int, int] = (WIDTH, HEIGHT)) -> Path:
    """Write `count` images as JPEG of quality 90 into a class folder, and return `folder`."""
    place = folder / "class"
    place.mkdir(parents=True)
    for index in range(count):
        photo(index, *size).save(place / f"{index:05d}.jpg", quality=90)
    return folder


def config(root: str = "", **changes: Any) -> TrainConfig:
    """Return the run: SimCLR with resnet18, 96 px, batch 64; `changes` replaces whole sections."""
    sections = {
        "augment": AugmentConfig(size=SIZE),
        "data": DataConfig(root=root, workers=WORKERS),
        "optim": OptimConfig(batch_size=BATCH, epochs=1000),
    }
    settings: dict[str, Any] = {"name": "bench", "arch": "resnet18", **sections, **changes}
    return TrainConfig(**settings)


def with_precision(config: TrainConfig, precision: str) -> TrainConfig:
    """Return the run with another precision."""
    return dataclasses.replace(config, run=dataclasses.replace(config.run, precision=precision))


@contextmanager
def photographs() -> Iterator[str]:
    """Provide a temporary folder of JPEG files."""
    with tempfile.TemporaryDirectory() as folder:
        yield str(jpeg_folder(Path(folder), IMAGES))


def random_batch(count: int, size: int = SIZE) -> dict[str, Any]:
    """Return a batch like a loader's, with crops of noise, to leave out decoding."""
    generator = torch.Generator().manual_seed(0)
    shape = (count, 2, 3, size, size)
    return {
        "crops": torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator),
        "uniforms": draw_uniforms(2 * count, generator).view(count, 2, -1),
        "source": torch.tensor([[375, 500]]).repeat(count, 1),  # an expanded one cannot be pinned
    }


def training_step(run: TrainConfig, batch: dict[str, Any]) -> Callable[[], Any]:
    """Return a function that does one step of a run on a batch."""
    trainer = Trainer(run, per_epoch=100)
    return lambda: trainer.train_step(batch, 10**6)


def timed_steps(steps: Iterator[Any], counted: int = COUNTED) -> float:
    """Do `SKIPPED` steps, and return the seconds of the next `counted`."""
    for _ in range(SKIPPED):
        next(steps)
    start = time.perf_counter()
    for _ in range(counted):
        next(steps)
    return time.perf_counter() - start
