"""The page of a report: for each comparison its table, figures, images, and how it was done."""

import json
from collections.abc import Sequence

from cassle_zoo.eval.report.charts import STYLE as CHART_STYLE
from cassle_zoo.eval.report.charts import Bar, Curve, bar_chart, line_chart
from cassle_zoo.eval.report.compare import Comparison, Entry
from cassle_zoo.eval.report.html import breakable, data_uri, escape, filter_form, render
from cassle_zoo.eval.report.tables import format_value, is_share

_HIGHER = ("r2", "mrr", "auc", "correlation")
_LOWER = ("error", "loss", "mse", "mae")
_NEITHER = ("std", "ci95")
"""Of the spread of another metric."""
_AXIS = "strength"
"""Series `strength/NAME` are what other series `.../NAME/...` are drawn over."""
_FEW_CURVES = 4

_STYLE = (
    """
h2 { font-size: 1.2rem; margin: 2.2rem 0 0.3rem; border-top: 2px solid var(--line);
  padding-top: 1rem; }
h3 { font-size: 0.9rem; margin: 0 0 0.4rem; }
.note { border-left: 4px solid var(--wrong); background: var(--panel); padding: 0.5rem 0.8rem; }
.scroll { position: relative; overflow-x: auto; border: 1px solid var(--line);
  border-radius: 0.4rem; }
table { border-collapse: separate; border-spacing: 0; width: 100%;
  font-variant-numeric: tabular-nums; }
th, td { padding: 0.35rem 0.7rem; text-align: right; border-top: 1px solid var(--line);
  overflow-wrap: break-word; }
thead th { border-top: 0; vertical-align: bottom; min-width: 7.5rem; max-width: 12rem; }
th:first-child { text-align: left; position: sticky; left: 0; background: var(--page);
  min-width: 9.5rem; font-weight: 400; }
.base { background: var(--panel); }
.first { border-left: 3px double var(--faint); }
td.best { font-weight: 700; }
.grid { display: grid; gap: 1.4rem 2.2rem; margin: 1.2rem 0;
  grid-template-columns: repeat(auto-fill, minmax(min(100%, 17rem), 1fr)); }
.images { display: grid; gap: 1.2rem; margin: 0.8rem 0;
  grid-template-columns: repeat(auto-fill, minmax(min(100%, 34rem), 1fr)); }
figure { margin: 0; min-width: 0; }
.images img { max-width: 100%; background: #fff; border: 1px solid var(--line); }
details { margin: 0.5rem 0; }
summary { cursor: pointer; padding: 0.25rem 0; }
dl { display: grid; grid-template-columns: minmax(6rem, 11rem) 1fr; gap: 0.3rem 1rem;
  font-size: 0.88rem; margin: 0.5rem 0 1rem; }
dt { color: var(--faint); } dd { margin: 0; min-width: 0; }
pre { overflow-x: auto; background: var(--panel); padding: 0.6rem; border-radius: 0.3rem;
  white-space: pre-wrap; }
.hidden { position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%); }
@media (max-width: 34rem) { dl { grid-template-columns: 1fr; gap: 0; } dd { margin-bottom: 0.5rem; }
  th, td { padding: 0.3rem 0.5rem; } thead th { min-width: 6.4rem; }
  th:first-child { min-width: 7.6rem; } }
@media print { form { display: none; } body { max-width: none; font-size: 0.75rem; }
  tr, figure { break-inside: avoid; } .scroll { overflow: visible; }
  th:first-child { position: static; } }
"""
    + CHART_STYLE
)

_SCRIPT = """
function unfold() {
  const aim = location.hash.length > 1 && document.getElementById(location.hash.slice(1));
  if (aim && aim.tagName === 'DETAILS') aim.open = true;
}
addEventListener('hashchange', unfold);
unfold();
addEventListener('beforeprint', () => {
  for (const part of document.querySelectorAll('details')) part.open = true;
});
"""


