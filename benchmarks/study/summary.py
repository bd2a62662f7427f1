"""Summaries of recorded numbers: means, spreads and paired differences, and tables of them."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from benchmarks.study.metrics import Metric, number_of, values
from benchmarks.study.records import Record, course_of
from cassle_zoo.common.markdown import table
from cassle_zoo.eval.statistics import LEVEL, mean_of_runs, t_below

_ROUNDING = 1e-9


@dataclass(frozen=True, kw_only=True)
class Spread:
    """Mean and spread over seeds.

    Attributes:
        mean: Mean of all values.
        std: Sample standard deviation; None for a single value.
    """

    mean: float
    std: float | None


@dataclass(frozen=True, kw_only=True)
class Difference:
    """Mean of paired differences over seeds.

    Attributes:
        mean: Mean of the differences.
        half_width: Half the width of the 95 % t interval around the mean; None for a single pair,
            and for equal differences, since counts of few images may agree by chance.
        p: Two-sided p-value of the t test that the mean is 0; None in the same cases.
    """

    mean: float
    half_width: float | None
    p: float | None

    @property
    def sign(self) -> int:
        """1 or -1 if the interval lies on one side of 0; else 0."""
        if self.half_width is None or abs(self.mean) <= self.half_width:
            return 0
        return 1 if self.mean > 0 else -1


def spread(sample: Sequence[float]) -> Spread:
    """Summarise values, one per seed; at least one."""
    std = statistics.stdev(sample) if len(sample) > 1 else None
    return Spread(mean=statistics.fmean(sample), std=std)


def paired(first: Mapping[int, float], second: Mapping[int, float]) -> Difference | None:
    """Return first minus second, paired by seed; None if they share no seed.

    Args:
        first: Values by seed.
        second: Values by seed; seeds that only one of them has are left out.
    """
    differences = [first[seed] - second[seed] for seed in sorted(first.keys() & second.keys())]
    if not differences:
        return None
    mean = statistics.fmean(differences)
    if max(differences) - min(differences) <= _ROUNDING * max(1.0, abs(mean)):
        return Difference(mean=mean, half_width=None, p=None)
    found = mean_of_runs(differences)
    p = 2 * (1 - t_below(abs(mean) / found.error, len(differences) - 1))
    return Difference(mean=mean, half_width=found.high - mean, p=p)


def holm(found: Sequence[Difference | None]) -> list[int]:
    """Return the signs of the differences that are not 0, as a family (Holm, 1979).

    With 95 % probability none of them is wrong.

    Args:
        found: The family; those without a p-value have sign 0 and do not count.
    """
    signs = [0] * len(found)
    tested = sorted((d.p, i) for i, d in enumerate(found) if d is not None and d.p is not None)
    for rank, (p, index) in enumerate(tested):
        if p > (1 - LEVEL) / (len(tested) - rank):
            break
        difference = found[index]
        assert difference is not None
        signs[index] = 1 if difference.mean > 0 else -1
    return signs


def show_spread(found: Spread, decimals: int = 1) -> str:
    """Write `mean ± standard deviation`, or the only value."""
    text = f"{found.mean:z.{decimals}f}"
    return text if found.std is None else f"{text} ± {found.std:.{decimals}f}"


def show_difference(found: Difference, decimals: int = 1) -> str:
    """Write `mean [low, high]`, bold if the interval excludes 0; or the only difference."""
    mean = f"{found.mean:+z.{decimals}f}"
    if found.half_width is None:
        return mean
    low, high = found.mean - found.half_width, found.mean + found.half_width
    text = f"{mean} [{low:+z.{decimals}f}, {high:+z.{decimals}f}]"
    return f"**{text}**" if found.sign else text


def spread_table(
    records: Sequence[Record], arms: Sequence[str], metrics: Sequence[Metric], decimals: int = 1
) -> str:
    """Return a table of means and standard deviations: a row per arm, a column per metric."""
    rows = []
    for arm in arms:
        samples = [list(values(records, arm, metric).values()) for metric in metrics]
        cells = [show_spread(spread(s), decimals) if s else "no result" for s in samples]
        rows.append([arm, str(max(map(len, samples))), *cells])
    return number_table(["arm", "seeds", *(metric.title for metric in metrics)], rows)


def course_table(records: Sequence[Record], metrics: Sequence[Metric]) -> str:
    """Return a table of means over seeds while arms train: a row per arm and epoch.

    Args:
        records: Those without a course are left out.
        metrics: Of the evaluations in the course.
    """
    by_arm: dict[str, dict[int, list[Record]]] = {}
    for record in records:
        for epoch, found in course_of(record).items():
            by_arm.setdefault(record.arm, {}).setdefault(epoch, []).append(found)
    rows = [
        [
            *(arm, str(epoch), str(len(found))),
            *(show_spread(spread([m.scale * number_of(r, m) for r in found])) for m in metrics),
        ]
        for arm, by_epoch in by_arm.items()
        for epoch, found in sorted(by_epoch.items())
    ]
    return number_table(["arm", "epoch", "seeds", *(metric.title for metric in metrics)], rows)


def difference_table(
    records: Sequence[Record],
    pairs: Sequence[tuple[str, str]],
    metrics: Sequence[Metric],
    decimals: int = 1,
) -> str:
    """Return a table of paired differences: a row per pair of arms, a column per metric."""
    rows = []
    for first, second in pairs:
        cells = []
        for metric in metrics:
            found = paired(values(records, first, metric), values(records, second, metric))
            cells.append("-" if found is None else show_difference(found, decimals))
        rows.append([f"{first} - {second}", *cells])
    return number_table(["difference", *(metric.title for metric in metrics)], rows)


def number_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table whose columns, except the first, are aligned right."""
    return table(header, rows, right=range(1, len(header)))
