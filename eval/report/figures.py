"""Figures that can be read without colour: Okabe and Ito's palette, with markers and hatches.

Only `matplotlib.figure.Figure` is used, never pyplot, so that no global state is touched and no
display is needed.
"""

import importlib.util
import io
import math
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from cassle_zoo.common.errors import ConfigError, MissingDependencyError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PALETTE = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#000000", "#B3A800")
"""Okabe and Ito (2008), in an order of contrast; their yellow is darkened to be seen on white."""

MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
DASHES = ("-", "--", "-.", ":")
HATCHES = ("", "///", "...", "xxx", "\\\\\\", "++", "oo", "--")
MAX_COLUMNS = 4
FLAT_LABELS = 16

_LETTERS = 40  # of a label beside others
_INK, _GRID = "#000000", "#dddddd"

Line = tuple[Sequence[float], Sequence[float]]
"""x and y of a curve."""


@dataclass(frozen=True, kw_only=True)
class Bar:
    """A bar of :func:`bar_chart`.

    Attributes:
        label: Name beside the bar.
        value: Length, finite.
        baseline: Whether to draw only the outline.
        interval: Limits of its interval, drawn as a line over the bar.
    """

    label: str
    value: float
    baseline: bool = False
    interval: tuple[float, float] | None = None


def require_matplotlib() -> None:
    """Check that figures can be drawn.

    Raises:
        MissingDependencyError: If matplotlib is not installed.
    """
    if importlib.util.find_spec("matplotlib") is None:
        raise MissingDependencyError(
            "figures need matplotlib: pip install 'cassle-zoo[figures]', or leave them out with "
            "--no-figures."
        )


def new_figure(width: float, height: float) -> "Figure":
    """Return an empty figure of a given size in inches.

    Raises:
        MissingDependencyError: If matplotlib is not installed.
    """
    require_matplotlib()
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def line_panels(
    panels: Mapping[str, Mapping[str, Line]],
    *,
    x_label: str,
    y_label: str,
    title: str = "",
    ticks: Mapping[str, Sequence[str]] | None = None,
    log: bool = False,
) -> "Figure":
    """Draw curves in small panels that share the y axis and one legend.

    Args:
        panels: By panel title, curves by label; equal labels look the same in all panels.
        x_label: Label below the lowest panels.
        y_label: Label of the first panels.
        title: Title of the figure.
        ticks: By panel title, names of the x values 0, 1, 2, ... if they are categories.
        log: Whether both axes are logarithmic.

    Raises:
        ConfigError: If there is nothing to draw.
    """
    labels = _labels(panels)
    columns = min(len(panels), MAX_COLUMNS)
    figure, axes = _grid(len(panels), columns, height=2.6 if ticks is None else 3.1)
    handles: dict[str, Any] = {}
    for number, (axis, (name, curves)) in enumerate(zip(axes, panels.items(), strict=True)):
        for label, (x, y) in curves.items():
            [handles[label]] = axis.plot(x, y, label=label, **_style(labels.index(label), len(x)))
        if log:
            axis.set(xscale="log", yscale="log")
        _decorate(axis, name, y_label if number % columns == 0 else "")
        if ticks is not None and name in ticks:
            names = map(_plain, ticks[name])
            axis.set_xticks(range(len(ticks[name])), list(names), rotation=60, ha="right")
        elif number + columns >= len(panels):
            axis.set_xlabel(x_label)
    _finish(figure, {label: handles[label] for label in labels}, title)
    return figure


def grouped_bars(
    groups: Mapping[str, Mapping[str, float]], *, y_label: str, title: str = ""
) -> "Figure":
    """Draw groups of bars, with values above the bars.

    Args:
        groups: Values by group and bar; equal bars look the same in all groups.
        y_label: Label of the y axis.
        title: Title of the axes.

    Raises:
        ConfigError: If there is nothing to draw.
    """
    labels = _labels(groups)
    width = min(max(4.0, 0.42 * len(groups) * (len(labels) + 0.8)), 13.0)
    figure, [axis] = _grid(1, 1, height=2.7, width=width)
    bar_width = 0.84 / len(labels)
    handles: dict[str, Any] = {}
    for place, label in enumerate(labels):
        at = [i for i, bars in enumerate(groups.values()) if label in bars]
        values = [bars[label] for bars in groups.values() if label in bars]
        offset = (place - (len(labels) - 1) / 2) * bar_width
        handles[label] = axis.bar(
            [i + offset for i in at], values, bar_width * 0.94, label=label,
            color=PALETTE[place % len(PALETTE)], hatch=HATCHES[place % len(HATCHES)],
            edgecolor="white", linewidth=0.6,
        )  # fmt: skip
        axis.bar_label(
            handles[label], fmt=_two_decimals, fontsize=6.5, padding=1.5,
            rotation=90 if len(groups) * len(labels) > FLAT_LABELS else 0,
        )  # fmt: skip
    axis.set_xticks(range(len(groups)), list(map(_plain, groups)))
    axis.axhline(0, color="#444444", linewidth=0.8)
    axis.margins(y=0.2)
    _decorate(axis, title, y_label)
    _finish(figure, handles)
    return figure


