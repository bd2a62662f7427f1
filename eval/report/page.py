"""`cassle-zoo eval report`: an HTML page with tables, figures and images for each comparison."""

import json
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from cassle_zoo.common import templates
from cassle_zoo.common.errors import ConfigError
from cassle_zoo.common.exit_status import ExitStatus, statuses_of
from cassle_zoo.common.files import check_folder, write_text
from cassle_zoo.common.terminal import busy, printable
from cassle_zoo.eval.report.compare import Comparison, Entry, compare, read_entries
from cassle_zoo.eval.report.details import MapKind, class_details, maps
from cassle_zoo.eval.report.evidence import Column, Row, columns_of, evidence
from cassle_zoo.eval.report.export import Table, to_csv, to_latex
from cassle_zoo.eval.report.figures import (
    Bar,
    Line,
    bar_chart,
    line_panels,
    render_inline,
    require_matplotlib,
)
from cassle_zoo.eval.report.glossary import (
    describe,
    format_difference,
    format_interval,
    format_value,
    is_fraction,
    with_unit,
)
from cassle_zoo.eval.report.sensitivity_figures import (
    measure_name,
    overlay_figure,
    stage_figure,
)
from cassle_zoo.eval.report.verdicts import detectable_text, p_text, verdict
from cassle_zoo.features.explorer.layouts import check_layout

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_AXIS = "strength"
"""Series `strength/NAME` hold the x values of other series `.../NAME/...`."""


@dataclass(frozen=True, kw_only=True)
class ReportArguments:
    """Write recorded results to one self-contained HTML page that compares models.

    Attributes:
        results: JSON files written by `cassle-zoo eval`, or folders of them. Images and scores
            recorded with a result are read from the same folder.
        output: The HTML file to write.
        title: Heading of the page.
        figures: Draw bars and curves, which needs the extra `figures`; `--no-figures` does without.
        map: How the features of test images are laid out in two dimensions: `pca`, or `umap`,
            which needs the extra `umap`.
        csv: Also write the numbers to this CSV file, a line per metric and model.
        latex: Also write the tables to this LaTeX file.
    """

    results: Annotated[
        tuple[Path, ...],
        tyro.conf.Positional,
        tyro.conf.arg(metavar="RESULTS...", help_behavior_hint="(required)"),
    ]
    output: Annotated[Path, tyro.conf.arg(aliases=["-o", "--out"])] = Path("report.html")
    title: str = "Evaluation report"
    figures: bool = True
    map: MapKind = "pca"
    csv: Annotated[Path | None, tyro.conf.arg(metavar="FILE.csv")] = None
    latex: Annotated[Path | None, tyro.conf.arg(metavar="FILE.tex")] = None


def run_from_cli(argv: Sequence[str]) -> ExitStatus:
    """Run `cassle-zoo eval report ARGV...` and return its exit status."""
    arguments = tyro.cli(
        ReportArguments,
        prog="cassle-zoo eval report",
        description="Write recorded results to one self-contained HTML page that compares models."
        "\n\n" + statuses_of({ExitStatus.INCOMPLETE: "some results were left out"}),
        config=(tyro.conf.FlagCreatePairsOff,),
        args=list(argv),
    )
    if not arguments.results:
        raise ConfigError(
            "name the results to report: cassle-zoo eval report RESULTS... -o report.html"
        )
    given = {"-o": arguments.output, "--csv": arguments.csv, "--latex": arguments.latex}
    files = {option: path for option, path in given.items() if path is not None}
    for option, path in files.items():
        if path.is_dir():
            raise ConfigError(f"{option} {path} is a folder; name the file.")
        check_folder(path.parent, option)
    if len({path.resolve() for path in files.values()}) < len(files):
        raise ConfigError(f"two of {', '.join(files)} name the same file; give each its own.")
    if arguments.figures:
        require_matplotlib()
    check_layout(arguments.map)
    with busy("comparing the results"):
        entries, problems = read_entries(arguments.results)
        tables = tables_of(compare(entries))
        page = render_report(
            arguments.title, tables, problems, figures=arguments.figures, map=arguments.map
        )
    write_text(arguments.output, page)
    written = [arguments.output]
    for file, write in ((arguments.csv, to_csv), (arguments.latex, to_latex)):
        if file is not None:
            write_text(file, write(tables))
            written.append(file)
    for problem in problems:
        print(printable(f"left out: {problem}"), file=sys.stderr)
    print(*written, sep="\n")
    return ExitStatus.INCOMPLETE if problems else ExitStatus.OK


