"""Training from a JPEG folder, end to end, beside lightly and the bare forward-backward."""

import itertools
import time
from collections.abc import Callable, Iterator
from typing import Any

import timm
import torch

from benchmarks.speed.timing import Check, Row, medians, speeds, take_turns, times_faster
from benchmarks.speed.workloads import (
    BATCH,
    COUNTED,
    SIZE,
    WORKERS,
    config,
    photographs,
    timed_steps,
    with_precision,
)
from cassle_zoo.train.data.datasets import open_dataset
from cassle_zoo.train.data.loading import Crops, MapViews, batches, steps_per_epoch
from cassle_zoo.train.trainer import Trainer


def measure(rounds: int) -> Row:
    """Measure whole turns of training, each with its own data loader."""
    with photographs() as folder:
        run = config(folder)
        contestants: dict[str, Callable[[], float | None]] = {
            "fp32": _ours(with_precision(run, "fp32")),
            "bf16": _ours(with_precision(run, "bf16")),
            "lightly": _lightly(folder),
            "bare fp32": _bare("fp32"),
            "bare bf16": _bare("bf16"),
        }
        seconds = take_turns(contestants, rounds, warm=0)  # every turn warms up itself
        decoding = _decoding(run) * COUNTED
    middle = medians(seconds)
    fractions = {
        name: (middle[f"bare {name}"] + decoding) / middle[name] for name in ("fp32", "bf16")
    }
    checks = [
        Check(f"{name} / lightly", times_faster(seconds, name, "lightly"), at_least=goal)
        for name, goal in (("fp32", 1.35), ("bf16", 2.3))
    ]
    checks += [
        Check(f"{name}: fraction of bare step + decoding", fraction, at_least=0.95)
        for name, fraction in fractions.items()
    ]
    return Row(
        title="SimCLR step, resnet18, 96 px, batch 64, two views, JPEG folder, end to end",
        amounts=speeds(seconds, BATCH * COUNTED),
        unit="img/s",
        checks=checks,
        seconds=seconds,
    )


def _ours(config: Any) -> Callable[[], float]:
    dataset = open_dataset(config.data)
    trainer = Trainer(config, steps_per_epoch(dataset, BATCH))

    def turn() -> float:
        loader = batches(config, dataset, trainer.step, trainer.step + 1000)
        return timed_steps(trainer.train_step(batch, 10**6) for batch in loader)

    return turn


def _lightly(folder: str) -> Callable[[], float]:
    from lightly.data import LightlyDataset
    from lightly.loss import NTXentLoss
    from lightly.models.modules import SimCLRProjectionHead
    from lightly.transforms.simclr_transform import SimCLRTransform

    transform = SimCLRTransform(input_size=SIZE, cj_strength=0.5, min_scale=0.2)
    dataset = LightlyDataset(folder, transform=transform)
    backbone = timm.create_model("resnet18", num_classes=0)
    head = SimCLRProjectionHead(512, 512, 128)
    loss_of = NTXentLoss(temperature=0.2)
    parameters = [*backbone.parameters(), *head.parameters()]
    optimizer = torch.optim.SGD(parameters, lr=0.01, momentum=0.9, weight_decay=5e-4)

    def steps() -> Iterator[None]:
        loader = torch.utils.data.DataLoader(
            dataset, BATCH, shuffle=True, drop_last=True, num_workers=WORKERS
        )
        for (first, second), *_ in itertools.chain.from_iterable(itertools.repeat(loader)):
            loss = loss_of(head(backbone(first)), head(backbone(second)))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            yield

    return lambda: timed_steps(steps())


def _bare(precision: str) -> Callable[[], None]:
    """Return forward and backward of two views through the backbone, and nothing else."""
    model = timm.create_model("resnet18", num_classes=0).to(memory_format=torch.channels_last)
    images = torch.randn(BATCH, 3, SIZE, SIZE).to(memory_format=torch.channels_last)

    def turn() -> None:
        for _ in range(COUNTED):
            with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
                loss = model(images).mean() + model(images).mean()
            model.zero_grad(set_to_none=True)
            loss.backward()

    turn()
    return turn


def _decoding(config: Any) -> float:
    """Return the seconds that decoding and cropping take per step when all cores work on it."""
    views = MapViews(open_dataset(config.data), Crops(config.augment, 0))
    start = time.process_time()
    for sample in range(BATCH):
        views[0, sample]
    return (time.process_time() - start) / torch.get_num_threads()
