"""Cost of the trainer's options: all off beside a step written out, each on, and the trackers.

All off is compared by processor time, back to back with a step written out, to resolve differences
below one percent: the interval of the median shows whether it does.
"""

import importlib.util
import itertools
import os
import statistics
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch

from benchmarks.speed.timing import (
    Check,
    Row,
    compare,
    median_interval,
    medians,
    take_turns,
    times_faster,
)
from benchmarks.speed.workloads import BATCH, config, random_batch
from cassle_zoo.accel.small_images import (
    small_attention_as_products,
    small_convolutions_as_products,
)
from cassle_zoo.train.config import OptimConfig
from cassle_zoo.train.data.views import make_views
from cassle_zoo.train.optim import set_learning_rate
from cassle_zoo.train.run.trackers import TRACKERS, open_tracker
from cassle_zoo.train.trainer import Trainer

OPTIONS: dict[str, dict[str, Any]] = {
    "accumulate 2": {"accumulate": 2},
    "clip_grad": {"clip_grad": 1.0},
    "ema_decay": {"ema_decay": 0.999},
}
PAIRS = 4  # of steps per round
_PACKAGES = {"wandb": ("wandb",), "mlflow": ("mlflow", "sqlalchemy"), "trackio": ("trackio",)}
_LOGGED = 20  # entries of a tracker per turn


def measure(rounds: int) -> Row:
    """Measure steps in turns, and the time in this process that a tracker takes per log entry."""
    batch, run = random_batch(BATCH), config()
    plain = Trainer(run, per_epoch=100)
    written_out, off = compare(
        partial(_written_out, plain, batch), partial(plain.train_step, batch, 10**6), PAIRS * rounds
    )
    turns: dict[str, Callable[[], object]] = {"all off": partial(plain.train_step, batch, 10**6)}
    for name, options in OPTIONS.items():
        optim = OptimConfig(batch_size=BATCH, epochs=1000, **options)
        turns[name] = partial(Trainer(config(optim=optim), 100).train_step, batch, 10**6)
    values = plain.train_step(batch, 10**6)
    with tempfile.TemporaryDirectory() as out:
        os.environ |= {
            "WANDB_MODE": "offline",
            "WANDB_SILENT": "true",
            "MLFLOW_TRACKING_URI": f"sqlite:///{out}/mlflow.db",
            "TRACKIO_DIR": f"{out}/trackio",
        }
        there = [name for name in TRACKERS if all(map(importlib.util.find_spec, _PACKAGES[name]))]
        trackers = {name: open_tracker(name, run, Path(out)) for name in there}
        steps = itertools.count(1)

        def log(name: str) -> None:
            for _ in range(_LOGGED):
                trackers[name].log(next(steps), values)

        seconds = take_turns(turns, rounds)
        seconds |= take_turns({name: partial(log, name) for name in there}, 2 * rounds)
        for tracker in trackers.values():
            tracker.close(True)
    step = medians(seconds)["all off"]
    more = [100 * (ours / theirs - 1) for ours, theirs in zip(off, written_out, strict=True)]
    low, high = median_interval(more)
    checks = [
        Check("all off: % more than written out", statistics.median(more), at_most=1),
        Check("at least, with 95 % confidence", low),
        Check("at most, with 95 % confidence", high),
    ]
    checks += [
        Check(f"{name} / all off, time", 1 / times_faster(seconds, name, "all off"))
        for name in OPTIONS
    ]
    missing = [name for name in TRACKERS if name not in there]
    checks += [
        Check(
            f"{name}: % of the time of training",
            100 * statistics.median(seconds[name]) / _LOGGED / (run.run.log_every * step),
            at_most=1,
        )
        for name in there
    ]
    return Row(
        title=f"a step's options, and trackers that get numbers every {run.run.log_every} steps",
        amounts=medians(seconds),
        checks=checks,
        seconds=seconds | {"written out (processor)": written_out, "all off (processor)": off},
        note=f"a tracker's seconds are of {_LOGGED} entries"
        + (f"; not installed: {', '.join(missing)}" if missing else ""),
    )


def _written_out(trainer: Trainer, batch: dict[str, Any]) -> dict[str, float]:
    """Do a step of a run in which nothing is set."""
    run, method, device = trainer.config, trainer.method, trainer.device
    dtype = torch.bfloat16 if trainer._dtype is not None else None
    views = make_views(batch, run.augment, method.projector.layout, device, torch.channels_last)
    set_learning_rate(trainer.optimizer, trainer.step, trainer.per_epoch, run.optim)
    with (
        torch.autocast(device.type, dtype, enabled=dtype is not None),
        small_attention_as_products(device, dtype, run.augment.size),
        small_convolutions_as_products(device),
    ):
        loss, logs = method(views)
    values = {name: float(value.detach()) for name, value in {"loss": loss, **logs}.items()}
    trainer.optimizer.zero_grad(set_to_none=True)
    loss.backward()
    trainer.optimizer.step()
    trainer.step += 1
    method.after_step(trainer.step / 10**6)
    return values