def tables_of(comparisons: Sequence[Comparison]) -> list[Table]:
    """Return the models and metrics of each comparison with their evidence."""
    found = [(own, columns_of(own)) for own in comparisons]
    return [(own, columns, evidence(own, columns)) for own, columns in found]


def render_report(
    title: str,
    tables: Sequence[Table],
    problems: Sequence[str] = (),
    *,
    figures: bool = True,
    map: MapKind = "pca",
) -> str:
    """Write the page.

    Args:
        title: The heading.
        tables: At least one.
        problems: Descriptions of results that were left out.
        figures: Whether to draw bars and curves.
        map: How the features of test images are laid out in two dimensions.

    Returns:
        HTML that needs no other file; equal arguments give equal text.

    Raises:
        MissingDependencyError: With `figures`, if matplotlib is not installed; with `umap`, if
            umap-learn is not.
    """
    parts = [
        {
            "heading": f"{own.task} on {own.data.name} ({own.data.sha256[:8]})",
            "notes": own.notes,
            "seen": list(
                dict.fromkeys(text for row in _firsts(rows) if (text := detectable_text(row)))
            ),
            "verdicts": [
                {"task": row.task, "label": describe(row.metric).label, "says": says}
                for row in _firsts(rows)
                if (says := verdict(row, [column.label for column in columns])) is not None
            ],
            "columns": _columns(columns, own.entries),
            "rows": list(_rows(own, rows)),
            "glosses": {
                info.label: f"{info.gloss} {info.arrow}".strip()
                for row in rows
                for info in [describe(row.metric)]
            },
            "differences": list(_differences(own, rows, columns)),
            "is_tested": any(row.differences for row in rows),
            "bars": list(_bars(own, columns, rows)) if figures else [],
            "overlays": list(_overlays(own)) if figures else [],
            "curves": list(_curves(own)) if figures else [],
            "details": list(class_details(rows, columns)),
            "map": maps(rows, columns, map),
            "images": sorted(
                ((image, e.label) for e in own.entries for image in e.images),
                key=lambda pair: pair[0].name,
            ),
            "measured": [
                {"label": e.label, "command": e.result.command, "facts": _facts(e)}
                for e in own.entries
            ],
        }
        for own, columns, rows in tables
    ]
    package = "cassle_zoo.eval.report"
    return templates.render(package, "report.html", title=title, parts=parts, problems=problems)


def _columns(columns: Sequence[Column], entries: Sequence[Entry]) -> list[dict[str, Any]]:
    """Describe the models; baselines are tinted, the first one also set off by a line."""
    found, before = [], False
    for place, column in enumerate(columns):
        first = " first" if column.is_baseline and not before and place else ""
        before = column.is_baseline
        found.append(
            {
                "label": column.label,
                "place": entries.index(column.entries[0]),
                "baseline": column.is_baseline,
                "css": f"base{first}" if column.is_baseline else "",
            }
        )
    return found


def _facts(entry: Entry) -> dict[str, str]:
    result = entry.result
    facts = {
        **result.protocol,
        "data": f"{result.data.name}, sha256 {result.data.sha256}",
        "weights": f"sha256 {result.model.sha256}" if result.model.sha256 else "none",
        "seed": result.seed,
        "versions": ", ".join(f"{name} {version}" for name, version in result.versions.items()),
        "measured": f"{result.created}, {sum(result.seconds.values()):.0f} s",
    }
    if entry.pages:
        facts["pages beside the result"] = ", ".join(entry.pages)
    return {
        name: fact if isinstance(fact, str) else json.dumps(fact, ensure_ascii=False)
        for name, fact in facts.items()
    }


def _firsts(rows: Sequence[Row]) -> list[Row]:
    """Return the first metric of every task and protocol, among those with a better direction."""
    found: dict[tuple[str, str], Row] = {}
    for row in rows:
        info = describe(row.metric)
        if info.direction:
            found.setdefault((row.task, re.split("[:@]", info.label)[0]), row)
    return list(found.values())


def _rows(comparison: Comparison, rows: Sequence[Row]) -> Iterator[dict[str, Any]]:
    explained: set[str] = set()
    for row in rows:
        info = describe(row.metric)
        gloss = "" if info.label in explained else info.gloss
        explained.add(info.label)
        yield {
            "task": row.task,
            "metric": row.metric,
            "label": info.label,
            "gloss": gloss,
            "unit": f" ({info.unit})" if info.unit else "",
            "arrow": info.arrow,
            "count": row.counted,
            "text": _words(comparison, row),
            "cells": [
                (
                    format_value(row.metric, cell.value),
                    "" if cell.interval is None else format_interval(row.metric, cell.interval),
                    cell,
                )
                for cell in row.cells
            ],
        }