def bar_chart(
    bars: Sequence[Bar], show: Callable[[float], str], *, full: float | None = None
) -> "Figure":
    """Draw horizontal bars, each with its label above and its value at the right.

    Args:
        bars: At least one, from the top.
        show: Formats a value.
        full: Value of the longest possible bar; by default the largest value.
    """
    ends = [end for bar in bars for end in (bar.value, *(bar.interval or ()))]
    low = min(0.0, *ends)
    high = max(0.0, full or 0.0, *ends)
    right = low + 1.18 * ((high - low) or 1.0)  # where values end
    figure, [axis] = _grid(1, 1, height=0.38 * len(bars) - 0.8, width=4.2)
    figure.set_layout_engine("none")
    axis.set_position((0.0, 0.0, 1.0, 1.0))
    axis.set(xlim=(low, right), ylim=(len(bars) - 0.55, -0.5))
    axis.set_axis_off()
    axis.plot([0, 0], [-0.08, len(bars) - 0.55], color=_INK, linewidth=0.8)
    for place, bar in enumerate(bars):
        look: dict[str, Any] = {"color": PALETTE[0]}
        if bar.baseline:
            look = {"color": "none", "edgecolor": _INK, "linestyle": "--"}
        axis.barh(place + 0.2, bar.value, 0.34, linewidth=0.8, **look)
        if bar.interval is not None:
            axis.plot(bar.interval, [place + 0.2] * 2, color=_INK, linewidth=1.4, marker="|")
        axis.text(low, place - 0.12, _plain(_shortened(bar.label)), fontsize=9.5)
        axis.text(right, place + 0.32, _plain(show(bar.value)), fontsize=9.5, ha="right")
    return figure


def render(figure: "Figure", kind: Literal["png", "svg"] = "png") -> bytes:
    """Return a figure as the content of a file; equal figures give equal bytes.

    Args:
        figure: The figure.
        kind: `png` (160 dots per inch) or `svg`.
    """
    from matplotlib import rc_context

    buffer = io.BytesIO()
    metadata: Any = {"Software": None} if kind == "png" else {"Date": None, "Creator": None}
    with rc_context({"svg.hashsalt": "cassle-zoo"}):
        figure.savefig(buffer, format=kind, dpi=160, metadata=metadata)
    return buffer.getvalue()


def render_inline(figure: "Figure", key: str) -> str:
    """Return a figure as an `svg` element in the colours of a page, with its text as text.

    Black becomes the colour of the surrounding text, and the grid gets that of the page's `--line`.

    Args:
        figure: The figure.
        key: Unique on the page, so that ids differ.
    """
    from matplotlib import rc_context

    for artist in figure.findobj():
        artist.set_clip_on(False)  # clip paths are references, which pages do without
    buffer = io.StringIO()
    metadata: Any = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    with (
        rc_context({"svg.hashsalt": key, "svg.fonttype": "none"}),
        warnings.catch_warnings(action="ignore", category=UserWarning),  # a glyph is missing here
    ):
        figure.savefig(buffer, format="svg", transparent=True, metadata=metadata)
    _, start, drawing = buffer.getvalue().partition("<svg")
    # Only tags are changed: text is escaped, so that none looks like one.
    return re.sub("<[^>]*>", _for_page, start + drawing)


def _for_page(tag: re.Match[str]) -> str:
    text = tag[0].replace(_INK, "currentColor").replace(_GRID, "var(--line)")
    text = re.sub(r' id="[a-z0-9.]+_\d+"', "", text)
    return re.sub(r' xmlns(:xlink)?="[^"]*"', "", text)


def _plain(text: str) -> str:
    """Keep dollar signs from becoming formulas."""
    return text.replace("$", r"\$")


def _shortened(label: str) -> str:
    """Shorten in the middle, since names differ at both ends."""
    half = _LETTERS // 2
    return label if len(label) <= _LETTERS else f"{label[:half]}…{label[1 - half :]}"


def _two_decimals(value: float) -> str:
    return f"{value:.2f}".replace("-0.00", "0.00")


def _labels(panels: Mapping[Any, Mapping[str, object]]) -> list[str]:
    labels = list(dict.fromkeys(label for content in panels.values() for label in content))
    if not labels:
        raise ConfigError("there is nothing to draw.")
    return labels


def _grid(
    count: int, columns: int, *, height: float, width: float | None = None
) -> "tuple[Figure, list[Axes]]":
    rows = math.ceil(count / columns)
    wide = 2.6 * columns + 0.6 if width is None else width
    figure = new_figure(max(wide, 4.2), height * rows + 0.8)
    grid = figure.subplots(rows, columns, squeeze=False, sharey=True)
    axes = list(grid.flat)
    for axis in axes[count:]:
        axis.set_visible(False)
    return figure, axes[:count]


def _style(number: int, points: int) -> dict[str, Any]:
    return {
        "color": PALETTE[number % len(PALETTE)],
        "marker": MARKERS[number % len(MARKERS)],
        "linestyle": DASHES[number // len(PALETTE) % len(DASHES)],
        "linewidth": 1.5,
        "markersize": 4.5,
        # Dense curves keep their markers apart.
        "markevery": max(1, points // 12),
    }


def _decorate(axis: "Axes", name: str, y_label: str) -> None:
    axis.set_title(_plain(name), fontsize=9.5)
    axis.grid(axis="y", color=_GRID, linewidth=0.6)
    axis.set_axisbelow(True)
    axis.tick_params(labelsize=8)
    axis.spines[["top", "right"]].set_visible(False)
    axis.set_ylabel(y_label, fontsize=9)


def _finish(figure: "Figure", handles: Mapping[str, Any], title: str = "") -> None:
    if title:
        figure.suptitle(_plain(title), fontsize=11)
    if len(handles) > 1:
        labels = [_plain(_shortened(label)) for label in handles]
        # In inches: about 0.07 a letter of this size, and the handle.
        columns = int(figure.get_figwidth() / (0.07 * max(map(len, labels)) + 0.7))
        figure.legend(
            handles.values(), labels, loc="outside lower center",
            ncols=min(len(labels), max(1, columns)), fontsize=8, frameon=False,
        )  # fmt: skip
