"""How long the rest of the study will take, by what is done."""

from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.study.design import Job
from benchmarks.study.records import Record, settings_of


def hours_left(jobs: Sequence[Job], records: Sequence[Record]) -> float:
    """Return how many hours one process will take.

    An epoch takes as long as it did in trainings of the same kind (network, method and
    conditioning), or in all of them if there are none; an evaluation as long as the mean. A
    training with a record is done, whatever evaluation it lacks; those that failed are no measure.

    Args:
        jobs: What is left.
        records: What is done.
    """
    whole = [record for record in records if not record.error]
    evaluation = sum(record.seconds["evaluate"] for record in whole) / max(len(whole), 1)
    trained = [record for record in whole if "optim" in record.settings]
    recorded = {(record.arm, record.seed) for record in records}
    seconds = 0.0
    for job in jobs:
        seconds += evaluation
        if trained and not job.arm.source and (job.arm.name, job.seed) not in recorded:
            kind = _kind(settings_of(job))
            alike = [record for record in trained if _kind(record.settings) == kind] or trained
            seconds += job.arm.config.optim.epochs * _seconds_of_an_epoch(alike)
    return seconds / 3600


def _kind(settings: Mapping[str, Any]) -> tuple[str, ...]:
    """Return what decides about the time of an epoch."""
    return settings["arch"], settings["method"]["name"], settings["conditioning"]["mode"]


def _seconds_of_an_epoch(records: Sequence[Record]) -> float:
    epochs = sum(record.settings["optim"]["epochs"] for record in records)
    return sum(record.seconds["train"] for record in records) / float(epochs)