def _words(comparison: Comparison, row: Row) -> str:
    """Return what the page's filter finds a metric by: its name, and how it is shown."""
    return f"{comparison.task} {row.task} {row.metric} {describe(row.metric).label}"


def _differences(
    comparison: Comparison, rows: Sequence[Row], columns: Sequence[Column]
) -> Iterator[dict[str, Any]]:
    for row in rows:
        for own in row.differences:
            assert row.best is not None
            value = format_difference(row.metric, own.interval.value)
            yield {
                "task": row.task,
                "label": describe(row.metric).label,
                "best": columns[row.best].label,
                "other": columns[own.other].label,
                "value": with_unit(row.metric, value),
                "limits": format_interval(row.metric, own.interval, format_difference),
                "p": "" if own.p is None else p_text(own.p),
                "only_best": own.only_best,
                "only_other": own.only_other,
                "is_sure": own.is_sure,
                "text": f"{_words(comparison, row)} {columns[own.other].label}",
            }


def _bars(
    comparison: Comparison, columns: Sequence[Column], rows: Sequence[Row]
) -> Iterator[dict[str, str]]:
    """Draw the first metric of every task."""
    firsts: dict[str, Row] = {}
    for row in rows:
        firsts.setdefault(row.task, row)
    for task, row in firsts.items():
        metric = row.metric
        bars = [
            Bar(
                label=column.label,
                value=cell.value,
                baseline=column.is_baseline,
                interval=None if cell.interval is None else (cell.interval.low, cell.interval.high),
            )
            for column, cell in zip(columns, row.cells, strict=True)
            if cell.value is not None
        ]
        show = partial(format_value, metric)
        perfect = 1.0 if is_fraction(metric) or metric.startswith("r2") else None
        figure = bar_chart(bars, show, full=perfect)
        values = ", ".join(f"{bar.label} {show(bar.value)}" for bar in bars)
        unit = " (%)" if is_fraction(metric) else ""
        title = f"{task}: {describe(metric).label}{unit}"
        yield _chart(comparison, title, f"{task} {metric} {describe(metric).label}", values, figure)


def _overlays(comparison: Comparison) -> Iterator[dict[str, str]]:
    """Draw the sensitivity of all models in one figure, by strength and by network stage."""
    by_measure: dict[str, dict[str, dict[str, list[float]]]] = {}
    for entry in comparison.entries:
        series = entry.result.series
        if any(name.startswith(f"{_AXIS}/") for name in series):
            by_measure.setdefault(measure_name(series), {})[entry.label] = series
    for measure, results in by_measure.items():
        which = f", {measure}" if len(by_measure) > 1 else ""
        for stage in ("backbone", "projector"):
            figure = overlay_figure(results, stage)
            if figure is not None:
                title = f"Sensitivity of the {stage} by strength of the augmentation{which}"
                yield _chart(comparison, title, title, ", ".join(results), figure)
        title = f"Sensitivity at the greatest strength by network stage{which}"
        yield _chart(comparison, title, title, ", ".join(results), stage_figure(results))


def _curves(comparison: Comparison) -> Iterator[dict[str, str]]:
    for name, lines in curves(comparison.entries).items():
        if name.count("/") > 1:
            continue  # in the overlays
        ends = [f"{label} from {y[0]:.3g} to {y[-1]:.3g}" for label, (_, y) in lines.items()]
        figure = line_panels({"": lines}, x_label="", y_label="")
        yield _chart(comparison, name, name, "; ".join(ends), figure)


def curves(entries: Sequence[Entry]) -> dict[str, dict[str, Line]]:
    """Return the recorded curves by name and model, without those of a single value.

    Their x values are strengths for `sensitivity`, else 1, 2, 3, ...
    """
    names = dict.fromkeys(name for entry in entries for name in entry.result.series)
    found: dict[str, dict[str, Line]] = {}
    for name in names:
        if name.startswith((f"{_AXIS}/", "value/")):
            continue
        lines: dict[str, Line] = {}
        for entry in entries:
            series = entry.result.series
            if len(y := series.get(name, ())) > 1:
                context = name.split("/")[1] if "/" in name else ""
                x = series.get(f"{_AXIS}/{context}", [])
                lines[entry.label] = (x if len(x) == len(y) else range(1, len(y) + 1), y)
        if lines:
            found[name] = lines
    return found


def _chart(
    comparison: Comparison, title: str, text: str, values: str, figure: "Figure"
) -> dict[str, str]:
    return {
        "title": title,
        "text": f"{comparison.task} {text}",
        "description": f"{title}: {values}",
        "svg": render_inline(figure, f"{comparison.task} {comparison.data} {title}"),
    }
