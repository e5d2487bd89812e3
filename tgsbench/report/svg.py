"""Inline SVG charts: grouped bars, lines over sequence length, stacked shares. Colours come from the page."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from tgsbench import units
from tgsbench.report.markup import join, tag

WIDTH = 460.0
"""Charts are at most this wide, so that on a phone of 390 px text shrinks by a sixth only."""
NUM_COLOURS = 6
_TEXT = 6.3
"""Mean width of a character at 11 px in the fonts a browser picks."""
_BAR, _GAP, _GROUP_GAP = 13.0, 3.0, 11.0
_MARKS = ("circle", "square", "triangle", "diamond", "cross", "circle")


@dataclass(frozen=True)
class Bar:
    """One bar; without a value its text stands in its place (out of memory)."""

    series: int
    value: float | None
    text: str
    tip: str = ""
    low_high: tuple[float, float] | None = None
    """Ends of its interval."""


@dataclass(frozen=True)
class RatioMark:
    """One ratio with the ends of its interval, which may be the ratio itself."""

    label: str
    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Group:
    """Bars that belong together."""

    label: str
    bars: Sequence[Bar]


@dataclass(frozen=True)
class SvgSeries:
    """Points of one line, in order of x; the spread is drawn where it is known."""

    name: str
    colour: int
    points: Sequence[tuple[float, float]]
    low_high: Sequence[tuple[float, float]] = ()
    joined: bool = True


def bars(title: str, series: Sequence[str], groups: Sequence[Group]) -> Markup:
    """Horizontal bars from zero, grouped, each with its figure beside it."""
    gutter = 10 + _TEXT * max(len(group.label) for group in groups)
    room = 8 + _TEXT * max(len(bar.text) for group in groups for bar in group.bars)
    ends = [bar.low_high[1] for group in groups for bar in group.bars if bar.low_high]
    values = [bar.value or 0.0 for group in groups for bar in group.bars]
    largest = max([*values, *ends], default=0.0) or 1.0
    scale = max(40.0, WIDTH - gutter - room) / largest
    parts, y = [], 4.0
    for group in groups:
        height = len(group.bars) * (_BAR + _GAP)
        parts.append(_text(gutter - 8, y + height / 2 + 2, group.label, anchor="end"))
        for bar in group.bars:
            parts.append(_bar(bar, gutter, y, scale))
            y += _BAR + _GAP
        y += _GROUP_GAP
    axis = tag("line", x1=gutter, x2=gutter, y1=0.0, y2=y - _GROUP_GAP + 2, class_="axis")
    return _figure(title, y, join(*parts, axis), legend(series))


def ratios(title: str, marks: Sequence[RatioMark]) -> Markup:
    """Ratios with their intervals on one scale, 1 as a dashed line."""
    gutter = 12 + _TEXT * min(44, max(len(mark.label) for mark in marks))
    gutter = min(gutter, WIDTH * 0.62)
    low = min(0.98, *(mark.low for mark in marks))
    high = max(1.02, *(mark.high for mark in marks))
    scale = (WIDTH - gutter - 60) / (high - low)
    parts, y = [], 4.0
    for mark in marks:
        x = gutter + (mark.value - low) * scale
        ends = (gutter + (mark.low - low) * scale, gutter + (mark.high - low) * scale)
        parts.append(_text(gutter - 8, y + 11, _cut(mark.label, gutter), anchor="end"))
        parts += [_whisker(*ends, y + 7), _mark("diamond", x, y + 7, 0)]
        parts.append(_text(WIDTH - 4, y + 11, f"{mark.value:.3f}x", anchor="end"))
        y += 22.0
    one = gutter + (1 - low) * scale
    parts.append(tag("line", x1=one, x2=one, y1=0.0, y2=y, class_="limit"))
    parts.append(_text(one, y + 12, "1", anchor="middle", class_="muted"))
    return _figure(title, y + 16, join(*parts), Markup(""))


def _cut(text: str, width: float) -> str:
    """As much of a text's end as fits; names are told apart by their ends."""
    room = max(4, int((width - 12) / _TEXT))
    return text if len(text) <= room else f"…{text[-(room - 1) :]}"


def lines(
    title: str,
    series: Sequence[SvgSeries],
    format_y: Callable[[float], str],
    y_label: str,
    limit: tuple[float, str] | None = None,
    log_y: bool = True,
) -> Markup:
    """Lines over sequence length (log2); `limit` is a dashed horizontal line with its name."""
    values = [y for line in series for _, y in [*line.points, *_spread(line)]]
    values += [limit[0]] if limit else []
    frame = _Frame.around([x for line in series for x, _ in line.points], values, log_y, format_y)
    parts = [*frame.grid(format_y), _text(frame.left, 11.0, y_label, class_="muted")]
    parts += [_line(line, frame) for line in series]
    if limit is not None:
        y = frame.y(limit[0])
        parts.append(tag("line", x1=frame.left, x2=WIDTH - 4, y1=y, y2=y, class_="limit"))
        parts.append(_text(WIDTH - 6, y - 4, limit[1], anchor="end", class_="muted"))
    key = [(line.name, line.colour, _MARKS[line.colour % NUM_COLOURS]) for line in series]
    return _figure(title, _HEIGHT, join(*parts), _key(key))


