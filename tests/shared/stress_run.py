"""The run that the stress tests disturb; as a script, one process of it (started by torchrun)."""

import sys
from pathlib import Path

from cassle_zoo.augmentation.augment import AugmentConfig
from cassle_zoo.train.config import DataConfig, OptimConfig, RunConfig, TrainConfig
from cassle_zoo.train.methods.simclr import SimCLRConfig

CHECKPOINT_EVERY = 3


def configuration(
    images: Path, *, epochs: int, workers: int = 0, timeout: float = 600
) -> TrainConfig:
    """Epochs of five steps; the numbers of every step are in metrics.csv."""
    return TrainConfig(
        name="test_resnet_cassle_simclr.tiny",
        arch="test_resnet",
        method=SimCLRConfig(out_features=16),
        augment=AugmentConfig(size=32),
        data=DataConfig(root=str(images), workers=workers),
        optim=OptimConfig(epochs=epochs, batch_size=4, base_lr=1.0),
        run=RunConfig(
            device="cpu",
            precision="fp32",
            threads=1,
            timeout=timeout,
            checkpoint_every=CHECKPOINT_EVERY,
            log_every=1,
            monitor_every=0,
            loggers=("csv",),
        ),
    )


def main(images: str, out: str, epochs: str, timeout: str, pause: str) -> None:
    """Train, slowly enough to be disturbed."""
    import time

    from cassle_zoo.train.loop import train
    from cassle_zoo.train.trainer import Trainer

    train_step = Trainer.train_step

    def slow_step(self: Trainer, *args: object) -> dict[str, float]:
        time.sleep(float(pause))
        return train_step(self, *args)  # type: ignore[arg-type]

    Trainer.train_step = slow_step  # type: ignore[method-assign, assignment]
    train(configuration(Path(images), epochs=int(epochs), timeout=float(timeout)), Path(out))


if __name__ == "__main__":
    main(*sys.argv[1:])
