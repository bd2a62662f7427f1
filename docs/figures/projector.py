"""The conditioned projector of a bundled model, with the widths that its weights have."""

from typing import TYPE_CHECKING, Any

from torch import nn

import cassle_zoo
from docs.figures.style import FAINT, INK, KEPT, TINT, open_canvas

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MODEL = "resnet18_cassle_simclr.emoji64"
_HEIGHT = 4.5


def measure() -> dict[str, Any]:
    """Return the widths of the layers of encoder and projector."""
    projector = cassle_zoo.create_projector(MODEL, pretrained=True)
    assert projector.encoder is not None and projector.layers is not None
    return {
        "model": MODEL,
        "features": projector.config.in_features,
        "omega": projector.layout.widths,
        "encoder": _widths(projector.encoder),
        "projector": _widths(projector.layers),
        "conditioning": projector.config.conditioning,
    }


def _widths(layers: nn.Module) -> list[int]:
    linear = [layer for layer in layers.modules() if isinstance(layer, nn.Linear)]
    return [linear[0].in_features, *(layer.out_features for layer in linear)]


def draw(numbers: dict[str, Any]) -> "Figure":
    """Draw what a view and its omega go through, and what remains after training."""
    figure, axis = open_canvas(_HEIGHT)
    encoder, layers, features = numbers["encoder"], numbers["projector"], numbers["features"]
    joined = layers[0]
    assert numbers["conditioning"] == "cat" and joined == features + encoder[-1]
    left, right = 1.45, 4.15
    _region(axis, 0.08, 0.08, 5.44, 2.72, "#f4f6f9", "projector, training only")
    _region(axis, 0.08, 2.9, 2.76, 1.54, KEPT, "backbone, what you get")
    _box(axis, left, 4.0, 2.2, "view of the image")
    _box(axis, left, 3.2, 2.2, f"resnet18  →  features, {features}")
    _box(axis, right, 4.0, 2.4, "how the view was made\n(crop, colours, blur, grey)")
    _box(axis, right, 3.2, 2.4, f"ω, {encoder[0]} numbers", TINT)
    _box(
        axis, right, 2.28, 2.4,
        f"encoder, {len(encoder) - 1} layers\n{encoder[0]} → {encoder[1]} → … → {encoder[-1]}",
    )  # fmt: skip
    _box(axis, left, 1.74, 2.4, f"concatenated, {features} + {encoder[-1]} = {joined}")
    _box(axis, left, 1.06, 2.4, " → ".join(map(str, layers)) + f"\n{len(layers) - 1} layers")
    _box(axis, right, 1.06, 2.4, f"projection, {layers[-1]}")
    axis.text(
        2.8, 0.42, "the loss compares it with the projection of the other view,\n"
        "which has an ω of its own", ha="center", va="center", fontsize=8, color=FAINT,
    )  # fmt: skip
    for start, end in (
        ((left, 3.78), (left, 3.42)), ((left, 2.98), (left, 1.94)), ((right, 3.78), (right, 3.42)),
        ((right, 2.98), (right, 2.52)), ((left, 1.52), (left, 1.3)), ((2.65, 1.06), (2.95, 1.06)),
    ):  # fmt: skip
        _arrow(axis, start, end)
    axis.plot([right, right], [2.04, 1.74], color=INK, linewidth=1.1)
    _arrow(axis, (right, 1.74), (2.65, 1.74))
    return figure


def _region(
    axis: "Axes", left: float, bottom: float, width: float, height: float, colour: str, title: str
) -> None:
    from matplotlib.patches import FancyBboxPatch

    style = "round,pad=0,rounding_size=0.08"
    axis.add_patch(
        FancyBboxPatch((left, bottom), width, height, boxstyle=style, color=colour, linewidth=0)
    )
    y = bottom + height - 0.13
    axis.text(left + 0.1, y, title, va="center", fontsize=7, color=FAINT, style="italic")


def _box(axis: "Axes", x: float, y: float, width: float, text: str, colour: str = "white") -> None:
    from matplotlib.patches import FancyBboxPatch

    style = "round,pad=0,rounding_size=0.05"
    corner, height = (x - width / 2, y - 0.21), 0.42
    axis.add_patch(
        FancyBboxPatch(
            corner, width, height, boxstyle=style, facecolor=colour, edgecolor=INK, linewidth=0.9
        )
    )
    axis.text(x, y, text, ha="center", va="center", fontsize=8.5, color=INK)


def _arrow(axis: "Axes", start: tuple[float, float], end: tuple[float, float]) -> None:
    line = {"arrowstyle": "-|>", "color": INK, "linewidth": 1.1, "shrinkA": 0, "shrinkB": 0}
    axis.annotate("", end, start, arrowprops=line)
