"""Additional time of conditioning, and of logs and checkpoints at the default intervals."""

import tempfile
from pathlib import Path

from benchmarks.speed.timing import Check, Row, medians, speeds, take_turns, times_faster
from benchmarks.speed.workloads import BATCH, config, random_batch, training_step, with_precision
from cassle_zoo.train.methods import ConditioningConfig
from cassle_zoo.train.run.logs import Reporter
from cassle_zoo.train.trainer import Trainer


def measure(rounds: int) -> Row:
    """Measure a step, a log entry and a checkpoint, each by itself."""
    with tempfile.TemporaryDirectory() as out:
        run, batch = config(), random_batch(BATCH)
        trainer = Trainer(run, per_epoch=100)
        report = Reporter(run, Path(out), 0, 10**6)
        values = trainer.train_step(batch, 10**6)
        every = run.run.log_every

        def log() -> None:
            for _ in range(every):
                report.step(every, values)

        turns = {
            "step": lambda: trainer.train_step(batch, 10**6),
            "log": log,
            "checkpoint": lambda: trainer.save(Path(out)),
        }
        seconds = take_turns(turns, 2 * rounds)
        report.close()
    middle = medians(seconds)
    logs = middle["log"] / (every * middle["step"])
    saves = middle["checkpoint"] / (run.run.checkpoint_every * middle["step"])
    return Row(
        title=f"logging every {every} steps, checkpoints every {run.run.checkpoint_every}",
        amounts=middle,
        checks=[Check("% of the time of training", 100 * (logs + saves), at_most=1)],
        seconds=seconds,
    )


def measure_conditioning(rounds: int) -> Row:
    """Measure steps on a batch that is already loaded, with and without conditioning."""
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
