"""Runs side by side: verdict and ratio first, then every field, differences marked."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from rich.text import Text
from textual.app import ComposeResult
from textual.binding import BindingType
from textual.widgets import Static

from tgsbench.results.rows import Row
from tgsbench.tui import run_rows
from tgsbench.tui.actions import bindings
from tgsbench.tui.run_rows import CompareTable
from tgsbench.tui.screens.base import ModeScreen
from tgsbench.tui.screens.dialogs import Page
from tgsbench.tui.widgets.line import Line
from tgsbench.tui.widgets.table import ListTable
from tgsbench.tui.widgets.table import Row as TableRow

EXPLAINS = {"what": "ratio"}
NAME_WIDTH = 15
WIDTH = 29
"""Of a run's column: two of them fit into 80 columns beside their names and a scrollbar."""


class CompareScreen(ModeScreen):
    """One column per run; the base is in brackets."""

    mode_name = "runs"
    scopes = ("compare", "list")
    BINDINGS: ClassVar[list[BindingType]] = bindings("compare")

    def __init__(self, rows: Sequence[Row]) -> None:
        super().__init__()
        self._rows = list(rows)
        self._base = 0
        self._only_differences = False

    def compose_body(self) -> ComposeResult:
        """Table and notes."""
        widths = [
            ("what", "", NAME_WIDTH),
            *((str(i), _short(row.label), WIDTH) for i, row in enumerate(self._rows)),
        ]
        yield Line("", id="compare-line")
        yield ListTable(widths, id="compare-table", explains=EXPLAINS)
        with Page(id="compare-notes"):
            yield Static("", id="compare-text", markup=False)

    def on_mount(self) -> None:
        """Fill it."""
        self._fill()
        self.query_one(ListTable).focus()

    def on_resize(self) -> None:
        """All columns may fit now, or no longer."""
        self._fill()

    @property
    def _found(self) -> CompareTable:
        return run_rows.compare_table(self._rows, self._base)

    def _fill(self) -> None:
        found = self._found
        shown = [row for row in found.rows if row[2] or not self._only_differences]
        self.query_one(ListTable).fill([_cells(*row) for row in shown])
        base = found.columns[self._base]
        differ = sum(differs for _, _, differs in found.rows[2:])
        counts = f"{differ} of {len(found.rows) - 2} fields differ"
        hidden = NAME_WIDTH + 2 + len(self._rows) * (WIDTH + 2) > self.size.width
        more = f"   l and h show all {len(self._rows)} columns" if hidden else ""
        self.query_one("#compare-line", Line).show(f" base: {base}   {counts}{more}")
        lines = run_rows.notes(found) or ["nothing but the figures differs"]
        self.query_one("#compare-text", Static).update(Text("\n".join(lines)))

    def action_only_differences(self) -> None:
        """Hide or show rows that are equal."""
        self._only_differences = not self._only_differences
        self._fill()

    def action_swap(self) -> None:
        """Compare against the next run."""
        self._base = (self._base + 1) % len(self._rows)
        self._fill()

    def action_copy_markdown(self) -> None:
        """Copy the table as markdown."""
        self.tgs.put_on_clipboard(run_rows.markdown(self._found), "the table as markdown")

    def action_copy_json(self) -> None:
        """Copy the comparisons as JSON."""
        self.tgs.put_on_clipboard(run_rows.as_json(self._found), "the comparison as JSON")

    def action_close(self) -> None:
        """Back to the runs."""
        self.dismiss(None)


def _cells(what: str, texts: list[str], differs: bool) -> TableRow:
    style = "bold" if differs else "dim"
    mark = "≠ " if differs else "  "
    return what, (Text(mark + what, style), *(Text(text, style) for text in texts))


def _short(label: str) -> str:
    return label if len(label) <= WIDTH else "…" + label[1 - WIDTH :]
