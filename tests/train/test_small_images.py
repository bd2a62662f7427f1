"""Steps of training compute small convolutions as products."""

import dataclasses
from typing import Any

import pytest
from torch import Tensor

from cassle_zoo.accel import small_images
from cassle_zoo.train.config import TrainConfig
from cassle_zoo.train.data.datasets import open_dataset
from cassle_zoo.train.data.loading import batches
from cassle_zoo.train.trainer import Trainer


def test_steps_of_training_use_it(config: TrainConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    compute = small_images.convolution_as_product
    shapes: list[tuple[int, ...]] = []

    def noted(*args: Any) -> Tensor:
        y = compute(*args)
        shapes.append(tuple(y.shape))
        return y

    monkeypatch.setattr(small_images, "convolution_as_product", noted)
    augment = dataclasses.replace(config.augment, size=64)
    run = dataclasses.replace(config.run, device="cpu")
    config = dataclasses.replace(config, arch="resnet18", augment=augment, run=run)
    batch = next(iter(batches(config, open_dataset(config.data), 0, 10)))
    Trainer(config, 5).train_step(batch, 10)
    assert [shape[1:] for shape in shapes] == [(512, 2, 2)] * 10  # five for each view
