"""Line charts as text: series, a reference band and axes on the dot canvas."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from tgsbench import units
from tgsbench.report.braille import Canvas, Cells

Stroke = Literal["solid", "dashed", "dotted"]
"""How a line is drawn, so that lines differ without colour."""

_PERIOD: dict[Stroke, tuple[int, int]] = {"solid": (1, 1), "dashed": (6, 3), "dotted": (4, 1)}
"""Dots drawn of every so many columns: (period, drawn)."""


@dataclass(frozen=True)
class ChartLine:
    """One series; `low` and `high`, where given, are the spread around each `y`, drawn as dotted edges."""

    role: str
    x: Sequence[float]
    y: Sequence[float]
    low: Sequence[float] = ()
    high: Sequence[float] = ()
    stroke: Stroke = "solid"


@dataclass(frozen=True)
class Band:
    """A horizontal range, such as a published value ± its rounding; drawn over the whole width."""

    role: str
    low: float
    high: float


@dataclass(frozen=True)
class Chart:
    """What one chart shows; sizes and glyphs are chosen when it is drawn."""

    lines: Sequence[ChartLine]
    bands: Sequence[Band] = ()
    format_y: Callable[[float], str] = units.three
    format_x: Callable[[float], str] = "{:.0f}".format
    x_label: str = "step"


def draw(
    chart: Chart, columns: int, rows: int, *, ascii_only: bool = False, cursor_x: float | None = None
) -> list[list[Cells]]:
    """Draw a chart into exactly `rows` lines of `columns` characters.

    Axis text has the role "axis", the edges of a spread "spread", the vertical line at `cursor_x`
    "cursor". Without any finite point the lines say "no data yet".
    """
    limits = _y_limits(chart)
    if limits is None or columns < 12 or rows < 3:
        return _empty(columns, rows)
    labels = [_y_label(chart, v) for v in (limits[1], (limits[0] + limits[1]) / 2, limits[0])]
    gutter = max(map(len, labels)) + 1
    canvas = Canvas(columns - gutter, rows - 1, ascii_only=ascii_only)
    x_limits = _x_limits(chart)
    for band in chart.bands:
        _draw_band(canvas, band, limits)
    for line in chart.lines:
        for edge in (line.low, line.high):
            if edge and edge != line.y:
                _draw_line(canvas, ChartLine("spread", line.x, edge, stroke="dotted"), x_limits, limits)
    for line in chart.lines:
        _draw_line(canvas, line, x_limits, limits)
    if cursor_x is not None:
        share = (cursor_x - x_limits[0]) / (x_limits[1] - x_limits[0])
        canvas.span(round(share * (canvas.dots_wide - 1)), 0, canvas.dots_high - 1, "cursor")
    body = _with_gutter(canvas.runs(), labels, gutter)
    return [*body, [_x_axis(chart, x_limits, gutter, columns)]]


_LARGEST = 1e300
"""Beyond it differences overflow: such a value is drawn at the edge and does not stretch the axis."""


def _empty(columns: int, rows: int) -> list[list[Cells]]:
    text = "no data yet"[: max(0, columns)]
    middle = max(0, rows // 2)
    return [[Cells((text if row == middle else "").center(max(0, columns)), "axis")] for row in range(rows)]


def _y_label(chart: Chart, value: float) -> str:
    """At most ten characters, so that some columns are left: a loss that diverges has 40 before the point."""
    label = chart.format_y(value)
    return label if len(label) <= 10 else f"{value:.3g}"


def _y_limits(chart: Chart) -> tuple[float, float] | None:
    sides = (side for line in chart.lines for side in (line.y, line.low, line.high))
    finite = [v for side in sides for v in side if -_LARGEST < v < _LARGEST]
    if not finite:
        return None
    finite += [v for band in chart.bands for v in (band.low, band.high)]
    low, high = min(finite), max(finite)
    pad = (high - low) * 0.05 or abs(high) * 0.05 or 1.0
    return (0.0 if 0 <= low < pad else low - pad), high + pad


def _x_limits(chart: Chart) -> tuple[float, float]:
    values = [x for line in chart.lines for x in line.x]
    low = min(values)
    return low, max(max(values), low + max(1.0, abs(low) * 1e-9))  # low + 1 is low from 2^53 on


def _draw_band(canvas: Canvas, band: Band, limits: tuple[float, float]) -> None:
    to_row = _dot_rows(canvas, limits)
    top, bottom = to_row(band.high), to_row(band.low)
    for x in range(0, canvas.dots_wide, 2 if canvas.ascii_only else 4):
        canvas.span(x, top, bottom, band.role)


def _draw_line(
    canvas: Canvas, line: ChartLine, x_limits: tuple[float, float], limits: tuple[float, float]
) -> None:
    spans = _column_spans(canvas, line, x_limits, limits)
    period, drawn = _PERIOD[line.stroke]
    previous: tuple[int, int] | None = None
    for x, (top, bottom) in sorted(spans.items()):
        if previous is not None:
            top, bottom = _joined(previous, top, bottom)
        previous = spans[x]
        if x % period < drawn:
            canvas.span(x, top, bottom, line.role)


def _column_spans(
    canvas: Canvas, line: ChartLine, x_limits: tuple[float, float], limits: tuple[float, float]
) -> dict[int, tuple[int, int]]:
    """Smallest and largest dot row of every dot column that the line crosses, points joined straight."""
    to_row = _dot_rows(canvas, limits)
    spans: dict[int, tuple[int, int]] = {}
    last: _Column | None = None
    for column in _columns(canvas, line, x_limits):
        if not math.isfinite(column.y):
            last = None
            continue
        if last is not None and column.x - last.x > 1:
            _fill_between(to_row, spans, last, column)
        top = to_row(column.high)
        spans[column.x] = (top, top if column.low == column.high else to_row(column.low))
        last = column
    return spans


class _Column(NamedTuple):
    x: int
    low: float
    high: float
    y: float


def _columns(canvas: Canvas, line: ChartLine, x_limits: tuple[float, float]) -> list[_Column]:
    """Fold the points that share a dot column first: 20,000 points cost 140 column drawings, not 20,000."""
    first, scale = x_limits[0], (canvas.dots_wide - 1) / (x_limits[1] - x_limits[0])
    columns: list[_Column] = []
    current, lowest, highest, y = -1, math.inf, -math.inf, math.nan
    for x, value in zip(line.x, line.y, strict=True):
        column = int((x - first) * scale + 0.5)
        if column != current:
            if current >= 0:
                columns.append(_Column(current, lowest, highest, y))
            current, lowest, highest = column, value, value
        elif lowest != lowest:  # NaN so far
            lowest, highest = value, value
        elif value < lowest:
            lowest = value
        elif value > highest:
            highest = value
        y = value
    return [*columns, _Column(current, lowest, highest, y)] if current >= 0 else columns


def _fill_between(
    to_row: Callable[[float], int], spans: dict[int, tuple[int, int]], last: _Column, now: _Column
) -> None:
    slope = (now.y - last.y) / (now.x - last.x)
    for column in range(last.x + 1, now.x):
        row = to_row(last.y + slope * (column - last.x))
        spans[column] = (row, row)


def _joined(previous: tuple[int, int], top: int, bottom: int) -> tuple[int, int]:
    """Stretch a column so that it touches the one before it."""
    if previous[1] < top - 1:
        return previous[1] + 1, bottom
    if previous[0] > bottom + 1:
        return top, previous[0] - 1
    return top, bottom


def _dot_rows(canvas: Canvas, limits: tuple[float, float]) -> Callable[[float], int]:
    """The dot row of a value; what lies beyond the limits is on the edge."""
    low, high = limits
    height, last = high - low, canvas.dots_high - 1

    def row(value: float) -> int:
        depth = (high - value) / height
        return round((0.0 if depth < 0.0 else 1.0 if depth > 1.0 else depth) * last)

    return row


def _with_gutter(rows: list[list[Cells]], labels: list[str], gutter: int) -> list[list[Cells]]:
    middle, last = len(rows) // 2, len(rows) - 1
    shown = {middle: labels[1], last: labels[2], 0: labels[0]}
    if last < 2:
        shown = {last: labels[2], 0: labels[0]}
    return [[Cells(shown.get(i, "").rjust(gutter - 1) + " ", "axis"), *row] for i, row in enumerate(rows)]


def _x_axis(chart: Chart, limits: tuple[float, float], gutter: int, columns: int) -> Cells:
    left, right = chart.format_x(limits[0]), chart.format_x(limits[1])
    room = columns - gutter - len(left) - len(right)
    label = f" {chart.x_label} " if room >= len(chart.x_label) + 2 else ""
    return Cells((" " * gutter + left + label.center(room) + right)[:columns].ljust(columns), "axis")
