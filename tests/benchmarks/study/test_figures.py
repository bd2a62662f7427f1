import dataclasses
from pathlib import Path

import numpy as np
import pytest
from matplotlib.container import ErrorbarContainer

from benchmarks.study.figures import (
    StagePanel,
    course_figure,
    gallery_figure,
    sensitivity_by_stage,
    stages_figure,
    tasks_figure,
)
from benchmarks.study.metrics import COURSE, TASKS
from benchmarks.study.records import Record
from cassle_zoo.common.errors import ConfigError
from cassle_zoo.eval.datasets import open_data
from cassle_zoo.eval.report.figures import DASHES, MARKERS, PALETTE


def with_stages(record: Record, seed: int, last: list[float]) -> Record:
    """Two strengths of a network whose last stage gives the features."""
    series = {
        "strength/color": [0.5, 1.0],
        "infonce/original/layer1": [1.0],
        "infonce/original/layer2": [2.0],
        "infonce/original/backbone": [2.0],
        "infonce/original/projector": [0.5],
        "infonce/color/layer1": [9.0, 1.5],
        "infonce/color/layer2": last,
        "infonce/color/backbone": last,
        "infonce/color/projector": [9.0, 1.0],
        "infonce/color_diff/layer1": [9.0, 9.0],
    }
    result = dataclasses.replace(record.results["emoji64"], series=series)
    return dataclasses.replace(record, seed=seed, results={"sensitivity": result})


@pytest.fixture
def records(record: Record) -> list[Record]:
    failed = dataclasses.replace(record, seed=2, error="nan", results={})
    return [with_stages(record, 0, [9.0, 3.0]), with_stages(record, 1, [9.0, 5.0]), failed]


def test_means_over_seeds_above_the_original_in_the_order_of_the_network(
    records: list[Record],
) -> None:
    found = sensitivity_by_stage(records, records[0].arm, "color")
    assert list(found) == ["layer1", "backbone", "projector"]  # layer2 is the backbone's features
    assert [stage.mean for stage in found.values()] == [0.5, 2.0, 0.5]
    assert found["backbone"].std == pytest.approx(2**0.5)
    assert sensitivity_by_stage(records, "unknown", "color") == {}


def test_a_stage_that_differs_from_the_features_with_one_seed_is_kept(
    records: list[Record],
) -> None:
    series = {**records[0].results["sensitivity"].series, "infonce/color/layer2": [9.0, 4.0]}
    result = dataclasses.replace(records[0].results["sensitivity"], series=series)
    other = dataclasses.replace(records[0], results={"sensitivity": result})
    assert "layer2" in sensitivity_by_stage([other, records[1]], other.arm, "color")


def test_the_figure_has_a_scale_for_each_panel(records: list[Record]) -> None:
    arms = {"plain": records[0].arm}
    panels = [StagePanel(title=title, augmentation="color", arms=arms) for title in ("one", "two")]
    first, second, *unused = stages_figure(records, panels).axes
    assert (first.get_title(), second.get_title()) == ("one", "two")
    assert [axis.get_visible() for axis in unused] == [False, False]
    [line, *_] = first.lines
    assert np.array_equal(line.get_ydata(), [0.5, 2.0, 0.5])
    assert [label.get_text() for label in first.get_xticklabels()] == [
        "layer1",
        "backbone",
        "projector",
    ]
    assert not first.get_shared_y_axes().joined(first, second)


def test_tasks_are_drawn_with_every_seed_and_error_bars(record: Record) -> None:
    other = dataclasses.replace(
        record,
        seed=1,
        results={
            "emoji64": dataclasses.replace(
                record.results["emoji64"], metrics={"flags": {"recall@1": 0.35}}
            )
        },
    )
    flags = TASKS[6]
    axis, *unused = tasks_figure([record, other], [record.arm, "not recorded"], [flags]).axes
    assert axis.get_title() == flags.title
    assert [axis.get_visible() for axis in unused] == [False] * 3
    [drawn] = axis.containers
    assert isinstance(drawn, ErrorbarContainer)
    assert np.array_equal(axis.lines[0].get_ydata(), [25.0, 35.0])
    assert np.array_equal(drawn.lines[0].get_ydata(), [30.0])
    [bar] = drawn.lines[2][0].get_segments()
    assert bar[1][1] - bar[0][1] == pytest.approx(2 * 50**0.5)  # two standard deviations


