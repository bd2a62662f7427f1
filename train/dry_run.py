"""The cost of a run, measured on a few of its real steps."""

import dataclasses
import os
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from cassle_zoo.augmentation.augment import draw_uniforms
from cassle_zoo.common.devices import peak_bytes
from cassle_zoo.common.errors import DataError
from cassle_zoo.common.faults import translate_errors
from cassle_zoo.common.workers import usable_cores
from cassle_zoo.specs import DATASETS
from cassle_zoo.train.config import TrainConfig
from cassle_zoo.train.data.datasets import open_dataset
from cassle_zoo.train.data.loading import batches, steps_per_epoch
from cassle_zoo.train.data.streams import Sample
from cassle_zoo.train.distributed import process_group
from cassle_zoo.train.optim import frozen_steps
from cassle_zoo.train.run.faults import advice, less_memory
from cassle_zoo.train.trainer import Trainer

_TIMED_STEPS = 3


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What a run costs; of several processes (torchrun), each.

    Attributes:
        parameters: Parameter counts by part of the model; `trained` does not include the
            teacher's.
        steps_per_epoch: Optimiser steps in an epoch.
        steps: Optimiser steps of the run.
        peak_bytes: Peak memory of the measured steps, on the GPU or else of this process. Data
            workers need more on top.
        step_seconds: Time of a step, without waiting for data; with `optim.freeze_epochs`, of a
            step that trains the backbone.
        load_seconds: Time that the data workers take for a batch, or for the process's rows of it;
            `None` without data.
        seconds: Time of the run, without checkpoints and k-NN checks.
        device: Device of the measurement.
    """

    parameters: dict[str, int]
    steps_per_epoch: int
    steps: int
    peak_bytes: int
    step_seconds: float
    load_seconds: float | None
    seconds: float
    device: str

    def __str__(self) -> str:
        load = "not measured: no data given (--data)"
        if self.load_seconds is not None:
            load = f"{self.load_seconds:.3g} s to read and crop"
        return _table(
            [
                ("peak memory", f"{self.peak_bytes / 2**30:.2f} GiB ({self.device})"),
                ("a step", f"{self.step_seconds:.3g} s"),
                ("a batch", load),
                ("time", f"about {_duration(self.seconds)} at this speed"),
            ]
        )


def dry_run(config: TrainConfig, report: Callable[[str], None] = lambda _: None) -> Cost:
    """Do a few steps of a run, on its data if given, else on noise; write nothing.

    Under `torchrun` all processes do them together, as in training.

    Args:
        config: All settings. Without `data.root` the number of images is `data.samples`, or the
            known size of the dataset.
        report: Called in the first process with the counts as soon as the model is built, then
            after each step, since the first steps of a large model can take minutes, and with the
            cost.

    Raises:
        ConfigError: If the configuration cannot be trained.
        DataError: If there is no data and the number of images is unknown, or it is too small.
        NotEnoughMemoryError: If the memory of the machine or the GPU is exhausted.
    """
    size = config.optim.batch_size
    memory = (
        "A run needs more than there is: split each batch among more processes (torchrun), or "
        f"use {less_memory(size)}."
    )
    with (
        translate_errors(None, size, dataclasses.replace(advice(size), memory=memory)),
        process_group.init(config.run.device, config.run.timeout) as device,
    ):
        return _measured(config, device, report if process_group.rank() == 0 else lambda _: None)


def _measured(config: TrainConfig, device: torch.device, report: Callable[[str], None]) -> Cost:
    dataset = (
        open_dataset(config.data, config.augment.channels)
        if config.data.root
        else range(_images(config))
    )
    per_epoch = steps_per_epoch(dataset, config.optim.batch_size)
    total = config.optim.epochs * per_epoch
    trainer = Trainer(config, per_epoch, device)
    parameters = count_parameters(trainer)
    rows = [(f"{name} parameters", f"{number:,}") for name, number in parameters.items()]
    report(_table([*rows, ("steps", f"{total:,} ({per_epoch:,} per epoch)")]))
    count = 1 + _TIMED_STEPS
    # While the backbone is frozen, steps are cheap: no gradients, and no optimiser state for it.
    trainer.step = max(min(frozen_steps(per_epoch, config.optim), total - count), 0)
    load_seconds = None
    if config.data.root:
        load_seconds, samples = _load(config, dataset, min(count, total))
        cores = usable_cores() // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
        load_seconds /= max(1, min(config.data.workers, cores))
    else:
        samples = [_noise(config)] * count
    step_seconds = _time_steps(trainer, samples, total, report)
    waits = load_seconds or 0.0
    # Workers read while the step runs; without workers one waits for the other.
    each = max(step_seconds, waits) if config.data.workers else step_seconds + waits
    cost = Cost(
        parameters=parameters,
        steps_per_epoch=per_epoch,
        steps=total,
        peak_bytes=peak_bytes(trainer.device),
        step_seconds=step_seconds,
        load_seconds=load_seconds,
        seconds=each * total,
        device=str(trainer.device),
    )
    report(str(cost))
    return cost


def count_parameters(trainer: Trainer) -> dict[str, int]:
    """Count a method's parameters: backbone, projector, its encoder, other parts, trained."""
    method = trainer.method
    counts = {name: _count(child) for name, child in method.named_children()}
    encoder = _count(method.projector.encoder)
    parts = {
        "backbone": counts.pop("backbone"),
        "projector": counts.pop("projector") - encoder,
        "augmentation encoder": encoder,
        **counts,
    }
    trained = sum(p.numel() for group in method.param_groups() for p in group["params"])
    return {**parts, "trained": trained}


