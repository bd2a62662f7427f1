"""Conditioning of the projector: the time that it adds to a training step."""

from benchmarks.speed.timing import Check, Row, speeds, take_turns, times_faster
from benchmarks.speed.workloads import BATCH, config, random_batch, training_step, with_precision
from cassle_zoo.train.methods import ConditioningConfig


def measure(rounds: int) -> Row:
    """Measure steps on a batch that is there already, with and without conditioning."""
    plain = config(conditioning=ConditioningConfig(mode="none", descriptors=()))
    batch = random_batch(BATCH)
    contestants = {
        f"{precision}{name}": training_step(with_precision(run, precision), batch)
        for precision in ("fp32", "bf16")
        for name, run in (("", config()), (" plain", plain))
    }
    seconds = take_turns(contestants, 5 * rounds)  # the difference is near the noise
    added = {p: 100 * (times_faster(seconds, f"{p} plain", p) - 1) for p in ("fp32", "bf16")}
    return Row(
        title="what conditioning adds to a step",
        amounts=speeds(seconds, BATCH),
        unit="img/s",
        checks=[Check(f"{p}: % more time", v, at_most=2) for p, v in added.items()],
        seconds=seconds,
    )
