"""The history of runs: filter, mark, open, compare."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterable
from typing import ClassVar

from textual import on, work
from textual.app import ComposeResult
from textual.binding import BindingType
from textual.widgets import DataTable, Input, Static
from textual.worker import get_current_worker

from tgsbench.errors import TgsError
from tgsbench.results import index
from tgsbench.results.index import Summary
from tgsbench.store.run_dir import RunDir
from tgsbench.tui import recorded, run_rows
from tgsbench.tui.actions import bindings
from tgsbench.tui.run_rows import RunRow
from tgsbench.tui.screens.base import ModeScreen
from tgsbench.tui.widgets.line import Line
from tgsbench.tui.widgets.search import Search
from tgsbench.tui.widgets.table import ListTable

FIRST_PAINT_S = 0.5
"""Time after which the list is painted though more runs are to be read; the next paint takes twice as long
to come, and so on, so that few runs are painted often."""


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
        yield ListTable(run_rows.list_columns(), id="run-table", explains=run_rows.explained_columns())
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
        began_s, due_s = time.monotonic(), FIRST_PAINT_S
        with contextlib.closing(index.iter_summaries(self.tgs.runs_root, index.glance)) as found:
            for run in found:
                if worker.is_cancelled:
                    return
                rows.append(run_rows.run_row(run))
                if time.monotonic() - began_s > due_s:
                    due_s *= 2
                    self.app.call_from_thread(self._show, list(rows), more=True)
        self.app.call_from_thread(self._show, rows, more=False)

    def _show(self, rows: list[RunRow], *, more: bool) -> None:
        if not more or len(rows) > len(self._rows):
            self._rows = sorted(rows, key=run_rows.age_order, reverse=True)
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
    def selected(self) -> Summary | None:
        """The run under the cursor."""
        name = run_rows.name_of(self.query_one(ListTable).selected_key)
        return next((row.run for row in self._rows if row.run.run_id == name), None)

    def _folder(self, run: Summary) -> RunDir:
        return RunDir(self.tgs.runs_root / run.run_id)

    @on(DataTable.RowHighlighted)
    def _show_why(self) -> None:
        run = self.selected
        reason = f": {run.reason}" if run and run.reason else ""
        self.query_one("#run-why", Static).update(f"{run.run_id}{reason}" if run else "")

    @on(Input.Changed, "#run-filter")
    def _filter(self) -> None:
        self._fill()

    @on(DataTable.RowSelected)
    def _open(self) -> None:
        if (run := self.selected) is not None:
            self.tgs.open_run(self._folder(run))

    def action_search(self) -> None:
        """Go to the filter line."""
        self.query_one("#run-filter", Search).take_keys()

    def action_mark(self) -> None:
        """Mark or unmark the run under the cursor, and go on to the next."""
        if (run := self.selected) is None:
            return
        if run.run_id in self._marked:
            self._marked.remove(run.run_id)
        else:
            self._marked.append(run.run_id)
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
        by_name = {row.run.run_id: row.run for row in self._rows}
        return [self._folder(by_name[name]) for name in self._marked if name in by_name]

    def action_replay(self) -> None:
        """Play the run under the cursor again."""
        if (run := self.selected) is not None:
            self.tgs.replay_run(self._folder(run), recorded.RUN_SPEED)

    def action_profile(self) -> None:
        """Look at the profile of the run under the cursor."""
        if (run := self.selected) is not None:
            self.tgs.open_profile(self._folder(run))

    def action_again(self) -> None:
        """Open the preset of the run under the cursor in the form."""
        if (run := self.selected) is not None and run.preset:
            self.tgs.edit_preset(run.preset)

    def action_copy(self) -> None:
        """Copy the run under the cursor in some form."""
        if (run := self.selected) is not None:
            self.tgs.copy_menu(self._folder(run))

    def action_reload(self) -> None:
        """Read the folder again."""
        self._load()