def render_report(
    title: str, comparisons: Sequence[Comparison], problems: Sequence[str] = ()
) -> str:
    """Write the page.

    Args:
        title: The heading.
        comparisons: What to show, at least one.
        problems: What was left out.

    Returns:
        HTML that needs no other file; equal arguments give equal text.
    """
    contents = "".join(
        f'<li><a href="#part-{number}">{escape(_heading(comparison))}</a>: '
        f"{_count(len(comparison.entries), 'result')}</li>"
        for number, comparison in enumerate(comparisons)
    )
    left_out = "".join(f'<p class="note"><b>Left out:</b> {escape(text)}</p>' for text in problems)
    parts = "\n".join(_part(number, own) for number, own in enumerate(comparisons))
    body = (
        f"<h1>{escape(title)}</h1>\n{left_out}<nav><ul>{contents}</ul></nav>\n"
        f"{filter_form('Filter numbers and figures')}\n<main>\n{parts}\n</main>"
    )
    return render(title, body, style=_STYLE, script=_SCRIPT)


def _part(number: int, comparison: Comparison) -> str:
    anchor = f"part-{number}"
    notes = "".join(
        f'<p class="note"><b>Caution:</b> {escape(note)}</p>' for note in comparison.notes
    )
    methods = "\n".join(
        _method(f"{anchor}-{place}", entry) for place, entry in enumerate(comparison.entries)
    )
    return (
        f'<section><h2 id="{anchor}">{escape(_heading(comparison))}</h2>\n{notes}'
        f"{_table(anchor, comparison)}\n"
        f'<div class="grid">{_bars(comparison)}</div>\n{_curves(comparison)}{_images(comparison)}'
        f"<h3>How each was measured</h3>\n{methods}</section>"
    )


def _heading(comparison: Comparison) -> str:
    return f"{comparison.task} on {comparison.data['name']} ({comparison.data['sha256'][:8]})"


def _table(anchor: str, comparison: Comparison) -> str:
    entries = comparison.entries
    classes = _column_classes(entries)
    baseline = '<br><span class="faint">baseline</span>'
    head = "".join(
        f'<th scope="col" class="{css}"><a href="#{anchor}-{place}">{breakable(entry.label)}</a>'
        f"{baseline if entry.is_baseline else ''}</th>"
        for place, (entry, css) in enumerate(zip(entries, classes, strict=True))
    )
    keys = dict.fromkeys((t, m) for e in entries for t in e.result.metrics for m in _of(e, t))
    rows = "\n".join(_row(comparison, task, metric, classes) for task, metric in keys)
    return (
        '<div class="scroll" tabindex="0" role="region" '
        f'aria-label="{escape(_heading(comparison))}">'
        f'<table><thead><tr><th scope="col"><span class="faint">★ best of the row</span></th>{head}'
        f"</tr></thead>\n<tbody>{rows}</tbody></table></div>"
    )


def _row(comparison: Comparison, task: str, metric: str, classes: Sequence[str]) -> str:
    values = [_of(entry, task).get(metric) for entry in comparison.entries]
    shown = ["-" if value is None else format_value(metric, value) for value in values]
    known = [value for value in values if value is not None]
    direction = _direction(metric)
    best = "-"
    if direction and len(known) > 1:
        best = format_value(metric, max(known, key=lambda value: direction * value))
    cells = "".join(
        f'<td class="best {css}">{text}&nbsp;★<span class="hidden"> best</span></td>'
        if text == best != "-"
        else f'<td class="{css}">{text}</td>'
        for text, css in zip(shown, classes, strict=True)
    )
    unit = " (%)" if is_share(metric) else ""
    name = f"<b>{breakable(task)}</b> {breakable(metric)}{unit}"
    text = escape(f"{comparison.task} {task} {metric}".lower())
    return f'<tr data-text="{text}"><th scope="row">{name}</th>{cells}</tr>'


def _column_classes(entries: Sequence[Entry]) -> list[str]:
    """Return the classes of the columns: baselines are tinted, and set off by a line."""
    found, before = [], False
    for place, entry in enumerate(entries):
        first = " first" if entry.is_baseline and not before and place else ""
        found.append(f"base{first}" if entry.is_baseline else "")
        before = entry.is_baseline
    return found