def shares(title: str, parts: dict[str, float]) -> Markup:
    """Fractions of a whole as labelled bars, largest first; small ones are summed up."""
    shown = {name: share for name, share in parts.items() if share >= 0.005}
    rest = sum(parts.values()) - sum(shown.values())
    if rest > 0.0005:
        shown["rest"] = rest
    groups = [Group(name, [Bar(0, share, units.percent(share))]) for name, share in shown.items()]
    return bars(title, [], groups)


def steps(title: str, samples: Sequence[float], median: float, y_label: str) -> Markup:
    """One figure a step, with the median as a dashed line."""
    low, high = min(samples), max(samples)
    pad = (high - low) * 0.1 or high * 0.05 or 1.0
    left, right, top, bottom = 52.0, WIDTH - 6, 22.0, 128.0
    span = max(1, len(samples) - 1)

    def y(value: float) -> float:
        return bottom - (value - low + pad) / (high - low + 2 * pad) * (bottom - top)

    points = [(left + i / span * (right - left), y(v)) for i, v in enumerate(samples)]
    parts = [_text(left, 11.0, y_label, class_="muted")]
    parts += [_text(left - 6, y(v) + 4, units.rate(v), anchor="end") for v in dict.fromkeys((low, high))]
    parts.append(tag("line", x1=left, x2=right, y1=y(median), y2=y(median), class_="limit"))
    parts += [_polyline(points, 0), *(_mark("circle", x, v, 0) for x, v in points)]
    parts.append(_text(left, bottom + 18, "step 1"))
    parts.append(_text(right, bottom + 18, f"step {len(samples)}", anchor="end"))
    return _figure(title, bottom + 24, join(*parts), Markup(""))


def legend(names: Sequence[str]) -> Markup:
    """Names of bar series beside their colours; nothing for a single one."""
    return (
        _key([(name, index, "square") for index, name in enumerate(names)]) if len(names) > 1 else Markup("")
    )


# --- pieces ---------------------------------------------------------------------------------------

_HEIGHT = 250.0


@dataclass(frozen=True)
class _Frame:
    """Where data lie in a line chart: x is log2 of the length."""

    left: float
    x_low: float
    x_high: float
    y_low: float
    y_high: float
    log_y: bool
    ticks_y: Sequence[float]
    ticks_x: Sequence[float]

    @staticmethod
    def around(
        xs: Sequence[float], ys: Sequence[float], log_y: bool, format_y: Callable[[float], str]
    ) -> _Frame:
        """The frame that holds every point with some air around them."""
        ticks = _log_ticks(min(ys), max(ys)) if log_y else _ticks(max(ys))
        y_low, y_high = (
            (math.log(min(*ticks, *ys)), math.log(max(*ticks, *ys))) if log_y else (0.0, ticks[-1])
        )
        y_high = max(y_high, math.log(max(ys)) if log_y else max(ys))
        if y_high == y_low:
            y_high = y_low + 1
        left = 12 + _TEXT * max(len(format_y(tick)) for tick in ticks)
        x_low, x_high = math.log2(min(xs)) - 0.3, math.log2(max(xs)) + 0.3
        return _Frame(left, x_low, x_high, y_low, y_high, log_y, ticks, sorted(set(xs)))

    def x(self, length: float) -> float:
        """Pixel of a length."""
        return self.left + (math.log2(length) - self.x_low) / (self.x_high - self.x_low) * (
            WIDTH - 6 - self.left
        )

    def y(self, value: float) -> float:
        """Pixel of a value."""
        value = math.log(value) if self.log_y else value
        return 216 - (value - self.y_low) / (self.y_high - self.y_low) * 192

    def grid(self, format_y: Callable[[float], str]) -> list[Markup]:
        """Grid lines with their labels; lengths that would overlap are left out."""
        parts = []
        for tick in self.ticks_y:
            y = self.y(tick)
            parts.append(tag("line", x1=self.left, x2=WIDTH - 4, y1=y, y2=y, class_="grid"))
            parts.append(_text(self.left - 6, y + 4, format_y(tick), anchor="end"))
        last = -math.inf
        for length in self.ticks_x:
            text = units.length(int(length))
            if self.x(length) - last > _TEXT * (len(text) + 1):
                parts.append(_text(self.x(length), 234.0, text, anchor="middle"))
                last = self.x(length)
        return parts


