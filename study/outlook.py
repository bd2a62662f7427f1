"""How long the rest of the study will take, by what is done."""

from collections.abc import Mapping, Sequence
from typing import Any

from cassle_zoo.study.design import Job
from cassle_zoo.study.records import Record, settings_of


def hours_left(jobs: Sequence[Job], records: Sequence[Record]) -> float:
    """Return how many hours one process will take.

    An epoch takes as long as it did in trainings of the same kind (network, method and
    conditioning), or in all of them if there are none; an evaluation as long as the mean.

    Args:
        jobs: What is left.
        records: What is done; at least one.
    """
    evaluation = sum(record.seconds["evaluate"] for record in records) / len(records)
    trained = [record for record in records if "optim" in record.settings]
    seconds = 0.0
    for job in jobs:
        seconds += evaluation
        if not job.arm.source and trained:
            kind = _kind(settings_of(job))
            alike = [record for record in trained if _kind(record.settings) == kind] or trained
            seconds += job.arm.config.optim.epochs * _seconds_of_an_epoch(alike)
    return seconds / 3600


def _kind(settings: Mapping[str, Any]) -> tuple[str, ...]:
    """Return what decides about the time of an epoch."""
    return settings["arch"], settings["method"]["name"], settings["conditioning"]["how"]


def _seconds_of_an_epoch(records: Sequence[Record]) -> float:
    epochs = sum(record.settings["optim"]["epochs"] for record in records)
    return float(sum(record.seconds["train"] for record in records)) / epochs
