"""Small figures as inline SVG: bars and lines that take the page's colours and need no library."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from cassle_zoo.eval.report.html import escape

# Okabe and Ito's colours that can be seen on white and on black; dashes tell the lines apart too.
_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
_DASHES = ("", "7 3", "2 3", "9 3 2 3")
_WIDTH, _ROW = 360, 34
_LEFT, _TOP, _RIGHT, _PLOT_HEIGHT, _LEGEND = 52, 12, 348, 170, 18
_LETTERS = 40  # of a label that fits

STYLE = """
.chart { width: 100%; height: auto; display: block; }
.chart text { fill: var(--ink); font: 12px system-ui, sans-serif; }
.chart .small { font-size: 11px; fill: var(--faint); }
.chart .axis { stroke: var(--line); stroke-width: 1; fill: none; }
.chart .bar { fill: #0072b2; }
.chart .base { fill: var(--panel); stroke: var(--faint); stroke-dasharray: 3 2; }
"""


@dataclass(frozen=True, kw_only=True)
class Bar:
    """A bar.

    Attributes:
        label: What it stands for.
        value: Its length, finite.
        baseline: Drawn in outline only.
    """

    label: str
    value: float
    baseline: bool = False


@dataclass(frozen=True, kw_only=True)
class Curve:
    """A line: `y` over `x`, equally long, finite."""

    label: str
    x: Sequence[float]
    y: Sequence[float]


def bar_chart(
    title: str, bars: Sequence[Bar], show: Callable[[float], str], *, full: float | None = None
) -> str:
    """Draw horizontal bars, each with its label above and its value at the right.

    Args:
        title: Read out together with all values.
        bars: From the top.
        show: Writes a value.
        full: What the longest possible bar stands for; by default the largest value.

    Returns:
        An `svg` element.
    """
    low = min(0.0, *(bar.value for bar in bars))
    high = max(0.0, full or 0.0, *(bar.value for bar in bars))
    scale = (_WIDTH - 60) / ((high - low) or 1.0)
    zero = -low * scale
    parts = []
    for row, bar in enumerate(bars):
        y, length = row * _ROW, bar.value * scale
        parts.append(
            f'<text x="0" y="{y + 12}">{escape(_short(bar.label))}</text>'
            f'<rect class="{"base" if bar.baseline else "bar"}" x="{zero + min(0, length):.1f}" '
            f'y="{y + 17}" width="{abs(length):.1f}" height="11"/>'
            f'<text x="{_WIDTH}" y="{y + 27}" text-anchor="end">{escape(show(bar.value))}</text>'
        )
    height = len(bars) * _ROW
    parts.append(f'<path class="axis" d="M{zero:.1f} 15V{height}"/>')
    values = ", ".join(f"{bar.label} {show(bar.value)}" for bar in bars)
    return _svg(f"{title}: {values}", height, parts)


def line_chart(title: str, curves: Sequence[Curve]) -> str:
    """Draw lines over a common axis, with a legend below.

    Args:
        title: Read out together with the ends of each line.
        curves: At least one, none empty.

    Returns:
        An `svg` element.
    """
    xs, ys = ([v for curve in curves for v in getattr(curve, axis)] for axis in "xy")
    x0, x1, y0, y1 = min(xs), max(xs), min(ys), max(ys)
    bottom = _TOP + _PLOT_HEIGHT

    def place(x: float, y: float) -> tuple[float, float]:
        across = (x - x0) / ((x1 - x0) or 1.0)
        up = (y - y0) / ((y1 - y0) or 1.0)
        return _LEFT + across * (_RIGHT - _LEFT), bottom - up * _PLOT_HEIGHT

    parts = [f'<path class="axis" d="M{_LEFT} {_TOP}V{bottom}H{_RIGHT}"/>']
    for value, y, anchor in ((y1, _TOP + 4, "end"), (y0, bottom, "end")):
        parts.append(_small(_LEFT - 5, y, f"{value:.3g}", anchor))
    parts.append(_small(_LEFT, bottom + 15, f"{x0:g}", "start"))
    parts.append(_small(_RIGHT, bottom + 15, f"{x1:g}", "end"))
    for number, curve in enumerate(curves):
        look = _look(number)
        points = [place(x, y) for x, y in zip(curve.x, curve.y, strict=True)]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        parts.append(f'<polyline fill="none" {look} points="{path}"/>')
        y = bottom + 34 + number * _LEGEND
        parts.append(f'<path {look} d="M{_LEFT} {y - 4}h34"/>')
        parts.append(f'<text x="{_LEFT + 42}" y="{y}">{escape(_short(curve.label))}</text>')
    ends = "; ".join(f"{c.label} from {c.y[0]:.3g} to {c.y[-1]:.3g}" for c in curves)
    return _svg(f"{title}: {ends}", bottom + 24 + len(curves) * _LEGEND, parts)


def _look(number: int) -> str:
    colour = _COLOURS[number % len(_COLOURS)]
    dash = _DASHES[number % len(_DASHES)]
    return f'stroke="{colour}" stroke-width="2" stroke-dasharray="{dash}"'


def _short(label: str) -> str:
    """Shorten in the middle, since names differ at both ends."""
    half = _LETTERS // 2
    return label if len(label) <= _LETTERS else f"{label[:half]}…{label[1 - half :]}"


def _small(x: float, y: float, text: str, anchor: str) -> str:
    return f'<text class="small" x="{x}" y="{y}" text-anchor="{anchor}">{escape(text)}</text>'


def _svg(description: str, height: float, parts: Sequence[str]) -> str:
    return (
        f'<svg class="chart" role="img" aria-label="{escape(description)}" '
        f'viewBox="0 0 {_WIDTH} {height}">{"".join(parts)}</svg>'
    )