def _direction(metric: str) -> int:
    """Return 1 if more of a metric is better, -1 if less is, 0 if neither."""
    name = metric.lower()
    if name.endswith(_NEITHER):
        return 0
    if any(part in name for part in _LOWER):
        return -1
    return int(is_share(metric) or any(part in name for part in _HIGHER))


def _bars(comparison: Comparison) -> str:
    """Draw the first metric of every task."""
    tasks = dict.fromkeys(task for entry in comparison.entries for task in entry.result.metrics)
    figures = []
    for task in tasks:
        own = [entry for entry in comparison.entries if _of(entry, task)]
        metric = next((m for entry in own for m in _of(entry, task)), None)
        bars = [
            Bar(label=entry.label, value=_of(entry, task)[metric], baseline=entry.is_baseline)
            for entry in own
            if metric in _of(entry, task)
        ]
        if metric is None or not bars:
            continue
        title = f"{task}: {metric}{' (%)' if is_share(metric) else ''}"

        def show(value: float, metric: str = metric) -> str:
            return format_value(metric, value)

        perfect = 1.0 if is_share(metric) or metric.startswith("r2") else None
        chart = bar_chart(title, bars, show, full=perfect)
        figures.append(_figure(title, f"{comparison.task} {task} {metric}", chart))
    return "\n".join(figures)


def _curves(comparison: Comparison) -> str:
    entries = comparison.entries
    names = dict.fromkeys(name for entry in entries for name in entry.result.series)
    axes = {name for name in names if name.startswith((f"{_AXIS}/", "value/"))}
    figures = []
    for name in names:
        curves = [_curve(e, name) for e in entries if len(e.result.series.get(name, ())) > 1]
        if name not in axes and curves:
            chart = line_chart(name, curves)
            figures.append(_figure(name, f"{comparison.task} {name}", chart))
    if not figures:
        return ""
    state = " open" if len(figures) <= _FEW_CURVES else ""
    return (
        f"<details{state}><summary>{_count(len(figures), 'curve')}</summary>"
        f'<div class="grid">{"".join(figures)}</div></details>\n'
    )


def _curve(entry: Entry, name: str) -> Curve:
    y = entry.result.series[name]
    context = name.split("/")[1] if "/" in name else ""
    x = entry.result.series.get(f"{_AXIS}/{context}", [])
    return Curve(label=entry.label, x=x if len(x) == len(y) else range(1, len(y) + 1), y=y)


def _images(comparison: Comparison) -> str:
    found = [(image, entry.label) for entry in comparison.entries for image in entry.images]
    if not found:
        return ""
    figures = "".join(
        f"<figure><figcaption>{escape(label)}: {escape(image.name)}</figcaption>"
        f'<img loading="lazy" src="{data_uri(image.content, image.kind)}" '
        f'alt="{escape(image.name)} of {escape(label)}"></figure>'
        for image, label in sorted(found, key=lambda pair: pair[0].name)
    )
    return (
        f"<details><summary>{_count(len(found), 'image')}</summary>"
        f'<div class="images">{figures}</div></details>\n'
    )


def _method(anchor: str, entry: Entry) -> str:
    result = entry.result
    facts = {
        **result.protocol,
        "data": f"{result.data['name']}, sha256 {result.data['sha256']}",
        "weights": f"sha256 {result.model['sha256']}" if result.model["sha256"] else "none",
        "seed": result.seed,
        "versions": ", ".join(f"{name} {version}" for name, version in result.versions.items()),
        "measured": f"{result.created}, {sum(result.seconds.values()):.0f} s",
    }
    if entry.pages:
        facts["pages beside the result"] = ", ".join(entry.pages)
    rows = "".join(f"<dt>{escape(k)}</dt><dd>{escape(_text(v))}</dd>" for k, v in facts.items())
    return (
        f'<details id="{anchor}"><summary>{escape(entry.label)}</summary>'
        f"<pre>{escape(result.command)}</pre><dl>{rows}</dl></details>"
    )


def _text(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _figure(title: str, text: str, chart: str) -> str:
    return f'<figure data-text="{escape(text.lower())}"><h3>{escape(title)}</h3>{chart}</figure>'


def _of(entry: Entry, task: str) -> dict[str, float]:
    return entry.result.metrics.get(task, {})


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'s' * (number != 1)}"
