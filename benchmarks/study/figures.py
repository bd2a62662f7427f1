"""Figures of the study's page: tasks by seed, sensitivity by network stage, galleries."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from benchmarks.study.design import MAIN
from benchmarks.study.metrics import Metric, number_of, values
from benchmarks.study.records import Record, course_of
from benchmarks.study.summary import Spread, spread
from cassle_zoo.common.errors import ConfigError
from cassle_zoo.eval.base import EvalData, Task
from cassle_zoo.eval.report.figures import DASHES, MARKERS, PALETTE, new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_PER_ROW = 4  # panels
_MANY_STAGES = 8
_LAST_STAGE = "backbone"  # the features; the projector comes after it
_RIGHT, _WRONG = "#009e73", "#d55e00"
_GALLERY_ROWS = 3  # queries of each kind
_GALLERY_CELL = 0.65  # inches of an image


def tasks_figure(
    records: Sequence[Record], arms: Sequence[str], metrics: Sequence[Metric]
) -> "Figure":
    """Draw a panel per metric: each seed of each arm, with mean and standard deviation.

    All panels span equally many points, so that differences can be compared between them.

    Raises:
        MissingDependencyError: If matplotlib is not installed.
    """
    figure, axes = _panels([metric.title for metric in metrics], "%", size=9, margin=0.6)
    for axis, metric in zip(axes, metrics, strict=True):
        for number, arm in enumerate(arms):
            sample = list(values(records, arm, metric).values())
            if not sample:
                continue
            found, colour = spread(sample), PALETTE[number % len(PALETTE)]
            # Beside the bar: seeds on it would look like its ends.
            axis.plot([number + 0.2] * len(sample), sample, ".", color=colour, markersize=5)
            axis.errorbar(
                number, found.mean, yerr=found.std, fmt=MARKERS[number % len(MARKERS)],
                color=colour, capsize=4, markersize=6, label=arm,
            )  # fmt: skip
        axis.set_xticks([])
        axis.margins(x=0.3, y=0.2)
    span = max(high - low for low, high in (axis.get_ylim() for axis in axes))
    for axis in axes:
        middle = sum(axis.get_ylim()) / 2
        axis.set_ylim(middle - span / 2, middle + span / 2)
    _legend(figure, len(arms))
    return figure


def course_figure(records: Sequence[Record], metrics: Sequence[Metric]) -> "Figure":
    """Draw a panel per metric: what each training reached by epoch, a line each.

    Args:
        records: Those of :func:`benchmarks.study.records.load_courses`, named by length.
        metrics: Of the evaluations in the course.

    Raises:
        MissingDependencyError: If matplotlib is not installed.
    """
    figure, axes = _panels([metric.title for metric in metrics], "%", size=9, margin=0.6)
    # An arm looks as in the other figures; dashes tell the lengths of its trainings apart.
    records = sorted(records, key=lambda r: (r.group != MAIN, r.against != "", r.arm))
    arms = list(dict.fromkeys(record.arm.partition(",")[0] for record in records))
    lengths = sorted(
        {record.arm.partition(",")[2] for record in records}, key=lambda own: (len(own), own)
    )[::-1]
    for axis, metric in zip(axes, metrics, strict=True):
        for record in records:
            arm, _, length = record.arm.partition(",")
            course, number = course_of(record), arms.index(arm)
            is_first = record is next(r for r in records if r.arm == record.arm)
            axis.plot(
                list(course), [metric.scale * number_of(r, metric) for r in course.values()],
                color=PALETTE[number % len(PALETTE)], marker=MARKERS[number % len(MARKERS)],
                linestyle=DASHES[lengths.index(length) % len(DASHES)], markersize=4, linewidth=1.2,
                label=record.arm if is_first else None,
            )  # fmt: skip
        axis.set_xlabel("epoch", fontsize=8)
    _legend(figure, 3)
    return figure


@dataclass(frozen=True, kw_only=True)
class StagePanel:
    """One panel of the figure of sensitivity by stage.

    Attributes:
        title: Above it.
        augmentation: Such as `color`.
        arms: What to compare, by label; equal labels look equal in all panels.
    """

    title: str
    augmentation: str
    arms: Mapping[str, str]


def sensitivity_by_stage(
    records: Sequence[Record], arm: str, augmentation: str
) -> dict[str, Spread]:
    """Return an arm's sensitivity at full strength, by network stage in order.

    It is InfoNCE between images and their augmented versions, minus that between the images and
    themselves. A stage before the features that equals them (the last of a ResNet) is left out.
    """
    samples: dict[str, list[float]] = {}
    for record in records:
        if record.arm == arm and not record.error:
            series = record.results["sensitivity"].series
            prefix = f"infonce/{augmentation}/"
            for name, curve in series.items():
                if name.startswith(prefix):
                    stage = name.removeprefix(prefix)
                    plain = series[f"infonce/original/{stage}"][-1]
                    samples.setdefault(stage, []).append(curve[-1] - plain)
    last = samples.get(_LAST_STAGE)
    return {
        stage: spread(sample)
        for stage, sample in samples.items()
        if stage == _LAST_STAGE or sample != last
    }


def stages_figure(records: Sequence[Record], panels: Sequence[StagePanel]) -> "Figure":
    """Draw panels of sensitivity by stage, each with its own scale; bars are standard deviations.

    Raises:
        MissingDependencyError: If matplotlib is not installed.
    """
    titles = [panel.title for panel in panels]
    figure, axes = _panels(titles, "InfoNCE above original", size=8, margin=0.5)
    labels = list(dict.fromkeys(label for panel in panels for label in panel.arms))
    for axis, panel in zip(axes, panels, strict=True):
        for label, arm in panel.arms.items():
            found = sensitivity_by_stage(records, arm, panel.augmentation)
            number = labels.index(label)
            axis.errorbar(
                list(found), [s.mean for s in found.values()],
                yerr=[s.std or 0.0 for s in found.values()], label=label,
                marker=MARKERS[number % len(MARKERS)], color=PALETTE[number % len(PALETTE)],
                markersize=4, linewidth=1.2, capsize=2,
            )  # fmt: skip
        axis.axhline(0, color="#444444", linewidth=0.6)
        crowded = len(axis.get_xticks()) > _MANY_STAGES
        axis.tick_params(axis="x", rotation=90 if crowded else 60)
    _legend(figure, len(labels))
    return figure


def gallery_figure(data: EvalData, task: str, first: Record, second: Record) -> "Figure":
    """Show queries for which two models find different neighbours, gains and losses alike.

    If they agree about every query, the first ones are shown. A gallery image counts as right if it
    equals the right one in every pixel.

    Args:
        data: The images.
        task: A task that both records have neighbours for.
        first: The baseline, shown at the left, beside the queries.
        second: What is compared with it, shown at the right.

    Raises:
        ConfigError: If the records have different queries.
        MissingDependencyError: If matplotlib is not installed.
    """
    labels = _labels_of_images(data, next(t for t in data.tasks if t.name == task))
    pairs = list(zip(first.neighbours[task], second.neighbours[task], strict=True))
    if any(a[0] != b[0] for a, b in pairs):
        raise ConfigError(f"{first.arm} and {second.arm} were recorded with different queries.")

    def right(row: Sequence[int]) -> list[bool]:
        [label] = labels[row[0]]
        return [label in labels[index] for index in row[1:]]

    def gain(number: int) -> tuple[int, int]:
        """More of the neighbours are right, or the right ones are nearer."""
        old, new = (right(row) for row in pairs[number])
        return sum(new) - sum(old), (new > old) - (new < old)

    order = sorted(range(len(pairs)), key=gain, reverse=True)
    differing = [number for number in order if right(pairs[number][0]) != right(pairs[number][1])]
    # Some territories have the flag of another: one query is enough.
    by_image = {_pixels(data, pairs[number][0][0]): number for number in reversed(differing)}
    differing = [number for number in differing if number in by_image.values()]
    shown = list(dict.fromkeys([*differing[:_GALLERY_ROWS], *differing[-_GALLERY_ROWS:]]))
    shown = shown or order[:_GALLERY_ROWS]
    width = len(pairs[0][0]) - 1
    figure = new_figure(_GALLERY_CELL * (2 * width + 2), _GALLERY_CELL * len(shown) + 0.5)
    grid = figure.subplots(len(shown), 2 * width + 2, squeeze=False)
    for axes, number in zip(grid, shown, strict=True):
        old, new = pairs[number]
        _draw_image(axes[0], data, old[0], None)
        axes[width + 1].set_visible(False)
        for row, start in ((old, 1), (new, width + 2)):
            for column, (index, is_right) in enumerate(zip(row[1:], right(row), strict=True)):
                _draw_image(axes[start + column], data, index, is_right)
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
    targets = task.targets.tolist()
    labels = {i: {targets[i]} for split in task.splits.values() for i in split.tolist()}
    alike: dict[bytes, set[int]] = {}
    for index in task.splits.get("gallery", torch.tensor([])).tolist():
        labels[index] = alike.setdefault(_pixels(data, index), set())
        labels[index].add(targets[index])
    return labels


def _pixels(data: EvalData, index: int) -> bytes:
    return data.images[index][0].convert("RGBA").tobytes()


def _panels(
    titles: Sequence[str], label: str, *, size: float, margin: float
) -> "tuple[Figure, list[Axes]]":
    """Return a figure with titled axes in rows, and `margin` inches for a legend.

    `label` is at the left of each row, in points of `size`.
    """
    count = len(titles)
    rows = -(-count // _PER_ROW)
    figure = new_figure(11.0, 2.9 * rows + margin)
    axes = list(figure.subplots(rows, _PER_ROW, squeeze=False).flat)
    for axis in axes[count:]:
        axis.set_visible(False)
    for axis, title in zip(axes[:count], titles, strict=True):
        axis.set_title(title, fontsize=9.5)
        axis.grid(axis="y", color="#dddddd", linewidth=0.6)
        axis.spines[["top", "right"]].set_visible(False)
        axis.tick_params(labelsize=size - 1)
    for axis in axes[:count:_PER_ROW]:
        axis.set_ylabel(label, fontsize=size)
    return figure, axes[:count]


def _legend(figure: "Figure", columns: int) -> None:
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=columns, frameon=False)


def _draw_image(axis: "Axes", data: EvalData, index: int, is_right: bool | None) -> None:
    axis.imshow(data.images[index][0])
    axis.set(xticks=[], yticks=[])
    for spine in axis.spines.values():
        # Dashes tell wrong from right without colour.
        spine.set(
            color={True: _RIGHT, False: _WRONG, None: "#444444"}[is_right],
            linewidth=1.0 if is_right is None else 2.0,
            linestyle="--" if is_right is False else "-",
        )
