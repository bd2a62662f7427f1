import xml.etree.ElementTree as ET

import pytest

from cassle_zoo.eval.report.charts import Bar, Curve, bar_chart, line_chart


def parts(svg: str, tag: str) -> list[dict[str, str]]:
    return [element.attrib for element in ET.fromstring(svg).iter(tag)]


def test_bars_are_as_long_as_their_values():
    bars = [Bar(label="a", value=0.5), Bar(label="b", value=0.25, baseline=True)]
    svg = bar_chart("t", bars, "{:.2f}".format, full=1.0)
    shown = parts(svg, "rect")
    assert [float(bar["width"]) for bar in shown] == [150, 75]
    assert [bar["class"] for bar in shown] == ["bar", "base"]
    assert ET.fromstring(svg).attrib["aria-label"] == "t: a 0.50, b 0.25"


def test_negative_bars_end_at_zero():
    svg = bar_chart("t", [Bar(label="a", value=-1.0), Bar(label="b", value=2.0)], str)
    left, right = parts(svg, "rect")
    assert float(left["x"]) + float(left["width"]) == float(right["x"]) == 100
    assert float(right["width"]) == 200


@pytest.mark.parametrize("values", [[0.0], [0.0, 0.0], [5.0]])
def test_bars_of_any_values(values):
    svg = bar_chart("t", [Bar(label="<&>", value=value) for value in values], str)
    assert len(parts(svg, "rect")) == len(values)


def test_lines_fill_the_plot():
    curves = [Curve(label="a", x=[0, 1, 4], y=[1, 3, 2]), Curve(label="b", x=[2, 4], y=[2, 2])]
    svg = line_chart("<t>", curves)
    one, other = parts(svg, "polyline")
    assert one["points"] == "52.0,182.0 126.0,12.0 348.0,97.0"
    assert other["points"] == "200.0,97.0 348.0,97.0"
    assert (one["stroke"], one["stroke-dasharray"]) != (other["stroke"], other["stroke-dasharray"])


def test_a_constant_line():
    assert parts(line_chart("t", [Curve(label="a", x=[1], y=[7])]), "polyline")


def test_long_labels_are_cut_in_the_middle_but_read_out():
    label = "a" * 50 + "b" * 50
    svg = bar_chart("t", [Bar(label=label, value=1.0)], str)
    assert f"{'a' * 20}…{'b' * 19}<" in svg
    assert svg.count(label) == 1