def test_galleries_show_gains_before_losses(record: Record, emoji_folder: Path) -> None:
    data = open_data("emoji64", emoji_folder)
    task = next(task for task in data.tasks if task.name == "skin_tone")
    test, train = task.splits["test"].tolist(), task.splits["train"].tolist()

    def row(query: int, right: bool) -> list[int]:
        alike = [i for i in train if (task.targets[i] == task.targets[query]) == right]
        return [query, *alike[:2]]

    def with_rows(arm: str, *rights: bool) -> Record:
        rows = [row(query, right) for query, right in zip(test, rights, strict=False)]
        return dataclasses.replace(record, arm=arm, neighbours={"skin_tone": rows})

    old, new = with_rows("old", False, True, True), with_rows("new", True, True, False)
    figure = gallery_figure(data, "skin_tone", old, new)
    assert "of 3 queries" in figure.get_suptitle()
    assert "right for new only in 1, for old only in 1" in figure.get_suptitle()
    # A row is: query, two of old's, a gap, two of new's; here a gain, then a loss.
    dashed = [axis.spines["left"].get_linestyle() == "--" for axis in figure.axes]
    assert dashed == [False, True, True, False, False, False] + [False] * 4 + [True] * 2
    # Without any difference, the first queries are shown.
    same = gallery_figure(data, "skin_tone", old, old)
    assert "right for old only in 0, for old only in 0" in same.get_suptitle()
    assert len(same.axes) == 3 * 6
    other = with_rows("other", True)
    with pytest.raises(ConfigError, match="different queries"):
        rows = [row[::-1] for row in other.neighbours["skin_tone"]]
        gallery_figure(
            data,
            "skin_tone",
            dataclasses.replace(other, neighbours={"skin_tone": rows}),
            other,
        )


def test_equal_images_are_equally_right(record: Record, emoji_folder: Path) -> None:
    data = open_data("emoji64", emoji_folder)
    flags = next(task for task in data.tasks if task.name == "flags")
    (a, b, c), (query, other) = flags.splits["gallery"][:3].tolist(), flags.splits["query"][:2]
    assert flags.targets[a] == flags.targets[query] != flags.targets[b]

    def with_rows(arm: str, *rows: list[int]) -> Record:
        return dataclasses.replace(record, arm=arm, neighbours={"flags": [*rows]})

    old = with_rows("old", [int(query), b], [int(other), b])
    new = with_rows("new", [int(query), a], [int(other), c])
    title = gallery_figure(data, "flags", old, new).get_suptitle()
    assert "right for new only in 1, for old only in 1" in title
    images = [data.images[i] for i in range(len(data.images))]
    images[b] = images[a]
    equal = dataclasses.replace(data, images=images)
    title = gallery_figure(equal, "flags", old, new).get_suptitle()
    assert "right for new only in 0, for old only in 1" in title


def test_a_course_is_a_line_per_seed_and_one_label_per_arm(
    with_course: Record,
) -> None:
    later = dataclasses.replace(with_course, seed=1)
    figure = course_figure([with_course, later], COURSE)
    panel = figure.axes[0]
    points = [np.asarray(line.get_xydata()).tolist() for line in panel.lines]
    assert points == 2 * [[[5, 20], [10, 30]]]
    assert [text.get_text() for text in figure.legends[0].texts] == [later.arm]


def test_a_course_looks_as_its_arm_elsewhere_and_has_dashes_by_length(with_course: Record) -> None:
    """The longest is solid; else a figure of several lengths swaps the arms' colours."""
    records = [
        dataclasses.replace(with_course, arm=f"{arm}, {epochs} epochs", against=against)
        for epochs in (60, 100, 25)
        for arm, against in (("cassle_simclr", f"simclr, {epochs} epochs"), ("simclr", ""))
    ]
    figure = course_figure(records, COURSE)
    lines = figure.axes[0].lines
    looks = [(line.get_color(), line.get_marker(), line.get_linestyle()) for line in lines]
    assert looks == [
        *((PALETTE[0], MARKERS[0], DASHES[place]) for place in (0, 2, 1)),
        *((PALETTE[1], MARKERS[1], DASHES[place]) for place in (0, 2, 1)),
    ]