def _log_ticks(low: float, high: float) -> list[float]:
    """1, 2 and 5 times powers of ten around a range; powers alone over many decades."""
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    steps_ = (1, 2, 5) if last - first <= 3 else (1,)
    ticks = [m * 10.0**e for e in range(first, last + 1) for m in steps_]
    inside = [t for t in ticks if low * 0.6 <= t <= high * 1.6]
    return inside or [low]


def _ticks(high: float) -> list[float]:
    """0 and about five round steps up to at least `high`."""
    raw = high / 4 or 1.0
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(m * power for m in (1, 2, 2.5, 5, 10) if m * power >= raw)
    return [i * step for i in range(math.ceil(high / step - 1e-9) + 1)]


def _bar(bar: Bar, x: float, y: float, scale: float) -> Markup:
    if bar.value is None:
        return _text(x + 6, y + 11, bar.text, class_="none")
    width = max(1.0, bar.value * scale)
    tip = [tag("title", bar.tip)] if bar.tip else []
    colour = f"c{bar.series % NUM_COLOURS}"
    drawn = [tag("rect", *tip, x=x, y=y, width=width, height=_BAR, class_=f"bar {colour}", rx=2)]
    end = x + width
    if bar.low_high is not None:
        low, high = (x + edge * scale for edge in bar.low_high)
        drawn.append(_whisker(low, high, y + _BAR / 2))
        end = max(end, high)
    return join(*drawn, _text(end + 5, y + 11, bar.text))


def _whisker(low: float, high: float, y: float) -> Markup:
    """An interval: a line with an end at each side."""
    path = f"M{low:.1f},{y - 3:.1f}v6M{low:.1f},{y:.1f}H{high:.1f}M{high:.1f},{y - 3:.1f}v6"
    return tag("path", d=path, class_="interval")


def _line(line: SvgSeries, frame: _Frame) -> Markup:
    points = [(frame.x(x), frame.y(y)) for x, y in line.points]
    parts = []
    for (x, _), (low, high) in zip(line.points, line.low_high, strict=False):
        colour = f"line c{line.colour % NUM_COLOURS}"
        x_px = frame.x(x)
        parts.append(tag("line", x1=x_px, x2=x_px, y1=frame.y(low), y2=frame.y(high), class_=colour))
    if line.joined and len(points) > 1:
        parts.append(_polyline(points, line.colour))
    mark = _MARKS[line.colour % NUM_COLOURS]
    parts += [_mark(mark, x, y, line.colour) for x, y in points]
    return join(*parts)


def _spread(line: SvgSeries) -> list[tuple[float, float]]:
    return [(0.0, edge) for pair in line.low_high for edge in pair]


def _polyline(points: Sequence[tuple[float, float]], colour: int) -> Markup:
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    return tag("polyline", points=path, class_=f"line c{colour % NUM_COLOURS}")


def _mark(shape: str, x: float, y: float, colour: int) -> Markup:
    """A marker; shapes differ, so that lines can be told apart without colour."""
    name = f"mark c{colour % NUM_COLOURS}"
    if shape == "circle":
        return tag("circle", cx=x, cy=y, r=3.5, class_=name)
    paths = {
        "square": f"M{x - 3.2:.1f},{y - 3.2:.1f}h6.4v6.4h-6.4z",
        "triangle": f"M{x:.1f},{y - 4.4:.1f}l4.2,7.4h-8.4z",
        "diamond": f"M{x:.1f},{y - 4.6:.1f}l4.6,4.6l-4.6,4.6l-4.6,-4.6z",
        "cross": f"M{x - 1.2:.1f},{y - 4:.1f}h2.4v2.8h2.8v2.4h-2.8v2.8h-2.4v-2.8h-2.8v-2.4h2.8z",
    }
    return tag("path", d=paths[shape], class_=name)


def _text(x: float, y: float, text: str, anchor: str | None = None, class_: str | None = None) -> Markup:
    return tag("text", text, x=x, y=y, text_anchor=anchor, class_=class_)


def _key(entries: Sequence[tuple[str, int, str]]) -> Markup:
    """The legend as HTML, which wraps on narrow screens."""
    items = []
    for name, colour, shape in entries:
        icon = tag(
            "svg", _mark(shape, 6.0, 6.0, colour), viewBox="0 0 12 12", class_="key", aria_hidden="true"
        )
        items.append(tag("span", icon, name))
    return tag("div", *items, class_="legend")


def _figure(title: str, height: float, content: Markup, key: Markup) -> Markup:
    drawing = tag(
        "svg",
        tag("title", title),
        content,
        viewBox=f"0 0 {WIDTH:.0f} {height:.0f}",
        role="img",
        class_="chart",
    )
    return tag("figure", tag("figcaption", title), key, drawing)
