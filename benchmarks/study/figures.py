"""Figures of the study's page."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from benchmarks.study.records import Record
from benchmarks.study.summary import Metric, spread, values
from cassle_zoo.common.errors import ConfigError
from cassle_zoo.eval.base import EvalData, Task
from cassle_zoo.eval.report.figures import MARKERS, PALETTE, require_matplotlib

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_RIGHT, _WRONG = "#009e73", "#d55e00"
_ROWS = 3  # queries of each kind in a gallery
_PER_ROW = 4  # metrics in a row of panels
_CELL = 0.65  # inches of an image in a gallery


def tasks_figure(
    records: Sequence[Record], arms: Sequence[str], metrics: Sequence[Metric]
) -> "Figure":
    """Draw a panel per metric: each seed of each arm, with mean and standard deviation.

    All panels span equally many points, so that differences can be compared between them.

    Raises:
        MissingDependencyError: If matplotlib is not installed.
    """
    rows = -(-len(metrics) // _PER_ROW)
    figure = new_figure(11.0, 2.9 * rows + 0.6)
    axes = list(figure.subplots(rows, _PER_ROW, squeeze=False).flat)
    for axis in axes[len(metrics) :]:
        axis.set_visible(False)
    for axis, metric in zip(axes, metrics, strict=False):
        for place, arm in enumerate(arms):
            sample = list(values(records, arm, metric).values())
            if not sample:
                continue
            found = spread(sample)
            colour = PALETTE[place % len(PALETTE)]
            axis.plot([place] * len(sample), sample, "_", color=colour, markersize=9, alpha=0.7)
            axis.errorbar(
                place, found.mean, yerr=found.std, fmt=MARKERS[place % len(MARKERS)],
                color=colour, capsize=4, markersize=6, label=arm,
            )  # fmt: skip
        axis.set_title(metric.title, fontsize=9.5)
        axis.set_xticks([])
        if axis.get_subplotspec().is_first_col():
            axis.set_ylabel("%", fontsize=9)
        axis.margins(x=0.3, y=0.2)
        axis.tick_params(labelsize=8)
        axis.grid(axis="y", color="#dddddd", linewidth=0.6)
        axis.spines[["top", "right"]].set_visible(False)
    spans = [high - low for low, high in (axis.get_ylim() for axis in axes[: len(metrics)])]
    for axis in axes[: len(metrics)]:
        middle = sum(axis.get_ylim()) / 2
        axis.set_ylim(middle - max(spans) / 2, middle + max(spans) / 2)
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(arms), frameon=False)
    return figure


def gallery_figure(data: EvalData, task: str, first: Record, second: Record) -> "Figure":
    """Show queries for which two models find different neighbours, gains and losses alike.

    An image of a gallery that equals the right one in every pixel is right.

    Args:
        data: The images.
        task: One that both records have neighbours of.
        first: The baseline, shown at the left, beside the queries.
        second: What is compared with it, shown at the right.

    Raises:
        ConfigError: If the records are of different queries, or agree about every query.
        MissingDependencyError: If matplotlib is not installed.
    """
    meant = _labels_of_images(data, next(t for t in data.tasks if t.name == task))
    pairs = list(zip(first.neighbours[task], second.neighbours[task], strict=True))
    if any(a[0] != b[0] for a, b in pairs):
        raise ConfigError(f"{first.arm} and {second.arm} were recorded with different queries.")

    def right(row: Sequence[int]) -> list[bool]:
        [label] = meant[row[0]]
        return [label in meant[index] for index in row[1:]]

    def gain(place: int) -> tuple[int, int]:
        """More of the neighbours are right, or the right ones are nearer."""
        old, new = (right(row) for row in pairs[place])
        return sum(new) - sum(old), (new > old) - (new < old)

    order = sorted(range(len(pairs)), key=gain, reverse=True)
    differing = [place for place in order if right(pairs[place][0]) != right(pairs[place][1])]
    # Some territories have the flag of another: one query is enough.
    by_image = {_bytes(data, pairs[place][0][0]): place for place in reversed(differing)}
    differing = [place for place in differing if place in by_image.values()]
    if not differing:
        raise ConfigError(f"{first.arm} and {second.arm} find equally for every query of {task}.")
    shown = list(dict.fromkeys([*differing[:_ROWS], *differing[-_ROWS:]]))
    width = len(pairs[0][0]) - 1
    figure = new_figure(_CELL * (2 * width + 2), _CELL * len(shown) + 0.5)
    grid = figure.subplots(len(shown), 2 * width + 2, squeeze=False)
    for row, place in enumerate(shown):
        old, new = pairs[place]
        _image(grid[row][0], data, old[0], None)
        grid[row][width + 1].set_visible(False)
        for rows, at in ((old, 1), (new, width + 2)):
            for number, (index, is_right) in enumerate(zip(rows[1:], right(rows), strict=True)):
                _image(grid[row][at + number], data, index, is_right)
    nearest = [(right(a)[0], right(b)[0]) for a, b in pairs]
    figure.suptitle(
        f"{task}: of {len(pairs)} queries the nearest is right for {second.arm} only in "
        f"{nearest.count((False, True))}, for {first.arm} only in {nearest.count((True, False))}\n"
        f"left: query, and what {first.arm} finds; right: {second.arm}",
        fontsize=8.5,
    )
    return figure


def _labels_of_images(data: EvalData, task: Task) -> dict[int, set[int]]:
    """Return the labels of a task's images; in a gallery, also those of equal images."""
    labels = task.targets.tolist()
    meant = {i: {labels[i]} for split in task.splits.values() for i in split.tolist()}
    alike: dict[bytes, set[int]] = {}
    for index in task.splits.get("gallery", torch.tensor([])).tolist():
        found = alike.setdefault(_bytes(data, index), set())
        found.add(labels[index])
        meant[index] = found
    return meant


def _bytes(data: EvalData, index: int) -> bytes:
    """Return the pixels of an image; equal images have equal ones."""
    return data.images[index][0].convert("RGBA").tobytes()


def new_figure(width: float, height: float) -> "Figure":
    """Return an empty figure of so many inches.

    Raises:
        MissingDependencyError: If matplotlib is not installed.
    """
    require_matplotlib()
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _image(axis: "Axes", data: EvalData, index: int, is_right: bool | None) -> None:
    axis.imshow(data.images[index][0])
    axis.set(xticks=[], yticks=[])
    for spine in axis.spines.values():
        # Dashes tell wrong from right without colour.
        spine.set(
            color={True: _RIGHT, False: _WRONG, None: "#444444"}[is_right],
            linewidth=1.0 if is_right is None else 2.0,
            linestyle="--" if is_right is False else "-",
        )
