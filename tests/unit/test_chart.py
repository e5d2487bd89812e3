import math

import pytest

from tgsbench.report.braille import Canvas
from tgsbench.report.chart import Band, Chart, ChartLine, draw


def text(rows):
    return ["".join(run.text for run in row) for row in rows]


def test_a_dot_lands_on_its_bit():
    canvas = Canvas(1, 1)
    canvas.dot(1, 3)
    assert canvas.lines() == ["⢀"]


def test_ascii_canvas_holds_ascii_only():
    canvas = Canvas(3, 2, ascii_only=True)
    canvas.span(0, 0, 3)
    canvas.dot(1, 1)
    assert canvas.lines() == [":. ", ":  "]


def test_dots_outside_are_dropped():
    canvas = Canvas(2, 1)
    canvas.span(-1, 0, 3)
    canvas.span(99, 0, 3)
    canvas.span(0, -5, -2)
    assert canvas.lines() == ["  "]


@pytest.mark.parametrize("size", [(80, 10), (12, 3), (5, 2), (1, 1), (200, 40)])
@pytest.mark.parametrize("points", [0, 1, 2, 5000])
@pytest.mark.parametrize("ascii_only", [True, False])
def test_a_chart_has_exactly_the_size_asked_for(size, points, ascii_only):
    line = ChartLine("a", range(points), [math.sin(i / 9) * 1e5 for i in range(points)])
    rows = text(draw(Chart([line], [Band("ref", 1.0, 2.0)]), *size, ascii_only=ascii_only))
    assert len(rows) == size[1]
    assert {len(row) for row in rows} == {size[0]}
    assert not ascii_only or all(row.isascii() for row in rows)


def test_missing_values_break_the_line():
    with_gap = text(draw(Chart([ChartLine("a", [0, 1, 2, 3], [1, 1, math.nan, 1])]), 40, 6))
    without = text(draw(Chart([ChartLine("a", [0, 1, 2, 3], [1, 1, 1, 1])]), 40, 6))
    assert sum(map(len, with_gap)) == sum(map(len, without))
    assert "".join(with_gap).count(" ") > "".join(without).count(" ")


def test_only_missing_values_are_no_data():
    assert any("no data" in row for row in text(draw(Chart([ChartLine("a", [0], [math.nan])]), 40, 6)))


def test_the_band_stretches_the_scale():
    rows = text(draw(Chart([ChartLine("a", [0, 1], [1, 2])], [Band("ref", 99, 100)]), 40, 6))
    assert "1" in rows[0]
    assert float(rows[0].split()[0]) > 99


@pytest.mark.parametrize("columns", [12, 40])
def test_numbers_of_any_length_leave_each_row_its_width(columns):
    chart = Chart([ChartLine("main", [0, 1], [1.0, 3e38])], format_y="{:.3f}".format)
    rows = draw(chart, columns, 8)
    assert [sum(len(run.text) for run in row) for row in rows] == [columns] * 8
