import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from cassle_zoo.augmentation.augment import AugmentConfig
from cassle_zoo.train.config import DataConfig, OptimConfig, RunConfig, TrainConfig
from cassle_zoo.train.trainer import Trainer

FaultAt = Callable[[int, Callable[[], Any]], contextlib.AbstractContextManager[None]]


@pytest.fixture(scope="session")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """22 small images in two classes that differ in colour."""
    folder = tmp_path_factory.mktemp("images")
    generator = np.random.default_rng(0)
    for index in range(22):
        pixels = generator.integers(0, 256, (20, 28, 3), dtype=np.uint8)
        pixels[..., index % 2] //= 4
        path = folder / f"class{index % 2}" / f"{index:02d}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(pixels).save(path)
    return folder


@pytest.fixture
def config(images: Path) -> TrainConfig:
    """A run of 2 epochs of 5 steps."""
    return TrainConfig(
        name="test_resnet_cassle_simclr.tiny",
        arch="test_resnet",
        augment=AugmentConfig(size=32),
        data=DataConfig(root=str(images), workers=0),
        optim=OptimConfig(epochs=2, batch_size=4, base_lr=1.0),
        run=RunConfig(
            threads=1, checkpoint_every=2, log_every=1, monitor_every=1, loggers=("csv",)
        ),
    )


@pytest.fixture
def fault_at() -> FaultAt:
    """Return a context in which a fault happens before a step."""

    @contextlib.contextmanager
    def fault_at(step: int, fault: Callable[[], Any]) -> Iterator[None]:
        train_step = Trainer.train_step

        def faulty(self: Trainer, *args: Any) -> dict[str, float]:
            if self.step == step:
                fault()
            return train_step(self, *args)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Trainer, "train_step", faulty)
            yield

    return fault_at
