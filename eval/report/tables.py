"""Results side by side in a Markdown table."""

from collections.abc import Sequence

from cassle_zoo.common.errors import ConfigError
from cassle_zoo.common.markdown import inline, table
from cassle_zoo.eval.report.glossary import format_value
from cassle_zoo.records import Result


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
    names = [result.model.name for result in results]
    if len(set(names)) < len(names):  # equal names of folders or files
        names = [result.argument for result in results]
    header = ["", *map(inline, names)]
    return table(header, rows, right=range(1, len(header)), align=True)
