"""Evidence in a comparison: intervals, paired differences, and marks."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from cassle_zoo.common.errors import DataError
from cassle_zoo.eval import statistics
from cassle_zoo.eval.report.compare import Comparison, Entry, runs_of_models
from cassle_zoo.eval.report.glossary import describe
from cassle_zoo.eval.scores import Scores, Unit
from cassle_zoo.eval.statistics import Interval, Statistic
from cassle_zoo.records import Result

Mark = Literal["", "best", "tied"]

_SEED = 0  # of the resamples: a page is always the same


@dataclass(frozen=True, kw_only=True, eq=False)
class Column:
    """A model of a comparison: one result, or several runs.

    Attributes:
        label: Its name on the page.
        entries: Its results.
    """

    label: str
    entries: tuple[Entry, ...]

    @property
    def is_baseline(self) -> bool:
        """Whether nothing was learned."""
        return self.entries[0].result.is_baseline

    def values(self, task: str, metric: str) -> list[float]:
        """Return the metric of every run that has it."""
        found = (entry.result.metrics.get(task, {}).get(metric) for entry in self.entries)
        return [value for value in found if value is not None]

    def scores(self, task: str, metric: str) -> Scores | None:
        """Return the scores that the metric of a single run is computed from."""
        file = self.entries[0].scores
        if len(self.entries) > 1 or file is None:
            return None
        return next(
            (own for own in file.scores if own.task == task and metric in own.metrics), None
        )


@dataclass(frozen=True, kw_only=True)
class Cell:
    """A metric of a model.

    Attributes:
        value: Its value, the mean of several runs; None if it was not measured.
        interval: Its 95 % interval; None where none can honestly be given.
        runs: Number of runs.
        count: Number of images, queries or episodes; None if not recorded, and of several runs.
        mark: `best` if better than all others beyond chance; `tied` if it cannot be told from the
            best value, and for the best value if another cannot be told from it.
    """

    value: float | None
    interval: Interval | None = None
    runs: int = 1
    count: int | None = None
    mark: Mark = ""


@dataclass(frozen=True, kw_only=True)
class Difference:
    """The model with the best value against another one.

    Attributes:
        other: Place of the other model among the columns.
        interval: Of the best value minus the other; all of a row hold together at 95 %.
        p: Two-sided p-value of a paired test; None for means of runs.
        only_best: How many images only the best gets right; None if scores are not 0 and 1.
        only_other: How many only the other one gets right.
        level: Confidence level of this interval alone.
    """

    other: int
    interval: Interval
    p: float | None = None
    only_best: int | None = None
    only_other: int | None = None
    level: float = statistics.LEVEL

    @property
    def is_sure(self) -> bool:
        """Whether interval and test both say that it is not chance.

        If a few images differ, all in favour of one model, a bootstrap never draws 0.
        """
        return self.interval.excludes_zero and (self.p is None or self.p < 1 - self.level)


@dataclass(frozen=True, kw_only=True)
class Row:
    """A metric of all models.

    Attributes:
        task: The sub-task.
        metric: The metric.
        cells: One per column.
        unit: What the cells count.
        best: Place of the best value; None if neither way is better or there is only one.
        differences: Of the best from every other that it can be compared with.
        detectable: Smallest true difference between the best two that would be found in four of
            five such test sets, or for a single model, between it and another one on images of
            its own; None if unknown.
        level: Confidence level of each difference.
    """

    task: str
    metric: str
    cells: tuple[Cell, ...]
    unit: Unit = "image"
    best: int | None = None
    differences: tuple[Difference, ...] = ()
    detectable: float | None = None
    level: float = statistics.LEVEL

    @property
    def counts(self) -> list[int]:
        """The numbers of images, queries or episodes that cells have, ascending; mostly one."""
        return sorted({cell.count for cell in self.cells if cell.count is not None})

    @property
    def counted(self) -> str:
        """How many images, queries or episodes there are, in words; empty if not recorded."""
        plural = "queries" if self.unit == "query" else f"{self.unit}s"
        return f"{' or '.join(f'{n:,}' for n in self.counts)} {plural}" if self.counts else ""

    @property
    def is_told_apart(self) -> bool:
        """Whether the best is better than every other one beyond chance."""
        return any(cell.mark == "best" for cell in self.cells)


def columns_of(comparison: Comparison) -> list[Column]:
    """Return the models of a comparison, the runs of each together."""
    found = []
    for entries in runs_of_models(comparison.entries):
        label = entries[0].label
        if len(entries) > 1:
            label = f"{entries[0].result.model.name} ({len(entries)} runs)"
        found.append(Column(label=label, entries=entries))
    labels = [column.label for column in found]
    return [
        Column(label=f"{own.label} [{place}]", entries=own.entries)
        if labels.count(own.label) > 1
        else own
        for place, own in enumerate(found, start=1)
    ]


def metric_keys(results: Sequence[Result]) -> list[tuple[str, str]]:
    """Return task and name of every metric of any of the results, in order."""
    return list(dict.fromkeys((t, m) for r in results for t in r.metrics for m in r.metrics[t]))


def evidence(comparison: Comparison, columns: Sequence[Column]) -> list[Row]:
    """Return every metric of a comparison with its intervals, differences and marks."""
    keys = metric_keys([entry.result for entry in comparison.entries])
    return [_row(task, metric, columns) for task, metric in keys]


def _row(task: str, metric: str, columns: Sequence[Column]) -> Row:
    values = [column.values(task, metric) for column in columns]
    means = [sum(own) / len(own) if own else None for own in values]
    scores = [column.scores(task, metric) for column in columns]
    sign = describe(metric).direction
    known = [place for place, mean in enumerate(means) if mean is not None]
    best = max(known, key=lambda p: sign * (means[p] or 0.0)) if sign and len(known) > 1 else None
    level = 1 - (1 - statistics.LEVEL) / max(1, len(known) - 1)

    intervals: list[Interval | None] = [None] * len(columns)
    differences: list[Difference] = []
    for place in known:
        if len(values[place]) > 1:
            found = statistics.mean_of_runs(values[place])
            intervals[place] = None if found.is_constant else found
            if best not in (None, place) and len(values[best]) > 1:
                gap = statistics.difference_of_runs(values[place], values[best], level=level)
                # Equal values in a few runs, as on few images, do not show that all would be.
                if not gap.is_constant:
                    differences.append(Difference(other=place, interval=gap))
    singles = [place for place in known if scores[place] is not None]
    for group in _paired(singles, scores, columns):
        differences += _of_images(group, scores, metric, best, level, intervals)
    differences.sort(key=lambda own: known.index(own.other))

    cells = [
        Cell(
            value=mean,
            interval=interval,
            runs=max(1, len(own)),
            count=None if scored is None else len(scored.rows),
            mark=_mark(place, best, differences, len(known)),
        )
        for place, (mean, interval, own, scored) in enumerate(
            zip(means, intervals, values, scores, strict=True)
        )
    ]
    return Row(
        task=task,
        metric=metric,
        cells=tuple(cells),
        unit=next((own.unit for own in scores if own is not None), "image"),
        best=best,
        differences=tuple(differences),
        detectable=_detectable(differences, intervals, means, sign, level),
        level=level,
    )


def _paired(
    places: Sequence[int], scores: Sequence[Scores | None], columns: Sequence[Column]
) -> list[list[int]]:
    """Group the places whose scores are of the same images, measured in the same way."""
    groups: list[list[int]] = []
    for place in places:
        own, result = scores[place], columns[place].entries[0].result
        for group in groups:
            first = scores[group[0]]
            other = columns[group[0]].entries[0].result
            if own and first and own.pairs_with(first) and result.is_comparable(other):
                group.append(place)
                break
        else:
            groups.append([place])
    return groups


def _of_images(
    group: Sequence[int],
    scores: Sequence[Scores | None],
    metric: str,
    best: int | None,
    level: float,
    intervals: list[Interval | None],
) -> list[Difference]:
    """Fill in the intervals of a group, and return its differences from the best if it has it."""
    parts = [own.columns(metric) for place in group if (own := scores[place]) is not None]
    table = torch.cat([columns for columns, _, _ in parts], dim=1)
    _, statistic, strata = parts[0]
    width = parts[0][0].shape[1]
    others = [place for place in group if place != best] if best in group else []

    def at(place: int) -> Statistic:
        start = group.index(place) * width
        return lambda means: statistic(means[..., start : start + width])

    def gap(place: int) -> Statistic:
        high, low = at(best if best is not None else place), at(place)
        return lambda means: high(means) - low(means)

    wanted = [(at(place), statistics.LEVEL) for place in group]
    wanted += [(gap(place), level) for place in others]
    try:
        found = statistics.bootstrap(
            table, wanted, strata=strata, generator=torch.Generator().manual_seed(_SEED)
        )
    except DataError:  # too few images, or classes of one
        return []
    for place, interval in zip(group, found, strict=False):
        # If all images score alike, for example all right, resampling says nothing.
        if not interval.is_constant:
            intervals[place] = interval
    differences = []
    for place, interval in zip(others, found[len(group) :], strict=True):
        first, second = (parts[group.index(own)][0] for own in (best or 0, place))
        binary = first.shape[1] == 1 and all(_is_binary(own) for own in (first, second))
        only_best = int((first > second).sum())
        only_other = int((first < second).sum())
        if binary and strata is None:
            p = statistics.mcnemar(only_best, only_other)
        else:
            p = statistics.permutation_test(
                second,
                first,
                statistic,
                strata=strata,
                generator=torch.Generator().manual_seed(_SEED),
            )
        differences.append(
            Difference(
                other=place,
                interval=interval,
                p=p,
                only_best=only_best if binary else None,
                only_other=only_other if binary else None,
                level=level,
            )
        )
    return differences


def _is_binary(values: Tensor) -> bool:
    return bool(((values == 0) | (values == 1)).all())


def _mark(place: int, best: int | None, differences: Sequence[Difference], known: int) -> Mark:
    if best is None:
        return ""
    if place == best:
        if not all(own.is_sure for own in differences):
            return "tied"
        return "best" if len(differences) == known - 1 else ""
    own = next((own for own in differences if own.other == place), None)
    return "tied" if own is not None and not own.is_sure else ""


def _detectable(
    differences: Sequence[Difference],
    intervals: Sequence[Interval | None],
    means: Sequence[float | None],
    sign: int,
    level: float,
) -> float | None:
    errors = {own.other: own.interval.error for own in differences if own.p is not None}
    if errors:
        second = max(errors, key=lambda place: sign * (means[place] or 0.0))
        if errors[second] > 0:
            return statistics.detectable_difference(errors[second], level=level)
    alone = [own.error for own in intervals if own is not None]
    if len(alone) == 1 and sign and alone[0] > 0:
        return statistics.detectable_difference(alone[0] * 2**0.5)
    return None
