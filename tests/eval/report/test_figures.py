"""Figures: what is drawn, that it reads without colour, and that it belongs on a page."""

import importlib.util
import re
import subprocess
import sys
import xml.etree.ElementTree as ET

import pytest

from cassle_zoo.common.errors import ConfigError, DataError, MissingDependencyError
from cassle_zoo.eval.report import figures
from cassle_zoo.eval.report import sensitivity_figures as drawn
from cassle_zoo.eval.report.figures import Bar, bar_chart, line_panels, render_inline

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
        {"crop": {"right": 0.9, "zero": 0.5}, "blur": {"zero": 0.4}}, y_label="y"
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


def texts(figure):
    return [text.get_text() for text in figure.axes[0].texts]


def test_bars_are_as_long_as_their_values():
    bars = [Bar(label="a", value=0.5), Bar(label="b", value=0.25, baseline=True)]
    figure = bar_chart(bars, "{:.2f}".format, full=1.0)
    shown = figure.axes[0].patches
    assert [bar.get_width() for bar in shown] == [0.5, 0.25]
    assert [bar.get_facecolor()[3] for bar in shown] == [1, 0]
    assert texts(figure) == ["a", "0.50", "b", "0.25"]
    assert figure.axes[0].get_xlim()[0] == 0
    assert figure.axes[0].get_xlim()[1] > 1


def test_negative_bars_end_at_zero():
    figure = bar_chart([Bar(label="a", value=-1.0), Bar(label="b", value=2.0)], str)
    left, right = figure.axes[0].patches
    assert left.get_x() == right.get_x() == 0
    assert (left.get_width(), right.get_width()) == (-1, 2)
    assert figure.axes[0].get_xlim()[0] == -1
    assert figure.axes[0].get_xlim()[1] > 2


@pytest.mark.parametrize("values", [[0.0], [0.0, 0.0], [5.0]])
def test_bars_of_any_values(values):
    figure = bar_chart([Bar(label="<&>", value=value) for value in values], str)
    assert len(figure.axes[0].patches) == len(values)
    assert render_inline(figure, "").count("&lt;&amp;&gt;") == len(values)


def test_a_line_of_one_point():
    assert "<svg" in render_inline(line_panels({"": {"a": ([1], [7])}}, x_label="", y_label=""), "")


def test_long_labels_are_cut_in_the_middle():
    label = "a" * 50 + "b" * 50
    short = f"{'a' * 20}…{'b' * 19}"
    assert texts(bar_chart([Bar(label=label, value=1.0)], str))[0] == short
    figure = line_panels({"": {label: ([0], [1]), "b": ([0], [1])}}, x_label="", y_label="")
    assert [text.get_text() for text in figure.legends[0].texts] == [short, "b"]


def test_dollar_signs_are_no_formulas():
    name = r"$\broken{$ #000000 <path id=\"a_1\">"
    svg = render_inline(bar_chart([Bar(label=name, value=1.0)], str), "")
    assert [text.text for text in ET.fromstring(svg).iter("text")] == [name, "1.0"]


def test_letters_that_only_the_browser_can_draw_are_no_warning(recwarn):
    curves = {"模型": ([0, 1], [1, 2]), "b": ([0, 1], [2, 2])}
    assert "模型" in render_inline(line_panels({"": curves}, x_label="", y_label=""), "")
    assert not [warning for warning in recwarn if "Glyph" in str(warning.message)]


def test_an_inline_figure_takes_the_colours_of_its_page():
    lines = {"a": ([0, 1], [1, 2]), "b": ([0, 1], [2, 2])}
    svg, other = (
        render_inline(line_panels({"": lines}, x_label="", y_label=""), key) for key in "ab"
    )
    assert svg.startswith("<svg")
    assert "currentColor" in svg
    assert "var(--line)" in svg
    assert "#000000" not in svg
    assert not re.search(r"https?:|url\(|<metadata", svg)
    ids, others = (set(re.findall(r' id="([^"]*)"', text)) for text in (svg, other))
    assert ids
    assert not ids & others
    assert set(re.findall(r'xlink:href="#([^"]*)"', svg)) <= ids


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
    stages = drawn.stage_figure(both)
    assert [axis.get_title() for axis in stages.axes] == ["original", "crop"]
    assert [line.get_label() for line in lines(stages)][-2:] == ["ours", "theirs"]
    assert lines(one)[-1].get_ydata().tolist() == [0.1, 0.9]
    ticks = [tick.get_text() for tick in stages.axes[0].get_xticklabels()]
    assert ticks == ["stem", "backbone"]
    assert [axis.get_title() for axis in drawn.projector_figure(METRICS, "m").axes] == ["m"]
    [axis] = drawn.equivariance_figure(METRICS, "m").axes
    assert axis.get_title() == "m"
    assert [bar.get_height() for bar in axis.patches] == [0.3, -0.1]
    spectrum = drawn.spectrum_figure([0.9, 0.1, 0.0], "m")
    assert lines(spectrum)[0].get_xdata().tolist() == [1, 2]


def test_results_of_another_kind():
    with pytest.raises(DataError, match="not one of `sensitivity`"):
        drawn.strength_figure({"explained_variance": [1.0]})
    for draw in (drawn.projector_figure, drawn.equivariance_figure):
        with pytest.raises(ConfigError, match="nothing to draw"):
            draw({"blur": {"infonce_backbone": 1.0}})
    with pytest.raises(ConfigError, match="nothing to draw"):
        figures.line_panels({}, x_label="x", y_label="y")
