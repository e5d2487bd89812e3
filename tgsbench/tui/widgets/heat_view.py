"""The rank × step heatmap: shade and glyph tell how far a rank is over the median one."""

from __future__ import annotations

from typing import ClassVar

from rich.segment import Segment
from rich.style import Style
from textual.message import Message
from textual.strip import Strip
from textual.widget import Widget

from tgsbench.live.heatmap import LEVELS, Cell, Heatmap, HeatRow

GLYPHS = "·-+x#"
"""One per level, so that the map reads without colour."""
MISSING = "?"
GUTTER = 12
MAX_CELL = 8


class HeatView(Widget, can_focus=True):
    """Ranks from left to right, steps from top to bottom, the newest at the bottom."""

    COMPONENT_CLASSES: ClassVar[set[str]] = {
        "heat--axis",
        "heat--title",
        "heat--missing",
        *(f"heat--{i}" for i in range(5)),
    }

    figure = "straggler"
    """What `?` explains here."""

    class Resized(Message):
        """There is other room for cells than before."""

    def __init__(self, *, id: str | None = None) -> None:
        super().__init__(id=id)
        self._map = Heatmap([], [])
        self._metric = ""
        self._title = ""
        self._styles: dict[str, Style] = {}

    @property
    def room(self) -> tuple[int, int]:
        """Columns and rows there are for cells."""
        return max(1, self.size.width - GUTTER), max(1, self.size.height - 3)

    def show(self, heatmap: Heatmap, metric: str, title: str) -> None:
        """Render another map; repaints only when something changed."""
        if (heatmap, metric, title) != (self._map, self._metric, self._title):
            self._map, self._metric, self._title = heatmap, metric, title
            self.refresh()

    def render_line(self, y: int) -> Strip:
        """One line of the widget."""
        width = self.size.width
        segments = self._segments(y)
        return Strip(segments).adjust_cell_length(width, self._style("axis"))

    def _segments(self, y: int) -> list[Segment]:
        rows = self._map.rows
        if y == 0:
            marker = ">" if self.has_focus else " "
            return [Segment(f"{marker}{self._title}", self._style("title"))]
        if y == 1:
            return self._axis()
        if not rows:
            return [Segment("  no step finished yet" if y == 2 else "", self._style("axis"))]
        if 2 <= y < 2 + len(rows):
            return self._row(rows[y - 2])
        return self._legend() if y == 2 + len(rows) else []

    def _axis(self) -> list[Segment]:
        text = "step \\ rank".ljust(GUTTER)
        cell, every = self._cell_width, self._label_every()
        for index, group in enumerate(self._map.groups):
            label = str(group.start) if index % every == 0 else ""
            at = GUTTER + index * cell
            if len(text) <= at and at + len(label) <= self.size.width:
                text = text.ljust(at) + label
        return [Segment(text, self._style("axis"))]

    def _label_every(self) -> int:
        widest = len(str(self._map.groups[-1].start)) + 1 if self._map.groups else 1
        return max(1, -(-widest // self._cell_width))

    @property
    def _cell_width(self) -> int:
        num = max(1, len(self._map.groups))
        return min(MAX_CELL, max(1, (self.size.width - GUTTER) // num))

    def _row(self, row: HeatRow) -> list[Segment]:
        steps = str(row.first_step)
        if row.last_step > row.first_step:
            steps += f"–{row.last_step}"
        label = Segment(steps.rjust(GUTTER - 1)[: GUTTER - 1] + " ", self._style("axis"))
        return [label, *_joined([self._cell(cell) for cell in row.cells])]

    def _cell(self, cell: Cell) -> Segment:
        width = self._cell_width
        glyph = GLYPHS[cell.level] if cell.level >= 0 else MISSING
        text = glyph * max(1, width - 1)
        if width >= 6 and cell.level >= 0:
            text = f"{glyph}{cell.ratio:.2f}"
        style = self._style(str(cell.level) if cell.level >= 0 else "missing")
        return Segment(text.ljust(width), style)

    def _legend(self) -> list[Segment]:
        segments = [Segment(" " * GUTTER + "over the median rank: ", self._style("axis"))]
        names = ["less", *(f"+{(level - 1) * 100:.0f} %" for level in LEVELS)]
        for index, name in enumerate(names):
            segments.append(Segment(f"{GLYPHS[index]} ", self._style(str(index))))
            segments.append(Segment(f"{name}  ", self._style("axis")))
        return segments

    def notify_style_update(self) -> None:
        """Another theme: other colours."""
        super().notify_style_update()
        self._styles.clear()

    def _style(self, name: str) -> Style:
        """The style of a part, looked up once: a lookup costs more than the cells of a line."""
        if name not in self._styles:
            self._styles[name] = self.get_component_rich_style(f"heat--{name}")
        return self._styles[name]

    def on_resize(self) -> None:
        """Ask for a map that fills the room: a run that is over is painted no more by itself."""
        self.post_message(self.Resized())

    def on_focus(self) -> None:
        """Show the marker."""
        self.refresh()

    def on_blur(self) -> None:
        """Hide the marker."""
        self.refresh()


def _joined(segments: list[Segment]) -> list[Segment]:
    """Neighbours of one style as one segment: 64 ranks in step are one write to the terminal, not 64."""
    joined: list[Segment] = []
    for segment in segments:
        if joined and joined[-1].style == segment.style:
            joined[-1] = Segment(joined[-1].text + segment.text, segment.style)
        else:
            joined.append(segment)
    return joined
