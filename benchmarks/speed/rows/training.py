"""What the rows about training share: the run that is measured."""

import dataclasses
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.speed.images import jpeg_folder

BATCH, SIZE, IMAGES, WORKERS = 64, 96, 192, 2
SKIPPED, COUNTED = 2, 4  # steps of a turn; while the first run, workers are getting ahead


def config(root: str = "", **changes: Any) -> Any:
    """Return the run: SimCLR with resnet18, 96 px, batch 64; `changes` of whole sections."""
    from cassle_zoo.augmentation.augment import AugmentConfig
    from cassle_zoo.train.config import DataConfig, OptimConfig, TrainConfig

    sections = {
        "augment": AugmentConfig(size=SIZE),
        "data": DataConfig(root=root, workers=WORKERS),
        "optim": OptimConfig(batch_size=BATCH, epochs=1000),
    }
    settings: dict[str, Any] = {"name": "bench", "arch": "resnet18", **sections, **changes}
    return TrainConfig(**settings)


def with_precision(config: Any, precision: str) -> Any:
    """Return the run in another precision."""
    return dataclasses.replace(config, run=dataclasses.replace(config.run, precision=precision))


@contextmanager
def photographs() -> Iterator[str]:
    """Make a folder of JPEG files for a while."""
    with tempfile.TemporaryDirectory() as folder:
        yield str(jpeg_folder(Path(folder), IMAGES))


def random_batch(count: int, size: int = SIZE) -> dict[str, Any]:
    """Return what a loader gives, with crops of noise, for when decoding is not the question."""
    import torch

    from cassle_zoo.augmentation.augment import draw_uniforms

    generator = torch.Generator().manual_seed(0)
    shape = (count, 2, 3, size, size)
    return {
        "crops": torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator),
        "uniforms": draw_uniforms(2 * count, generator).view(count, 2, -1),
        "source": torch.tensor([[375, 500]]).expand(count, 2),
    }


def timed_steps(steps: Iterator[Any], counted: int = COUNTED) -> float:
    """Do `SKIPPED` steps, and return the seconds of the next `counted`."""
    for _ in range(SKIPPED):
        next(steps)
    start = time.perf_counter()
    for _ in range(counted):
        next(steps)
    return time.perf_counter() - start
