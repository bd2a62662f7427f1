"""Results side by side, as a Markdown table."""

from collections.abc import Sequence

from cassle_zoo.common.errors import ConfigError
from cassle_zoo.records import Result

_SHARES = ("top1", "top5", "mean_per_class", "accuracy", "recall", "map", "error", "ap50")


def format_table(results: Sequence[Result]) -> str:
    """Lay results out as a Markdown table: a row per number, a column per model.

    Args:
        results: Results of one evaluation.

    Returns:
        The table, aligned, without a final newline; shares of 1 are in percent.

    Raises:
        ConfigError: If there are no results.
    """
    if not results:
        raise ConfigError("there are no results to show.")
    keys = list(dict.fromkeys((t, m) for r in results for t in r.metrics for m in r.metrics[t]))
    rows = [["", *(str(result.model["name"]) for result in results)]]
    rows += [
        [f"{task} {metric}", *(_cell(result, task, metric) for result in results)]
        for task, metric in keys
    ]
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    rows.insert(1, ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])])
    return "\n".join(
        "| " + " | ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]) + " |"
        for row in rows
    )


def is_share(metric: str) -> bool:
    """Return whether a metric is a share of 1, to be shown in percent."""
    return any(part in metric.lower() for part in _SHARES)


def format_value(metric: str, value: float) -> str:
    """Return a value as tables show it: percent with one decimal, or four significant digits."""
    return f"{100 * value:.1f}" if is_share(metric) else f"{value:.4g}"


def _cell(result: Result, task: str, metric: str) -> str:
    value = result.metrics.get(task, {}).get(metric)
    return "-" if value is None else format_value(metric, value)
