import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from builders import image_folder

from cassle_zoo.augmentation.augment import AugmentConfig
from cassle_zoo.train.config import DataConfig, OptimConfig, RunConfig, TrainConfig
from cassle_zoo.train.trainer import Trainer

FaultAt = Callable[..., contextlib.AbstractContextManager[None]]


@pytest.fixture(scope="session")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """22 small images in two classes."""
    names = [f"class{index % 2}/{index:02d}.png" for index in range(22)]
    return image_folder(tmp_path_factory.mktemp("images"), names)


@pytest.fixture(scope="session")
def config(images: Path) -> TrainConfig:
    """A run of 2 epochs of 5 steps."""
    return TrainConfig(
        name="tiny",
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
    """Return a context in which a fault happens before a step; by default Ctrl-C."""

    @contextlib.contextmanager
    def fault_at(
        step: int, fault: Callable[[], Any] | BaseException | None = None
    ) -> Iterator[None]:
        train_step = Trainer.train_step

        def faulty(self: Trainer, *args: Any) -> dict[str, float]:
            if self.step == step:
                if fault is None or isinstance(fault, BaseException):
                    raise fault or KeyboardInterrupt
                fault()
            return train_step(self, *args)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Trainer, "train_step", faulty)
            yield

    return fault_at