def _count(module: nn.Module | None) -> int:
    return 0 if module is None else sum(p.numel() for p in module.parameters())


def _images(config: TrainConfig) -> int:
    if config.data.samples is not None:
        return config.data.samples
    for name in (config.data.dataset, config.name.partition(".")[2]):
        if name in DATASETS:
            return DATASETS[name].images
    raise DataError(
        "the number of images is unknown: neither data.dataset nor the tag of the name "
        f"{config.name!r} is one of {', '.join(DATASETS)}; pass --data PATH, or --data.samples N."
    )


def _load(config: TrainConfig, dataset: Any, count: int) -> tuple[float, list[Sample]]:
    """Return the seconds one process needs for a batch, and `count` batches."""
    alone = dataclasses.replace(config, data=dataclasses.replace(config.data, workers=0))
    start = time.perf_counter()
    samples = list(batches(alone, dataset, 0, count))
    return (time.perf_counter() - start) / count, samples


def _noise(config: TrainConfig) -> Sample:
    rows = process_group.local_rows(config.optim.batch_size)
    batch, size, views = rows.stop - rows.start, config.augment.size, config.views
    generator = torch.Generator().manual_seed(config.run.seed)
    uniforms = draw_uniforms(batch * views.total, generator)

    def crops(count: int, side: int) -> Tensor:
        shape = (batch, count, config.augment.channels, side, side)
        return torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)

    return {
        "crops": crops(views.count, size),
        "local_crops": crops(views.local.count, views.local.size),
        "uniforms": uniforms.view(batch, views.total, -1),
        "source": torch.tensor([[size, size]]).expand(batch, 2),
        "bad": torch.full((batch,), -1),
    }


def _time_steps(
    trainer: Trainer, samples: list[Sample], total: int, report: Callable[[str], None]
) -> float:
    """Return the median seconds of a step, after one that warms up."""
    seconds: list[float] = []
    for number, sample in enumerate(samples, 1):
        start = time.perf_counter()
        trainer.train_step(sample, total)  # returning the loss waits for the device
        if trainer.device.type == "cuda":
            torch.cuda.synchronize(trainer.device)
        seconds.append(time.perf_counter() - start)
        report(f"step {number} of {len(samples)} took {seconds[-1]:.3g} s")
    return statistics.median_high(seconds[1:] or seconds)


def _table(rows: list[tuple[str, str]]) -> str:
    width = max(len(name) for name, _ in rows)
    return "\n".join(f"{name:<{width}}  {value}" for name, value in rows)


def _duration(seconds: float) -> str:
    minutes, days = seconds / 60, seconds / 86400
    if days >= 2:
        return f"{days:.1f} days"
    return f"{minutes / 60:.1f} hours" if minutes >= 120 else f"{minutes:.1f} minutes"
