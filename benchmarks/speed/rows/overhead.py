"""Logging and checkpoints: their part of the training time, at the default intervals."""

import tempfile
from pathlib import Path

from benchmarks.speed.timing import Check, Row, medians, take_turns
from benchmarks.speed.workloads import BATCH, config, random_batch
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
