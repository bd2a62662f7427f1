"""Run by torchrun in the tests: a tiny run that is killed, or slow enough to be stopped."""

import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

from several_processes import configuration  # type: ignore[import-not-found]

from cassle_zoo.train.loop import train
from cassle_zoo.train.trainer import Trainer

KILLED_AT = 7
PAUSE = 0.7  # seconds


def main(images: str, out: str, fault: str) -> None:
    """Train ten steps (and epochs) with a checkpoint after each.

    `fault`: process 1 is `killed` the first time, all processes are `slow`, or `none`.
    """
    first_time = os.environ["TORCHELASTIC_RESTART_COUNT"] == "0"
    train_step = Trainer.train_step

    def step(self: Trainer, *args: Any) -> dict[str, float]:
        if (
            fault == "killed"
            and first_time
            and os.environ["RANK"] == "1"
            and self.step == KILLED_AT
        ):
            os.kill(os.getpid(), signal.SIGKILL)
        if fault == "slow":
            time.sleep(PAUSE)
        return train_step(self, *args)

    setattr(Trainer, "train_step", step)  # noqa: B010  an assignment that mypy accepts
    train(configuration("mocov2", images), Path(out))


if __name__ == "__main__":
    main(*sys.argv[1:])
