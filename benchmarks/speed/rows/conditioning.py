"""Conditioning of the projector: the time that it adds to a training step."""

from collections.abc import Callable
from typing import Any

from benchmarks.speed.timing import Check, Row, speeds, take_turns, times_faster
from benchmarks.speed.workloads import BATCH, config, random_batch, with_precision


def measure(rounds: int) -> Row:
    """Measure steps on a batch that is there already, with and without conditioning."""
    from cassle_zoo.train.methods import ConditioningConfig

    plain = config(conditioning=ConditioningConfig(mode="none", descriptors=()))
    batch = random_batch(BATCH)
    contestants: dict[str, Callable[[], Any]] = {}
    for precision in ("fp32", "bf16"):
        contestants[f"{precision}"] = _steps(with_precision(config(), precision), batch)
        contestants[f"{precision} plain"] = _steps(with_precision(plain, precision), batch)
    seconds = take_turns(contestants, 5 * rounds)  # the difference is near the noise
    added = {p: 100 * (times_faster(seconds, f"{p} plain", p) - 1) for p in ("fp32", "bf16")}
    return Row(
        title="what conditioning adds to a step",
        amounts=speeds(seconds, BATCH),
        unit="img/s",
        checks=[Check(name=f"{p}: % more time", value=v, at_most=2) for p, v in added.items()],
        seconds=seconds,
    )


def _steps(config: Any, batch: Any) -> Callable[[], Any]:
    from cassle_zoo.train.trainer import Trainer

    trainer = Trainer(config, per_epoch=100)

    return lambda: trainer.train_step(batch, 10**6)
