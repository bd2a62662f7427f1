"""Formatting of metrics, and results side by side in a Markdown table."""

from collections.abc import Sequence

from cassle_zoo.common.errors import ConfigError
from cassle_zoo.common.markdown import inline, table
from cassle_zoo.records import Result

_FRACTIONS = ("top1", "top5", "mean_per_class", "accuracy", "recall", "map", "error", "ap50")
_HIGHER = ("r2", "mrr", "auc", "correlation")
_LOWER = ("error", "loss", "mse", "mae")
_NEITHER = ("std", "ci95")
"""Of the spread of another metric."""


def is_fraction(metric: str) -> bool:
    """Return whether a metric is a fraction of 1, to be shown in percent."""
    return any(part in metric.lower() for part in _FRACTIONS)


def direction(metric: str) -> int:
    """Return 1 if a higher metric is better, -1 if a lower one is, 0 if neither."""
    name = metric.lower()
    if name.endswith(_NEITHER):
        return 0
    if any(part in name for part in _LOWER):
        return -1
    return int(is_fraction(metric) or any(part in name for part in _HIGHER))


def format_value(metric: str, value: float | None) -> str:
    """Format a value: percent with one decimal, or four significant digits."""
    if value is None:
        return "-"
    return f"{100 * value:.1f}" if is_fraction(metric) else f"{value:.4g}"


def metric_keys(results: Sequence[Result]) -> list[tuple[str, str]]:
    """Return task and name of every metric of any of the results, in order."""
    return list(dict.fromkeys((t, m) for r in results for t in r.metrics for m in r.metrics[t]))


def format_table(results: Sequence[Result]) -> str:
    """Format results as a Markdown table: a row per metric, a column per model.

    Args:
        results: Results of one evaluation.

    Returns:
        The table, aligned, without a final newline; fractions are in percent.

    Raises:
        ConfigError: If there are no results.
    """
    if not results:
        raise ConfigError("there are no results to show.")
    rows = [
        [
            inline(f"{task} {metric}"),
            *(format_value(metric, r.metrics.get(task, {}).get(metric)) for r in results),
        ]
        for task, metric in metric_keys(results)
    ]
    header = ["", *(inline(result.model.name) for result in results)]
    return table(header, rows, right=range(1, len(header)), align=True)
