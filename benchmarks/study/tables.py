"""Tables of the study's page."""

from collections.abc import Sequence

from benchmarks.study.records import Record
from benchmarks.study.summary import (
    Metric,
    markdown_table,
    paired,
    show_difference,
    show_spread,
    spread,
    values,
)


def spread_table(
    records: Sequence[Record], arms: Sequence[str], metrics: Sequence[Metric], decimals: int = 1
) -> str:
    """Return a table of means and standard deviations: a row per arm, a column per metric."""
    rows = []
    for arm in arms:
        samples = [list(values(records, arm, metric).values()) for metric in metrics]
        cells = [show_spread(spread(s), decimals) if s else "no result" for s in samples]
        rows.append([arm, str(max(map(len, samples))), *cells])
    return markdown_table(["arm", "seeds", *(metric.title for metric in metrics)], rows)


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
    return markdown_table(["difference", *(metric.title for metric in metrics)], rows)
