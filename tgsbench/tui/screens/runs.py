"""The history of runs: filter, mark, open, compare."""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar

from textual import on, work
from textual.app import ComposeResult
from textual.binding import BindingType
from textual.widgets import DataTable, Input, Static
from textual.worker import get_current_worker

from tgsbench.errors import TgsError
from tgsbench.store import run_dir
from tgsbench.store.run_dir import RunDir
from tgsbench.tui import recorded, run_rows
from tgsbench.tui.actions import bindings
from tgsbench.tui.run_rows import RunRow
from tgsbench.tui.screens.base import ModeScreen
from tgsbench.tui.widgets.line import Line
from tgsbench.tui.widgets.search import Search
from tgsbench.tui.widgets.table import ListTable

COLUMNS = (
    ("mark", "", 3),
    ("status", "status", 11),
    ("preset", "preset", 20),
    ("tgs", "TGS", 9),
    ("length", "length", 6),
    ("when", "when", 11),
    ("engine", "engine", 9),
    ("ranks", "ranks", 5),
    ("run", "run", 40),
    ("why", "why", 60),
)
EXPLAINS = {"tgs": "tgs", "status": "status"}
BATCH = 200
"""Runs read between two paints of the list."""


class RunsScreen(ModeScreen):
    """Newest first; enter opens, space marks, c compares."""

    mode_name = "runs"
    scopes = ("runs", "list")
    AUTO_FOCUS = "#run-table"
    BINDINGS: ClassVar[list[BindingType]] = bindings("runs")

    def __init__(self) -> None:
        super().__init__()
        self._rows: list[RunRow] = []
        self._marked: list[str] = []

    def compose_body(self) -> ComposeResult:
        """Filter, table, one line about the run under the cursor."""
        placeholder = "/ filter: preset, status, engine, length …"
        yield Search(placeholder, id="run-filter", leads_to="#run-table")
        yield ListTable(COLUMNS, id="run-table", explains=EXPLAINS)
        yield Static("", id="run-why", markup=False)
        yield Line("reading the runs …", id="run-count")

    def on_mount(self) -> None:
        """Go to the list."""
        self.query_one(ListTable).focus()

    def on_screen_resume(self) -> None:
        """Read the folder again: runs start and end meanwhile."""
        self._load()

    @work(thread=True, exclusive=True, group="runs", exit_on_error=False)
    def _load(self) -> None:
        worker = get_current_worker()
        rows: list[RunRow] = []
        for run in run_dir.list_runs(self.tgs.runs_root):
            if worker.is_cancelled:
                return
            rows.append(run_rows.read_row(run))
            if len(rows) % BATCH == 0:
                self.app.call_from_thread(self._show, list(rows), more=True)
        self.app.call_from_thread(self._show, rows, more=False)

    def _show(self, rows: list[RunRow], *, more: bool) -> None:
        if not more or len(rows) > len(self._rows):
            self._rows = rows
            self._fill()

    def _fill(self) -> None:
        shown = run_rows.matching(self._rows, self.query_one("#run-filter", Input).value)
        self.query_one(ListTable).fill(run_rows.table_rows(shown, self._marked))
        text = f" {len(shown)} of {len(self._rows)} runs in {self.tgs.runs_root}"
        if self._marked:
            text += f"   {len(self._marked)} marked: c compares"
        if not self._rows:
            text = f" no runs in {self.tgs.runs_root} yet: choose a preset (1) and press r"
        self.query_one("#run-count", Line).show(text)
        self._show_why()

    @property
    def selected(self) -> RunRow | None:
        """The run under the cursor."""
        key = self.query_one(ListTable).selected_key
        return next((row for row in self._rows if str(row.run.path) == key), None)

    @on(DataTable.RowHighlighted)
    def _show_why(self) -> None:
        row = self.selected
        reason = f": {row.reason}" if row and row.reason else ""
        self.query_one("#run-why", Static).update(f"{row.run.run_id}{reason}" if row else "")

    @on(Input.Changed, "#run-filter")
    def _filter(self) -> None:
        self._fill()

    @on(DataTable.RowSelected)
    def _open(self) -> None:
        if (row := self.selected) is not None:
            self.tgs.open_run(row.run)

    def action_search(self) -> None:
        """Go to the filter line."""
        self.query_one("#run-filter", Search).take_keys()

    def action_mark(self) -> None:
        """Mark or unmark the run under the cursor, and go on to the next."""
        if (row := self.selected) is None:
            return
        key = str(row.run.path)
        if key in self._marked:
            self._marked.remove(key)
        else:
            self._marked.append(key)
        self._fill()
        self.query_one(ListTable).action_cursor_down()

    def action_compare(self) -> None:
        """Compare the marked runs; the first marked one is the base."""
        if len(self._marked) < 2:
            self.notify("mark two runs or more with space first")
            return
        from tgsbench.tui.screens.compare import CompareScreen

        try:
            rows = [run_rows.comparison_row(run) for run in self._marked_runs()]
        except TgsError as error:
            self.notify(f"{error.msg}\n{error.hint}".strip(), severity="error", markup=False)
        else:
            self.app.push_screen(CompareScreen(rows))

    def _marked_runs(self) -> Iterable[RunDir]:
        by_key = {str(row.run.path): row.run for row in self._rows}
        return [by_key[key] for key in self._marked if key in by_key]

    def action_replay(self) -> None:
        """Play the run under the cursor again."""
        if (row := self.selected) is not None:
            self.tgs.replay_run(row.run, recorded.RUN_SPEED)

    def action_profile(self) -> None:
        """Look at the profile of the run under the cursor."""
        if (row := self.selected) is not None:
            self.tgs.open_profile(row.run)

    def action_again(self) -> None:
        """Open the preset of the run under the cursor in the form."""
        if (row := self.selected) is not None and row.preset:
            self.tgs.edit_preset(row.preset)

    def action_copy(self) -> None:
        """Copy the run under the cursor in some form."""
        if (row := self.selected) is not None:
            self.tgs.copy_menu(row.run)

    def action_reload(self) -> None:
        """Read the folder again."""
        self._load()
