"""A scrolling log with a cursor line, a filter and jumps to errors."""

from __future__ import annotations

from typing import ClassVar

from rich.segment import Segment
from rich.style import Style
from textual import events
from textual.binding import BindingType
from textual.geometry import Size
from textual.scroll_view import ScrollView
from textual.strip import Strip

from tgsbench.events.logs import is_error
from tgsbench.tui.actions import bindings
from tgsbench.tui.widgets.search import Search


class LogView(ScrollView, can_focus=True):
    """Lines of text; follows the end until the cursor leaves it."""

    COMPONENT_CLASSES: ClassVar[set[str]] = {"log--cursor", "log--error", "log--number", "log--match"}
    BINDINGS: ClassVar[list[BindingType]] = bindings("log")

    def __init__(self, *, id: str | None = None, filter_line: str = "") -> None:
        """`filter_line`: selector of the line that filters it; without one there is no filter."""
        super().__init__(id=id)
        self._filter_line = filter_line
        self._all: list[str] = []
        self._shown: list[int] = []
        """Indices into `_all` that pass the filter."""
        self._filter = ""
        self._cursor = 0
        self._follows = True
        self._empty = "no log yet"

    @property
    def filter_text(self) -> str:
        """Only lines that contain it are shown, in any case."""
        return self._filter

    @property
    def num_shown(self) -> int:
        """Lines that pass the filter."""
        return len(self._shown)

    @property
    def cursor_line(self) -> str:
        """Text of the line under the cursor."""
        return self._all[self._shown[self._cursor]] if self._shown else ""

    def show(self, lines: list[str], empty: str = "no log yet") -> None:
        """Show these lines; the cursor stays, or follows the end if it was there."""
        self._all, self._empty = lines, empty
        self._apply()

    def set_filter(self, text: str) -> None:
        """Show only the lines that contain `text`."""
        self._filter = text
        self._apply()

    def _apply(self) -> None:
        wanted = self._filter.lower()
        if wanted:
            self._shown = [i for i, line in enumerate(self._all) if wanted in line.lower()]
        else:
            self._shown = list(range(len(self._all)))
        longest = max((len(self._all[i]) for i in self._shown), default=0)
        self.virtual_size = Size(longest + self._gutter + 1, max(1, len(self._shown)))
        last = max(0, len(self._shown) - 1)
        self._cursor = last if self._follows else min(self._cursor, last)
        self._reveal()
        self.refresh()

    @property
    def _gutter(self) -> int:
        return len(str(len(self._all))) + 1

    def render_line(self, y: int) -> Strip:
        """One visible line."""
        scroll_x, scroll_y = self.scroll_offset
        width, row = self.size.width, y + scroll_y
        if not self._shown:
            text = f" {self._empty}" if y == 0 and not self._filter else ""
            text = f" no line contains {self._filter!r}" if y == 0 and self._filter else text
            return Strip([Segment(text, self.rich_style)]).adjust_cell_length(width, self.rich_style)
        if row >= len(self._shown):
            return Strip.blank(width, self.rich_style)
        index = self._shown[row]
        line = self._all[index]
        at_cursor = row == self._cursor and self.has_focus
        style = self._line_style(line, at_cursor)
        mark = "!" if is_error(line) else " "
        number = Segment(f"{index + 1:>{self._gutter - 1}}{mark}", self._number_style(at_cursor))
        return Strip([number, Segment(line, style)]).crop_extend(scroll_x, scroll_x + width, style)

    def _line_style(self, line: str, at_cursor: bool) -> Style:
        if at_cursor:
            return self.get_component_rich_style("log--cursor")
        return self.get_component_rich_style("log--error") if is_error(line) else self.rich_style

    def _number_style(self, at_cursor: bool) -> Style:
        return self.get_component_rich_style("log--cursor" if at_cursor else "log--number")

    def jump_to(self, index: int) -> None:
        """Put the cursor on line `index`, which no filter hides."""
        self._go(self._shown.index(index))

    def _go(self, row: int) -> None:
        last = max(0, len(self._shown) - 1)
        self._cursor = max(0, min(row, last))
        self._follows = self._cursor == last
        self._reveal()
        self.refresh()

    def _reveal(self) -> None:
        height, top = max(1, self.size.height), int(self.scroll_offset.y)
        if self._cursor < top:
            self.scroll_to(y=self._cursor, animate=False, force=True)
        elif self._cursor >= top + height:
            self.scroll_to(y=self._cursor - height + 1, animate=False, force=True)

    def action_line_down(self) -> None:
        """One line down."""
        self._go(self._cursor + 1)

    def action_line_up(self) -> None:
        """One line up."""
        self._go(self._cursor - 1)

    def action_top(self) -> None:
        """To the first line."""
        self._go(0)

    def action_bottom(self) -> None:
        """To the last line, and follow it."""
        self._go(len(self._shown) - 1)

    def action_page_down(self) -> None:
        """Half a page down."""
        self._go(self._cursor + max(1, self.size.height // 2))

    def action_page_up(self) -> None:
        """Half a page up."""
        self._go(self._cursor - max(1, self.size.height // 2))

    def action_left(self) -> None:
        """Half a screen to the left."""
        self.scroll_relative(x=-max(1, self.size.width // 2), animate=False)

    def action_right(self) -> None:
        """Half a screen to the right, where lines are longer than that."""
        self.scroll_relative(x=max(1, self.size.width // 2), animate=False)

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Only a log with a filter line can be filtered."""
        if action == "filter":
            return bool(self._filter_line)
        return super().check_action(action, parameters)

    def action_filter(self) -> None:
        """Go to the filter line."""
        self.screen.query_one(self._filter_line, Search).take_keys()

    def action_next_match(self) -> None:
        """To the next error; with a filter, to the next shown line."""
        self._seek(range(self._cursor + 1, len(self._shown)))

    def action_previous_match(self) -> None:
        """To the error before; with a filter, to the shown line before."""
        self._seek(range(self._cursor - 1, -1, -1))

    def _seek(self, rows: range) -> None:
        for row in rows:
            if self._filter or is_error(self._all[self._shown[row]]):
                self._go(row)
                return
        self.app.bell()

    def on_click(self, event: events.Click) -> None:
        """Put the cursor on the clicked line."""
        self._go(int(self.scroll_offset.y) + event.y)

    def on_resize(self) -> None:
        """Keep the cursor in view."""
        self._reveal()
