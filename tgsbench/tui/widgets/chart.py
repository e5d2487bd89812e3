"""A chart of the dot canvas, with a cursor that reads off values."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable
from typing import ClassVar

from rich.segment import Segment
from rich.style import Style
from textual import events
from textual.binding import BindingType
from textual.geometry import Size
from textual.strip import Strip
from textual.widget import Widget

from tgsbench.report.chart import Chart, draw
from tgsbench.tui.actions import bindings

EMPTY = Chart([])
ROLES = ("axis", "main", "rank", "reference", "spread", "title", "cursor")


class ChartView(Widget, can_focus=True):
    """One chart under a title; h and l move the cursor over its points once it is focused."""

    COMPONENT_CLASSES: ClassVar[set[str]] = {f"chart--{role}" for role in ROLES}
    BINDINGS: ClassVar[list[BindingType]] = bindings("chart")

    def __init__(self, title: str, *, figure: str = "", id: str | None = None) -> None:
        super().__init__(id=id)
        self.title = title
        self.figure = figure
        """What `?` explains here."""
        self._chart = EMPTY
        self._legend = ""
        self._cursor: int | None = None
        """Index of the point under the cursor; None: the newest."""
        self._strips: list[Strip] = []
        self._styles: dict[str, Style] = {}
        self._drawn_size = Size(0, 0)

    def show(self, chart: Chart, legend: str = "") -> None:
        """Render another chart; repaints only when something changed."""
        if (chart, legend) != (self._chart, self._legend):
            self._chart, self._legend = chart, legend
            self._redraw()

    def _redraw(self) -> None:
        self._strips.clear()
        self.refresh()

    def notify_style_update(self) -> None:
        """Another theme: other colours."""
        super().notify_style_update()
        self._strips.clear()
        self._styles.clear()

    def render_line(self, y: int) -> Strip:
        """One line of the widget, from strips made once per change: styles cost more than dots."""
        if len(self._strips) != self.size.height or self._drawn_size != self.size:
            self._strips, self._drawn_size = self._draw(), self.size
        return self._strips[y] if y < len(self._strips) else Strip.blank(self.size.width, self.rich_style)

    def _draw(self) -> list[Strip]:
        width, height = self.size
        if not self._styles:  # a quarter of the time of a drawing
            self._styles = {name: self.get_component_rich_style(f"chart--{name}") for name in ROLES}
        style, base = self._styles, self.rich_style
        rows = draw(
            self._chart,
            width,
            height - 1,
            ascii_only=bool(getattr(self.app, "ascii_only", False)),
            cursor_x=self._cursor_x(),
        )
        title = Strip([Segment(self._title_text(width), style["title"])])
        lines = ([Segment(run.text, style.get(run.role, base)) for run in row] for row in rows)
        return [title, *(Strip(line, width) for line in lines)][:height]

    def _title_text(self, width: int) -> str:
        marker = ">" if self.has_focus else " "
        parts = [self.title, self._reading() if self.has_focus else "", self._legend]
        return (marker + "  ".join(part for part in parts if part)).ljust(width)[:width]

    def _reading(self) -> str:
        if not self._chart.lines or not self._chart.lines[0].x:
            return ""
        line = self._chart.lines[0]
        index = len(line.x) - 1 if self._cursor is None else min(self._cursor, len(line.x) - 1)
        text = f"{self._chart.x_label} {self._chart.format_x(line.x[index])}: "
        text += self._chart.format_y(line.y[index])
        if line.low and line.low[index] != line.high[index]:
            low, high = (self._chart.format_y(side[index]) for side in (line.low, line.high))
            text += f" ({low} to {high})"
        return text

    def _cursor_x(self) -> float | None:
        if not self.has_focus or self._cursor is None or not self._chart.lines:
            return None
        x = self._chart.lines[0].x
        return x[min(self._cursor, len(x) - 1)] if x else None

    def _move(self, to: Callable[[int, int], int | None]) -> None:
        num = len(self._chart.lines[0].x) if self._chart.lines else 0
        if num:
            current = num - 1 if self._cursor is None else self._cursor
            target = to(current, num)
            self._cursor = None if target is None or target >= num - 1 else max(0, target)
            self._redraw()

    def action_left(self) -> None:
        """One point back."""
        self._move(lambda at, num: at - 1)

    def action_right(self) -> None:
        """One point on."""
        self._move(lambda at, num: at + 1)

    def action_first(self) -> None:
        """To the first point."""
        self._move(lambda at, num: 0)

    def action_last(self) -> None:
        """To the newest point, and stay there."""
        self._move(lambda at, num: None)

    def on_focus(self) -> None:
        """Show the cursor."""
        self._redraw()

    def on_blur(self) -> None:
        """Hide the cursor."""
        self._redraw()

    def on_click(self, event: events.Click) -> None:
        """Put the cursor where the mouse is."""
        if not self._chart.lines or not self._chart.lines[0].x:
            return
        x = list(self._chart.lines[0].x)
        share = event.x / max(1, self.size.width - 1)
        self._cursor = min(len(x) - 1, bisect_left(x, x[0] + share * (x[-1] - x[0])))
        self._redraw()
