from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cassle_zoo.augment import AugmentConfig
from cassle_zoo.train.config import DataConfig, OptimConfig, RunConfig, TrainConfig


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """22 small pictures in two classes that differ in colour."""
    folder = tmp_path_factory.mktemp("pictures")
    generator = np.random.default_rng(0)
    for index in range(22):
        pixels = generator.integers(0, 256, (20, 28, 3), dtype=np.uint8)
        pixels[..., index % 2] //= 4
        path = folder / f"class{index % 2}" / f"{index:02d}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(pixels).save(path)
    return folder


@pytest.fixture
def config(pictures: Path) -> TrainConfig:
    """A run of 2 epochs of 5 steps."""
    return TrainConfig(
        name="test_resnet_cassle_simclr.tiny",
        arch="test_resnet",
        augment=AugmentConfig(size=32),
        data=DataConfig(root=str(pictures), workers=0),
        optim=OptimConfig(epochs=2, batch_size=4, base_lr=1.0),
        run=RunConfig(
            threads=1, checkpoint_every=2, log_every=1, monitor_every=1, loggers=("csv",)
        ),
    )
