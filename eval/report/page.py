"""`cassle-zoo eval report`: an HTML page with a table and figures for each comparison."""

import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from cassle_zoo.common import templates
from cassle_zoo.common.errors import ConfigError
from cassle_zoo.common.files import check_folder, write_text
from cassle_zoo.eval.report.compare import Comparison, Entry, Image, compare, read_entries
from cassle_zoo.eval.report.figures import (
    Bar,
    Line,
    bar_chart,
    line_panels,
    render_inline,
    require_matplotlib,
)
from cassle_zoo.eval.report.tables import direction, format_value, is_fraction, metric_keys

if TYPE_CHECKING:
    from matplotlib.figure import Figure

EXIT_LEFT_OUT = 1
_AXIS = "strength"
"""Series `strength/NAME` are what other series `.../NAME/...` are drawn over."""


@dataclass(frozen=True, kw_only=True)
class ReportArguments:
    """Write recorded results to one self-contained HTML page that compares models.

    Attributes:
        results: JSON files written by `cassle-zoo eval`, or folders of them. Images recorded with a
            result are read from the same folder.
        output: The HTML file to write.
        title: Heading of the page.
        figures: Whether to draw bars and curves, which needs the extra `figures`.
    """

    results: Annotated[
        tuple[Path, ...],
        tyro.conf.Positional,
        tyro.conf.arg(metavar="RESULTS...", help_behavior_hint="(required)"),
    ]
    output: Annotated[Path, tyro.conf.arg(aliases=["-o", "--out"])] = Path("report.html")
    title: str = "Evaluation report"
    figures: bool = True


def run_from_cli(argv: Sequence[str]) -> int:
    """Run `cassle-zoo eval report ARGV...`; the exit status is 1 if something was left out."""
    arguments = tyro.cli(
        ReportArguments,
        prog="cassle-zoo eval report",
        config=(tyro.conf.FlagCreatePairsOff,),
        args=list(argv),
    )
    if not arguments.results:
        raise ConfigError(
            "name the results to report: cassle-zoo eval report RESULTS... -o report.html"
        )
    if arguments.output.is_dir():
        raise ConfigError(f"-o {arguments.output} is a folder; name the page, such as report.html.")
    check_folder(arguments.output.parent, "-o")
    if arguments.figures:
        require_matplotlib()
    entries, problems = read_entries(arguments.results)
    comparisons = compare(entries)
    page = render_report(arguments.title, comparisons, problems, figures=arguments.figures)
    write_text(arguments.output, page)
    for problem in problems:
        print(f"left out: {problem}", file=sys.stderr)
    print(arguments.output)
    return EXIT_LEFT_OUT if problems else 0


def render_report(
    title: str,
    comparisons: Sequence[Comparison],
    problems: Sequence[str] = (),
    *,
    figures: bool = True,
) -> str:
    """Write the page.

    Args:
        title: The heading.
        comparisons: At least one.
        problems: Descriptions of results that were left out.
        figures: Whether to draw bars and curves.

    Returns:
        HTML that needs no other file; equal arguments give equal text.

    Raises:
        MissingDependencyError: With `figures`, if matplotlib is not installed.
    """
    parts = [
        {
            "heading": f"{own.task} on {own.data.name} ({own.data.sha256[:8]})",
            "notes": own.notes,
            "columns": _columns(own.entries),
            "rows": list(_rows(own)),
            "bars": list(_bars(own)) if figures else [],
            "curves": list(_curves(own)) if figures else [],
            "images": _images(own.entries),
        }
        for own in comparisons
    ]
    package = "cassle_zoo.eval.report"
    return templates.render(package, "report.html", title=title, parts=parts, problems=problems)


def _images(entries: Sequence[Entry]) -> list[tuple[Image, str]]:
    images = [(image, entry.label) for entry in entries for image in entry.images]
    return sorted(images, key=lambda pair: pair[0].name)


def _columns(entries: Sequence[Entry]) -> list[dict[str, Any]]:
    """Describe the models; baselines are tinted, the first one also set off by a line."""
    columns, before = [], False
    for place, entry in enumerate(entries):
        first = " first" if entry.is_baseline and not before and place else ""
        before = entry.is_baseline
        columns.append(
            {
                "label": entry.label,
                "baseline": entry.is_baseline,
                "css": f"base{first}" if entry.is_baseline else "",
                "command": entry.result.command,
                "facts": _facts(entry),
            }
        )
    return columns


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


def _rows(comparison: Comparison) -> Iterator[dict[str, Any]]:
    for task, metric in metric_keys([entry.result for entry in comparison.entries]):
        values = [_of(entry, task).get(metric) for entry in comparison.entries]
        known = [value for value in values if value is not None]
        sign = direction(metric)
        best = None
        if sign and len(known) > 1:
            best = format_value(metric, max(known, key=lambda value: sign * value))
        shown = [format_value(metric, value) for value in values]
        yield {
            "task": task,
            "metric": metric,
            "unit": _unit(metric),
            "text": f"{comparison.task} {task} {metric}",
            "cells": [(text, text == best) for text in shown],
        }


def _bars(comparison: Comparison) -> Iterator[dict[str, str]]:
    """Draw the first metric of every task."""
    firsts: dict[str, str] = {}
    for task, metric in metric_keys([entry.result for entry in comparison.entries]):
        firsts.setdefault(task, metric)
    for task, metric in firsts.items():
        bars = [
            Bar(label=entry.label, value=_of(entry, task)[metric], baseline=entry.is_baseline)
            for entry in comparison.entries
            if metric in _of(entry, task)
        ]

        def show(value: float, metric: str = metric) -> str:
            return format_value(metric, value)

        perfect = 1.0 if is_fraction(metric) or metric.startswith("r2") else None
        figure = bar_chart(bars, show, full=perfect)
        values = ", ".join(f"{bar.label} {show(bar.value)}" for bar in bars)
        yield _chart(
            comparison, f"{task}: {metric}{_unit(metric)}", f"{task} {metric}", values, figure
        )


def _curves(comparison: Comparison) -> Iterator[dict[str, str]]:
    for name, lines in curves(comparison.entries).items():
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


def _unit(metric: str) -> str:
    return " (%)" if is_fraction(metric) else ""


def _of(entry: Entry, task: str) -> dict[str, float]:
    return entry.result.metrics.get(task, {})
