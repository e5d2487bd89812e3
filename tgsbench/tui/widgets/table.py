"""A table with vim motions whose cells can be explained by their column."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import ClassVar

from rich.text import Text
from textual.binding import BindingType
from textual.coordinate import Coordinate
from textual.widgets import DataTable
from textual.widgets.data_table import RowKey

from tgsbench.tui.actions import bindings

Cell = str | Text
Row = tuple[str, tuple[Cell, ...]]
"""Key and cells."""
HEADING = "\0"
"""Prefix of the key of a row that is only a heading; the cursor passes over it. No file's name holds it."""


class ListTable(DataTable[Cell]):
    """Rows by key; filling it again keeps the cursor on the same key."""

    BINDINGS: ClassVar[list[BindingType]] = bindings("list")

    def __init__(
        self,
        columns: Sequence[tuple[str, str, int]],
        *,
        id: str | None = None,
        explains: dict[str, str] | None = None,
    ) -> None:
        """`columns`: key, title and width; `explains`: column key -> figure for `?`."""
        super().__init__(id=id, cursor_type="row", cell_padding=1)
        self._columns_wanted = list(columns)
        self._explains = explains or {}
        self._filled: list[Row] = []

    def on_mount(self) -> None:
        """Make the columns."""
        for key, title, width in self._columns_wanted:
            self.add_column(Text(title), key=key, width=width)

    @property
    def figure(self) -> str:
        """What `?` explains: the first explained column."""
        return next(iter(self._explains.values()), "")

    @property
    def explained(self) -> dict[str, str]:
        """Figures by title of their column."""
        titles = {key: title for key, title, _ in self._columns_wanted}
        return {titles[key]: figure for key, figure in self._explains.items()}

    @property
    def selected_key(self) -> str:
        """Key of the row under the cursor; empty when there is none."""
        if not 0 <= self.cursor_row < len(self._filled):
            return ""
        return self._filled[self.cursor_row][0]

    def fill(self, rows: Sequence[Row]) -> None:
        """Show these rows; touches only cells that changed when the keys are the same."""
        rows = list(rows)
        if rows == self._filled:
            return
        if [key for key, _ in rows] == [key for key, _ in self._filled]:
            self._update_cells(rows)
            self._filled = rows
        else:
            self._rebuild(rows)

    def _update_cells(self, rows: list[Row]) -> None:
        for row, ((_, new), (_, old)) in enumerate(zip(rows, self._filled, strict=True)):
            for column, (value, before) in enumerate(zip(new, old, strict=True)):
                if value != before:
                    self.update_cell_at(Coordinate(row, column), _plain(value))

    def _rebuild(self, rows: list[Row]) -> None:
        selected, at = self.selected_key, self.cursor_row
        self._filled = rows
        self.clear()
        for key, cells in rows:
            self.add_row(*map(_plain, cells), key=key)
        keys = [key for key, _ in rows]
        row = keys.index(selected) if selected in keys else min(at, max(0, len(keys) - 1))
        self.move_cursor(row=self._past_heading(row, 1))

    def _update_dimensions(self, new_rows: Iterable[RowKey]) -> None:
        """Without measuring each cell, 3 s of 4 for 10,000 rows: every column here has its width."""
        super()._update_dimensions(())

    def _past_heading(self, row: int, by: int) -> int:
        """The nearest row in a direction that is no heading; `row` itself where there is none."""
        at = row
        while 0 <= at < len(self._filled) and self._filled[at][0].startswith(HEADING):
            at += by
        return at if 0 <= at < len(self._filled) else self._past_heading(row, 1) if by < 0 else row

    def _step(self, by: int) -> None:
        wanted = self.cursor_row + by
        if 0 <= wanted < len(self._filled):
            self.move_cursor(row=self._past_heading(wanted, by))
        if self.cursor_row <= 1:
            self.scroll_to(y=0, animate=False)  # the heading above the first row

    def action_cursor_down(self) -> None:
        """To the next row."""
        self._step(1)

    def action_cursor_up(self) -> None:
        """To the row before."""
        self._step(-1)

    def action_scroll_top(self) -> None:
        """To the first row."""
        self.move_cursor(row=self._past_heading(0, 1))
        self.scroll_to(y=0, animate=False)

    def action_scroll_bottom(self) -> None:
        """To the last row."""
        self.move_cursor(row=max(0, len(self._filled) - 1))


def _plain(cell: Cell) -> Text:
    """The cell as it is: a DataTable reads a str as markup, and names come from files."""
    return Text(cell) if isinstance(cell, str) else cell
