import importlib.util
import subprocess
import sys

import pytest

from cassle_zoo.common.errors import ConfigError, DataError, MissingDependencyError
from cassle_zoo.eval.report import figures
from cassle_zoo.eval.report import sensitivity_figures as drawn

SERIES = {
    "strength/original": [0.0],
    "infonce/original/stem": [0.2],
    "infonce/original/backbone": [0.1],
    "strength/crop": [0.0, 1.0],
    "value/crop": [1.0, 0.2],
    "infonce/crop/stem": [0.2, 0.4],
    "infonce/crop/backbone": [0.1, 0.9],
}
METRICS = {
    "crop": {"infonce_backbone": 0.9, "projector_cosine_right": 0.8, "projector_cosine_zero": 0.5},
    "blur": {"r2_single": 0.3, "r2_pair": -0.1},
}


def lines(figure):
    return [line for axis in figure.axes for line in axis.get_lines()]


def test_curves_differ_without_colour():
    names = [f"stage{number}" for number in range(14)]
    figure = figures.line_panels(
        {panel: {name: ([0, 1], [1, 2]) for name in names} for panel in "ab"},
        x_label="x",
        y_label="y",
    )
    looks = {(line.get_label(), line.get_marker(), line.get_linestyle()) for line in lines(figure)}
    assert len(looks) == len(names)
    assert len({look[1:] for look in looks}) == len(names)


def test_bars_differ_without_colour():
    figure = figures.grouped_bars(
        {"": {"crop": {"right": 0.9, "zero": 0.5}, "blur": {"zero": 0.4}}}, y_label="y"
    )
    bars = {bar.get_hatch(): bar.get_height() for bar in figure.axes[0].patches}
    assert set(bars) == set(figures.HATCHES[:2])
    assert len(figure.axes[0].patches) == 3


@pytest.mark.parametrize("kind", ["png", "svg"])
def test_equal_figures_give_equal_bytes(kind):
    first, second = (
        figures.render(figures.line_panels({"": {"a": ([0], [1])}}, x_label="x", y_label="y"), kind)
        for _ in range(2)
    )
    assert first == second
    assert first[:5] in (b"\x89PNG\r", b"<?xml")


def test_no_global_state():
    code = (
        "import sys\nfrom cassle_zoo.eval.report.figures import *\n"
        "assert 'matplotlib' not in sys.modules\n"
        "render(line_panels({'': {'a': ([0], [1])}}, x_label='x', y_label='y'))\n"
        "assert 'matplotlib.pyplot' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_without_matplotlib(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingDependencyError, match=r"cassle-zoo\[figures\]"):
        figures.require_matplotlib()


def test_figures_of_one_and_several_models():
    one = drawn.strength_figure(SERIES)
    assert [axis.get_title() for axis in one.axes] == ["crop"]
    assert [line.get_label() for line in lines(one)] == ["stem", "backbone"]
    last = {**SERIES, "infonce/crop/layer4": SERIES["infonce/crop/backbone"]}
    assert [line.get_label() for line in lines(drawn.strength_figure(last))] == ["stem", "backbone"]
    both = {"ours": SERIES, "theirs": SERIES}
    compared = drawn.strength_comparison(both)
    assert [line.get_label() for line in lines(compared)] == ["ours", "theirs"]
    assert lines(compared)[0].get_ydata().tolist() == [0.1, 0.9]
    stages = drawn.stage_figure(both)
    assert [axis.get_title() for axis in stages.axes] == ["original", "crop"]
    ticks = [tick.get_text() for tick in stages.axes[0].get_xticklabels()]
    assert ticks == ["stem", "backbone"]
    assert [axis.get_title() for axis in drawn.projector_figure({"m": METRICS}).axes] == ["m"]
    assert [axis.get_title() for axis in drawn.equivariance_figure({"m": METRICS}).axes] == ["m"]
    panels = drawn.equivariance_figure({"m": METRICS, "n": METRICS}).axes
    assert [axis.get_title() for axis in panels] == ["from one view", "from image and view"]
    spectrum = drawn.spectrum_figure({"m": {"explained_variance": [0.9, 0.1, 0.0]}})
    assert lines(spectrum)[0].get_xdata().tolist() == [1, 2]


def test_results_of_another_kind():
    with pytest.raises(DataError, match="not one of `sensitivity`"):
        drawn.strength_figure({"explained_variance": [1.0]})
    with pytest.raises(DataError, match="similarities of projections"):
        drawn.projector_figure({"m": {"blur": {"r2_single": 1.0}}})
    with pytest.raises(DataError, match="no result has R²"):
        drawn.equivariance_figure({"m": {}})
    with pytest.raises(DataError, match="m has no explained variance"):
        drawn.spectrum_figure({"m": SERIES})
    with pytest.raises(ConfigError, match="nothing to draw"):
        figures.line_panels({}, x_label="x", y_label="y")
