"""A training step on a GPU beside the bare forward-backward; augmentation; memory."""

import statistics
from collections.abc import Callable
from functools import partial
from typing import Any

import torch

from benchmarks.speed.timing import Check, Row, take_turns
from benchmarks.speed.workloads import config, random_batch
from cassle_zoo.augmentation.augment import AugmentConfig
from cassle_zoo.train.config import OptimConfig
from cassle_zoo.train.data.views import make_views
from cassle_zoo.train.trainer import Trainer

BATCH, SIZE = 256, 224
ARCHITECTURES = ("resnet50", "vit_small")


def measure(rounds: int) -> Row:
    """Measure with CUDA events; without a GPU the row says so."""
    title = f"SimCLR step on a GPU, {SIZE} px, batch {BATCH}, bf16, channels_last"
    if not torch.cuda.is_available():
        return Row(title=title, note="not measured: this machine has no CUDA device")
    amounts: dict[str, float] = {}
    checks: list[Check] = []
    seconds: dict[str, list[float]] = {}
    for arch in ARCHITECTURES:
        times, peak = _times(arch, 4 * rounds)
        seconds |= {f"{arch}: {part}": values for part, values in times.items()}
        step, bare, views = (statistics.median(times[p]) for p in ("step", "bare", "views"))
        amounts |= {arch: BATCH / step, f"{arch} bare": BATCH / bare}
        checks += [
            Check(f"{arch}: bare / step", bare / step, at_least=0.9),
            Check(f"{arch}: augmentation, % of the step", 100 * views / step, at_most=5),
            Check(f"{arch}: augmentation reads and writes, GB/s", _least_traffic() / views),
            Check(f"{arch}: peak memory, GiB", peak),
        ]
        torch.cuda.empty_cache()
    checks.append(Check("the card copies, GB/s", _copy_bandwidth()))
    return Row(
        title=title,
        amounts=amounts,
        unit="img/s",
        checks=checks,
        seconds=seconds,
        note=torch.cuda.get_device_name(),
    )


def _times(arch: str, rounds: int) -> tuple[dict[str, list[float]], float]:
    """Return the seconds of whole steps, of bare ones and of augmentation; peak memory in GiB."""
    optim = OptimConfig(batch_size=BATCH, epochs=1000, base_lr=0)
    run = config(arch=arch, augment=AugmentConfig(size=SIZE), optim=optim)
    trainer = Trainer(run, per_epoch=100, device=torch.device("cuda"))
    batch = {k: v.pin_memory() for k, v in random_batch(BATCH, SIZE).items()}
    layout = trainer.method.projector.layout

    def views() -> Any:
        return make_views(batch, run.augment, layout, trainer.device, torch.channels_last)

    images = views().images

    def bare() -> None:
        with torch.autocast("cuda", torch.bfloat16):
            loss = sum(trainer.method.backbone(view).mean() for view in images)
        trainer.method.zero_grad(set_to_none=True)
        loss.backward()

    parts = {"step": lambda: trainer.train_step(batch, 10**6), "bare": bare, "views": views}
    torch.cuda.reset_peak_memory_stats()
    turns = {name: partial(_on_gpu, part) for name, part in parts.items()}
    times = take_turns(turns, rounds, warm=3)
    return times, torch.cuda.max_memory_allocated() / 2**30


def _on_gpu(work: Callable[[], Any]) -> float:
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize()
    start.record()
    work()
    end.record()
    torch.cuda.synchronize()
    return float(start.elapsed_time(end)) / 1000


def _least_traffic() -> float:
    """Return the least memory traffic of augmenting two views, in gigabytes."""
    values = 2 * BATCH * 3 * SIZE * SIZE
    return values * (1 + 4) / 1e9  # uint8 is read, float32 written


def _copy_bandwidth() -> float:
    """Return the gigabytes per second that a copy reads and writes."""
    source = torch.empty(2**28, device="cuda")
    target = torch.empty_like(source)
    times = [_on_gpu(lambda: target.copy_(source)) for _ in range(10)]
    return 2 * source.numel() * 4 / 1e9 / statistics.median(times)
