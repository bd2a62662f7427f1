"""Results in tables: Markdown, CSV and LaTeX."""

import csv
import io
import re
from collections.abc import Iterable, Sequence

from cassle_zoo.common.markdown import inline, table
from cassle_zoo.eval.report.compare import Comparison
from cassle_zoo.eval.report.evidence import Cell, Column, Row, metric_keys
from cassle_zoo.eval.report.glossary import describe, format_value
from cassle_zoo.records import Result

Table = tuple[Comparison, Sequence[Column], Sequence[Row]]

CSV_HEADER = (
    "evaluation", "dataset", "dataset_sha256", "task", "metric", "model", "baseline", "runs",
    "value", "low95", "high95", "n", "n_of", "mark", "difference_from_best", "difference_low",
    "difference_high", "difference_level", "p",
)  # fmt: skip

_LATEX = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_",
    "{": r"\{", "}": r"\}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "²": "$^2$",
    "ω": r"$\omega$", "±": r"$\pm$", "<": r"\textless{}", ">": r"\textgreater{}",
    "[": "{[}", "]": "{]}",
}  # fmt: skip


def format_table(results: Sequence[Result]) -> str:
    """Format results as a Markdown table: a row per metric, a column per model.

    Args:
        results: Results of one evaluation, at least one.

    Returns:
        The table, aligned, without a final newline; fractions are in percent.
    """
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


def to_csv(tables: Iterable[Table]) -> str:
    """Write a line per metric and model; fractions are in [0, 1], differences model minus best."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(CSV_HEADER)
    for comparison, columns, rows in tables:
        for row in rows:
            gaps = {own.other: own for own in row.differences}
            for place, (column, cell) in enumerate(zip(columns, row.cells, strict=True)):
                if cell.value is None:
                    continue
                limits = ["", ""]
                if cell.interval is not None:
                    limits = [_number(cell.interval.low), _number(cell.interval.high)]
                gap = gaps.get(place)
                against: list[object] = ["", "", "", "", ""]
                if gap is not None:
                    own = gap.interval
                    p = "" if gap.p is None else _number(gap.p)
                    against = [*map(_number, (-own.value, -own.high, -own.low, row.level)), p]
                writer.writerow(
                    [
                        *(comparison.task, comparison.data.name, comparison.data.sha256),
                        *(row.task, row.metric, column.label),
                        *("yes" if column.is_baseline else "no", cell.runs, _number(cell.value)),
                        *limits,
                        *(("", "") if cell.count is None else (cell.count, row.unit)),
                        cell.mark,
                        *against,
                    ]
                )
    return buffer.getvalue()


def to_latex(tables: Iterable[Table]) -> str:
    """Write a table with booktabs per comparison: models in columns, the best told apart in bold.

    Each value is followed by its 95 % interval in brackets, in percent for fractions.
    """
    parts = ["% needs \\usepackage{booktabs}"]
    for comparison, columns, rows in tables:
        lines = [
            r"\begin{table}",
            r"\centering",
            r"\begin{tabular}{l" + "r" * len(columns) + "}",
            r"\toprule",
            " & ".join(["", *(latex(column.label) for column in columns)]) + r" \\",
            r"\midrule",
        ]
        for row in rows:
            info = describe(row.metric)
            unit = f" ({info.unit})" if info.unit else ""
            cells = [latex(f"{row.task}, {info.label}{unit}")]
            cells += [_cell(row.metric, cell) for cell in row.cells]
            lines.append(" & ".join(cells) + r" \\")
        caption = (
            f"{latex(comparison.task)} on {latex(comparison.data.name)}. In brackets: 95\\,\\% "
            "intervals. Bold: better than all others beyond chance."
        )
        lines += [r"\bottomrule", r"\end{tabular}", rf"\caption{{{caption}}}", r"\end{table}"]
        parts.append("\n".join(lines))
    return "\n\n".join(parts) + "\n"


def latex(text: str) -> str:
    """Escape a text of any origin for LaTeX."""
    plain = re.sub(r"\s+", " ", text)
    return "".join(_LATEX.get(letter, letter) for letter in plain)


def _cell(metric: str, cell: Cell) -> str:
    if cell.value is None:
        return "--"
    value = _minus(format_value(metric, cell.value))
    value = rf"\textbf{{{value}}}" if cell.mark == "best" else value
    if cell.interval is None:
        return value
    low, high = (_minus(format_value(metric, v)) for v in (cell.interval.low, cell.interval.high))
    return rf"{value} {{\scriptsize [{low}, {high}]}}"


def _minus(text: str) -> str:
    return text.replace("-", "$-$")


def _number(value: float) -> str:
    return f"{value + 0:.9g}"  # no "-0"; an error in the targets' unit may be tiny
