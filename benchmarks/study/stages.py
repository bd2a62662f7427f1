"""Sensitivity by stage of the network: means over seeds, and their figure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from benchmarks.study.figures import new_figure
from benchmarks.study.records import Record
from benchmarks.study.summary import Spread, spread
from cassle_zoo.eval.report.figures import MARKERS, PALETTE

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_PER_ROW = 4  # panels
_MANY_STAGES = 8
_LAST = "backbone"  # the features, after which comes the projector


@dataclass(frozen=True, kw_only=True)
class Panel:
    """One panel of the figure.

    Attributes:
        title: Above it.
        augmentation: Such as `color`.
        arms: What to compare, by label; equal labels look equal in all panels.
    """

    title: str
    augmentation: str
    arms: Mapping[str, str]


def by_stage(records: Sequence[Record], arm: str, augmentation: str) -> dict[str, Spread]:
    """Return an arm's sensitivity at full strength, by stage in order.

    InfoNCE between images and their augmented versions, minus that between the images and
    themselves. A stage before the features that equals these (the last of a ResNet) is left out.
    """
    samples: dict[str, list[float]] = {}
    for record in records:
        if record.arm == arm and not record.error:
            series = record.results["sensitivity"].series
            for name, values in series.items():
                measure, _, rest = name.partition("/")
                if measure == "infonce" and rest.startswith(f"{augmentation}/"):
                    stage = rest.removeprefix(f"{augmentation}/")
                    plain = series[f"infonce/original/{stage}"][-1]
                    samples.setdefault(stage, []).append(values[-1] - plain)
    kept = {s: v for s, v in samples.items() if s == _LAST or v != samples.get(_LAST)}
    return {stage: spread(sample) for stage, sample in kept.items()}


def stages_figure(records: Sequence[Record], panels: Sequence[Panel]) -> "Figure":
    """Draw panels of sensitivity by stage, each with its own scale; bars are standard deviations.

    Raises:
        MissingDependencyError: If matplotlib is not installed.
    """
    rows = -(-len(panels) // _PER_ROW)
    figure = new_figure(11.0, 2.9 * rows + 0.5)
    axes = list(figure.subplots(rows, _PER_ROW, squeeze=False).flat)
    labels = list(dict.fromkeys(label for panel in panels for label in panel.arms))
    for axis in axes[len(panels) :]:
        axis.set_visible(False)
    for number, (axis, panel) in enumerate(zip(axes, panels, strict=False)):
        for label, arm in panel.arms.items():
            found = by_stage(records, arm, panel.augmentation)
            place = labels.index(label)
            axis.errorbar(
                list(found), [s.mean for s in found.values()],
                yerr=[s.std or 0.0 for s in found.values()], label=label,
                marker=MARKERS[place % len(MARKERS)], color=PALETTE[place % len(PALETTE)],
                markersize=4, linewidth=1.2, capsize=2,
            )  # fmt: skip
        axis.set_title(panel.title, fontsize=9.5)
        axis.axhline(0, color="#444444", linewidth=0.6)
        axis.tick_params(labelsize=7)
        crowded = len(axis.get_xticks()) > _MANY_STAGES
        axis.tick_params(axis="x", rotation=90 if crowded else 60)
        axis.grid(axis="y", color="#dddddd", linewidth=0.6)
        axis.spines[["top", "right"]].set_visible(False)
        if number % _PER_ROW == 0:
            axis.set_ylabel("InfoNCE above original", fontsize=8)
    handles = dict(zip(*reversed(figure.axes[0].get_legend_handles_labels()), strict=True))
    figure.legend(
        list(handles.values()), list(handles), loc="outside lower center", ncols=len(labels),
        frameon=False,
    )  # fmt: skip
    return figure
