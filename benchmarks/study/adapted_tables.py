"""Tables of the study of adapted weights, and the rule that chose the defaults of `.adapt`."""

import statistics
from collections.abc import Iterator, Sequence
from dataclasses import fields
from itertools import pairwise
from typing import Any

from benchmarks.study.adapted import ADAPT_GRID, ADAPTED, ORIGINAL, Care
from benchmarks.study.metrics import TASKS, number_of, percent
from benchmarks.study.records import RECORDS, Record, arms_of, pairs_of
from benchmarks.study.summary import difference_table, number_table, spread_table
from cassle_zoo.common.errors import DataError

ADAPTED_RECORDS = RECORDS / "adapted"
"""The published ones, which the tables in docs/adapt_tables.md are made from."""

GRID_TASKS = tuple(
    percent("validation", part, name, f"{part.replace('_', ' ')} {short}")
    for part in ("subcategory", "skin_tone", "vendor")
    for name, short in (("ridge_top1", "ridge"), ("knn_top1", "k-NN"))
)
"""Accuracies on validation images."""

GRID_R2 = percent("validation", "omega mean", "r2_single", "R² of ω")
CKA = percent("forgetting", "photographs", "cka", "CKA")
AGREEMENT = percent("forgetting", "photographs", "top1_agreement", "same top-1")
GRID_METRICS = (*GRID_TASKS, GRID_R2, CKA, AGREEMENT)

OMEGA = (
    *(
        percent("equivariance", part, "r2_single", f"R² {part}")
        for part in ("crop", "color", "mean")
    ),
    percent("equivariance", "color_diff", "r2_pair", "R² color_diff, view and image"),
)
ARM_METRICS = (*TASKS, *OMEGA, CKA, AGREEMENT)

STANDARD_ERROR = 0.008
"""Of `gained`: that of the mean of three accuracies of about 65, 65 and 84 % of 1,273, 665 and
1,742 validation images, assuming that ridge and k-NN err together."""

LEAST_CKA = 0.5


def gained(record: Record) -> float:
    """Return the mean of the six accuracies on validation images, in [0, 1]."""
    return statistics.fmean(number_of(record, metric) for metric in GRID_TASKS)


def careful(records: Sequence[Record]) -> Record:
    """Return the record of the grid whose settings the recipes `.adapt` use.

    Only those count whose CKA is at least `LEAST_CKA`, if there are any. Of those whose
    :func:`gained` is within one standard error of the best, it is the one with the highest CKA.

    Args:
        records: Records, among them those of the grid.

    Raises:
        DataError: If there are none.
    """
    grid = _grid(records)
    if not grid:
        raise DataError("there are no records of the grid; `python -m benchmarks.study adapted`.")
    kept = [record for record in grid if number_of(record, CKA) >= LEAST_CKA] or grid
    best = max(map(gained, kept))
    near = [record for record in kept if gained(record) >= best - STANDARD_ERROR]
    return max(near, key=lambda record: number_of(record, CKA))


def grid_table(records: Sequence[Record]) -> str:
    """Return the grid as a table: settings, then what was measured; the chosen row is bold."""
    chosen = careful(records)
    names = [field.name for field in fields(Care)]
    rows = [["the weights as they were", *[""] * (len(names) - 1), *_cells(_original(records))]]
    for record in sorted(_grid(records), key=gained):
        optim: dict[str, Any] = record.settings["optim"]
        cells = [f"{optim[name]}" for name in names]
        if record is chosen:
            cells = [f"**{cell}**" for cell in cells]
        rows.append([*cells, *_cells(record)])
    titles = [name.replace("_", "-") for name in names]
    return number_table([*titles, *(metric.title for metric in GRID_METRICS), "mean"], rows)


def arms_table(records: Sequence[Record]) -> str:
    """Return the original weights and the adapted arms on test images, over seeds."""
    found = [*_of(records, ORIGINAL), *_of(records, ADAPTED)]
    return spread_table(found, [*arms_of(found, ORIGINAL), *arms_of(found, ADAPTED)], ARM_METRICS)


def differences_table(records: Sequence[Record]) -> str:
    """Return how the adapted arms differ from their baseline, and CASSLE from AugSelf."""
    found = list(_of(records, ADAPTED))
    pairs = pairs_of(found, ADAPTED)
    against_baseline = [first for first, _ in pairs]
    return difference_table(found, [*pairs, *pairwise(against_baseline)], ARM_METRICS)


def _cells(record: Record) -> list[str]:
    return [f"{100 * number_of(record, m):.1f}" for m in GRID_METRICS] + [
        f"{100 * gained(record):.1f}"
    ]


def _original(records: Sequence[Record]) -> Record:
    """Return the record of the original weights, at the size of the grid."""
    for record in _of(records, ADAPT_GRID):
        if not _is_trained(record):
            return record
    raise DataError("there is no record of the weights as they were, at the size of the grid.")


def _grid(records: Sequence[Record]) -> list[Record]:
    return [record for record in _of(records, ADAPT_GRID) if _is_trained(record)]


def _of(records: Sequence[Record], group: str) -> Iterator[Record]:
    return (record for record in records if record.group == group and not record.error)


def _is_trained(record: Record) -> bool:
    return "optim" in record.settings
