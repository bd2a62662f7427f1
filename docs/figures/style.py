"""What the figures have in common: size, colours, and how they are saved."""

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cassle_zoo.eval.report.figures import PALETTE, new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTH = 5.6  # inches; shrunk to a phone's screen, letters of 8 points can still be read
BLUE, ORANGE, GREEN = PALETTE[:3]
INK, FAINT, TINT, KEPT = "#1d2733", "#5f6b7a", "#fde9c9", "#d9efe6"

_OPTIONS: Any = {
    "svg.fonttype": "none",  # text stays text
    "svg.hashsalt": "cassle-zoo",
    "font.family": ["DejaVu Sans", "Verdana", "sans-serif"],
    "font.size": 9,
}


def open_figure(height: float) -> "Figure":
    """Return an empty figure of the common width and a height in inches."""
    figure = new_figure(WIDTH, height)
    figure.set_facecolor("white")
    return figure


def open_canvas(height: float) -> tuple["Figure", "Axes"]:
    """Return a figure without axes to draw on, in inches from the lower left."""
    figure = open_figure(height)
    figure.set_layout_engine("none")
    axis = figure.add_axes((0, 0, 1, 1), xlim=(0, WIDTH), ylim=(0, height))
    axis.set_axis_off()
    return figure, axis


def save(figure: "Figure", path: Path) -> None:
    """Write an SVG that depends on the figure alone."""
    import matplotlib

    with matplotlib.rc_context(_OPTIONS):
        figure.savefig(path, metadata={"Date": None, "Creator": None})
    text = re.sub(r"[ \t]+$", "", path.read_text("utf-8"), flags=re.MULTILINE)
    path.write_text(text, encoding="utf-8")
