"""Figures that read without colour: Okabe and Ito's palette, with markers and hatches besides.

Only `matplotlib.figure.Figure` is used, never pyplot, so that no global state is touched and no
display is needed.
"""

import importlib.util
import io
import math
from collections.abc import Mapping, Sequence
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

Line = tuple[Sequence[float], Sequence[float]]
"""x and y of a curve."""


def require_matplotlib() -> None:
    """Check that figures can be drawn, before anything long is computed for them.

    Raises:
        MissingDependencyError: If matplotlib is not installed.
    """
    if importlib.util.find_spec("matplotlib") is None:
        raise MissingDependencyError(
            "figures need matplotlib: pip install 'cassle-zoo[figures]', or leave them out with "
            "--no-figures."
        )


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
        panels: By panel title, curves by label; equal labels look equal in all panels.
        x_label: Below the lowest panels.
        y_label: Beside the first panels.
        title: Above all.
        ticks: By panel title, names of the x values 0, 1, 2, ..., if these are categories.
        log: Whether both axes are logarithmic.

    Raises:
        ConfigError: If there is nothing to draw.
    """
    labels = _labels(panels)
    columns = min(len(panels), MAX_COLUMNS)
    figure, axes = _grid(len(panels), columns, height=2.6 if ticks is None else 3.1)
    for number, (name, curves) in enumerate(panels.items()):
        axis = axes[number]
        for label, (x, y) in curves.items():
            axis.plot(x, y, label=label, **_style(labels.index(label), len(x)))
        if log:
            axis.set(xscale="log", yscale="log")
        _decorate(axis, name, first=number % columns == 0, y_label=y_label)
        if ticks is not None and name in ticks:
            axis.set_xticks(range(len(ticks[name])), ticks[name], rotation=60, ha="right")
        elif number + columns >= len(panels):
            axis.set_xlabel(x_label)
    _finish(figure, axes, labels, title)
    return figure


def grouped_bars(
    panels: Mapping[str, Mapping[str, Mapping[str, float]]], *, y_label: str, title: str = ""
) -> "Figure":
    """Draw groups of bars, a panel below the other; values stand above the bars.

    Args:
        panels: By panel title, values by group and bar; equal bars look equal everywhere.
        y_label: Beside each panel.
        title: Above all.

    Raises:
        ConfigError: If there is nothing to draw.
    """
    labels = _labels(
        {f"{p}/{g}": bars for p, groups in panels.items() for g, bars in groups.items()}
    )
    groups = max(len(groups) for groups in panels.values())
    width = min(max(4.0, 0.42 * groups * (len(labels) + 0.8)), 13.0)
    figure, axes = _grid(len(panels), 1, height=2.7, width=width)
    bar_width = 0.84 / len(labels)
    for number, (name, content) in enumerate(panels.items()):
        axis = axes[number]
        for place, label in enumerate(labels):
            at = [i for i, bars in enumerate(content.values()) if label in bars]
            values = [bars[label] for bars in content.values() if label in bars]
            offset = (place - (len(labels) - 1) / 2) * bar_width
            drawn = axis.bar(
                [i + offset for i in at], values, bar_width * 0.94, label=label,
                color=PALETTE[place % len(PALETTE)], hatch=HATCHES[place % len(HATCHES)],
                edgecolor="white", linewidth=0.6,
            )  # fmt: skip
            axis.bar_label(
                drawn, fmt=_two_decimals, fontsize=6.5, padding=1.5,
                rotation=90 if groups * len(labels) > FLAT_LABELS else 0,
            )  # fmt: skip
        axis.set_xticks(range(len(content)), list(content))
        axis.axhline(0, color="#444444", linewidth=0.8)
        axis.margins(y=0.2)
        _decorate(axis, name, first=True, y_label=y_label)
    _finish(figure, axes, labels, title)
    return figure


def render(figure: "Figure", kind: Literal["png", "svg"] = "png") -> bytes:
    """Return a figure as a file; equal figures give equal bytes.

    Args:
        figure: What to draw.
        kind: `png` (160 dots per inch) or `svg`.
    """
    from matplotlib import rc_context

    buffer = io.BytesIO()
    metadata: Any = {"Software": None} if kind == "png" else {"Date": None, "Creator": None}
    with rc_context({"svg.hashsalt": "cassle-zoo"}):
        figure.savefig(buffer, format=kind, dpi=160, metadata=metadata)
    return buffer.getvalue()


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
    require_matplotlib()
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rows = math.ceil(count / columns)
    wide = 2.6 * columns + 0.6 if width is None else width
    figure = Figure(figsize=(max(wide, 4.2), height * rows + 0.8), layout="constrained")
    FigureCanvasAgg(figure)
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


def _decorate(axis: "Axes", name: str, *, first: bool, y_label: str) -> None:
    axis.set_title(name, fontsize=9.5)
    axis.grid(axis="y", color="#dddddd", linewidth=0.6)
    axis.set_axisbelow(True)
    axis.tick_params(labelsize=8)
    axis.spines[["top", "right"]].set_visible(False)
    if first:
        axis.set_ylabel(y_label, fontsize=9)


def _finish(figure: "Figure", axes: "Sequence[Axes]", labels: Sequence[str], title: str) -> None:
    if title:
        figure.suptitle(title, fontsize=11)
    handles: dict[str, Any] = {}
    for axis in axes:
        handles.update(dict(zip(*reversed(axis.get_legend_handles_labels()), strict=True)))
    if len(labels) > 1:
        # In inches: about 0.07 a letter of this size, and the handle.
        widest = 0.07 * max(map(len, labels)) + 0.7
        columns = int(figure.get_figwidth() / widest)
        figure.legend(
            [handles[label] for label in labels], labels, loc="outside lower center",
            ncols=min(len(labels), max(1, columns)), fontsize=8, frameon=False,
        )  # fmt: skip
