"""A table with vim motions whose cells can be explained by their column."""

from __future__ import annotations

from collections.abc import Sequence

from typing import ClassVar

from rich.text import Text
from textual.binding import BindingType
from textual.coordinate import Coordinate
from textual.widgets import DataTable

from tgsbench.tui.actions import bindings

Cell = str | Text


class ListTable(DataTable[Cell]):
    """Rows by key; filling it again keeps the cursor on the same key."""

    BINDINGS: ClassVar[list[BindingType]] = bindings("list")

    def __init__(
        self,
        columns: Sequence[tuple[str, str]],
        *,
        id: str | None = None,
        explains: dict[str, str] | None = None,
    ) -> None:
        """`columns`: key and title; `explains`: column key -> figure for `?`."""
        super().__init__(id=id, cursor_type="row", zebra_stripes=False, cell_padding=1)
        self._columns_wanted = list(columns)
        self._explains = explains or {}
        self._filled: list[tuple[str, tuple[Cell, ...]]] = []

    def on_mount(self) -> None:
        """Make the columns."""
        self._make_columns()

    def _make_columns(self) -> None:
        for key, title in self._columns_wanted:
            self.add_column(title, key=key)

    @property
    def figure(self) -> str:
        """What `?` explains: the column under the cursor, else the first explained one."""
        if self.columns and self._explains:
            keys = [key for key, _ in self._columns_wanted]
            under = keys[min(self.cursor_column, len(keys) - 1)]
            return self._explains.get(under) or next(iter(self._explains.values()))
        return ""

    @property
    def selected_key(self) -> str:
        """Key of the row under the cursor; empty when there is none."""
        if not self.row_count or not 0 <= self.cursor_row < len(self._filled):
            return ""
        return self._filled[self.cursor_row][0]

    def fill(self, rows: Sequence[tuple[str, tuple[Cell, ...]]]) -> None:
        """Show these rows; touches only cells that changed when the keys are the same."""
        rows = list(rows)
        if rows == self._filled:
            return
        if [key for key, _ in rows] == [key for key, _ in self._filled]:
            self._update_cells(rows)
        else:
            self._rebuild(rows)
        self._filled = rows

    def _update_cells(self, rows: list[tuple[str, tuple[Cell, ...]]]) -> None:
        for row, ((_, new), (_, old)) in enumerate(zip(rows, self._filled, strict=True)):
            for column, (value, before) in enumerate(zip(new, old, strict=True)):
                if value != before:
                    self.update_cell_at(Coordinate(row, column), value, update_width=True)

    def _rebuild(self, rows: list[tuple[str, tuple[Cell, ...]]]) -> None:
        selected, at = self.selected_key, self.cursor_row
        self.clear()
        for key, cells in rows:
            self.add_row(*cells, key=key)
        keys = [key for key, _ in rows]
        self.move_cursor(row=keys.index(selected) if selected in keys else min(at, max(0, len(keys) - 1)))
