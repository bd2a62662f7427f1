import dataclasses

import pytest

from benchmarks.study.records import Record
from benchmarks.study.stages import Panel, by_stage, stages_figure


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
    found = by_stage(records, records[0].arm, "color")
    assert list(found) == ["layer1", "backbone", "projector"]  # layer2 is the backbone's features
    assert [stage.mean for stage in found.values()] == [0.5, 2.0, 0.5]
    assert found["backbone"].std == pytest.approx(2**0.5)
    assert by_stage(records, "unknown", "color") == {}


def test_a_stage_that_differs_from_the_features_with_one_seed_is_kept(
    records: list[Record],
) -> None:
    series = {**records[0].results["sensitivity"].series, "infonce/color/layer2": [9.0, 4.0]}
    result = dataclasses.replace(records[0].results["sensitivity"], series=series)
    other = dataclasses.replace(records[0], results={"sensitivity": result})
    assert "layer2" in by_stage([other, records[1]], other.arm, "color")


def test_the_figure_has_a_scale_for_each_panel(records: list[Record]) -> None:
    arms = {"plain": records[0].arm}
    panels = [Panel(title=title, augmentation="color", arms=arms) for title in ("one", "two")]
    first, second, *unused = stages_figure(records, panels).axes
    assert (first.get_title(), second.get_title()) == ("one", "two")
    assert [axis.get_visible() for axis in unused] == [False, False]
    [line, *_] = first.lines
    assert list(line.get_ydata()) == [0.5, 2.0, 0.5]
    assert [label.get_text() for label in first.get_xticklabels()] == [
        "layer1",
        "backbone",
        "projector",
    ]
    assert not first.get_shared_y_axes().joined(first, second)
