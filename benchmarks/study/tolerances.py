"""Tolerances of `cassle-zoo reproduce`, from the spread over seeds in the study's records.

On one machine a training repeats bit for bit. Other processors and versions round differently, and
a training amplifies that until it is another sample of the same distribution, as another seed would
be. Two such samples differ by √2 standard deviations, which the study's main arms give: pooled
over 3 arms of 3 seeds, with 6 degrees of freedom. `T` times that covers all 17 numbers of a model
at once with 95 % probability.
"""

import math
import statistics
from collections.abc import Sequence
from pathlib import Path

from benchmarks.study.design import MAIN
from benchmarks.study.records import Record
from cassle_zoo.cli import reproduce

TOLERANCES = Path(reproduce.__file__).with_name(reproduce.TOLERANCES)
T = 4.8  # Student's t with 6 degrees of freedom: exceeded with probability 0.05 / 17
LEAST = 0.01


def seed_tolerances(records: Sequence[Record]) -> dict[str, dict[str, float]]:
    """Return by task and metric how far apart two trainings may be, at least `LEAST`."""
    samples: dict[tuple[str, str], dict[str, list[float]]] = {}
    for record in records:
        if record.group == MAIN and not record.error:
            for task, metrics in record.results["emoji64"].metrics.items():
                for metric, value in metrics.items():
                    by_arm = samples.setdefault((task, metric), {})
                    by_arm.setdefault(record.arm, []).append(value)
    found: dict[str, dict[str, float]] = {}
    for (task, metric), by_arm in samples.items():
        seeds = [sample for sample in by_arm.values() if len(sample) > 1]
        freedom = sum(len(sample) - 1 for sample in seeds)
        squares = sum((len(sample) - 1) * statistics.variance(sample) for sample in seeds)
        tolerance = T * math.sqrt(2 * squares / freedom) if freedom else 0.0
        found.setdefault(task, {})[metric] = max(round(tolerance, 6), LEAST)
    return found
