"""The history of runs: filter, mark, open, compare."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterable
from pathlib import Path
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
from tgsbench.store.tags import change_tags
from tgsbench.tui import recorded, run_rows
from tgsbench.tui.actions import bindings
from tgsbench.tui.run_rows import RunRow
from tgsbench.tui.screens.base import ModeScreen
from tgsbench.tui.screens.dialogs import Ask, Choice, Reading
from tgsbench.tui.widgets.line import Line
from tgsbench.tui.widgets.search import Search
from tgsbench.tui.widgets.table import ListTable

FIRST_PAINT_S = 0.5
"""Time after which the list is painted though more runs are to be read; the next paint takes twice as long
to come, and so on, so that few runs are painted often."""


LOOK_PERIOD_S = 2.0
MAX_WATCHED = 100
"""Runs that go on, of which each look asks whether they have ended."""
DELETE_CHOICES = (("", "Keep it"), ("delete", "Delete it with its events, logs and traces"))


class RunsScreen(ModeScreen):
    """Newest first; enter opens, x marks, v compares."""

    mode_name = "runs"
    scopes = ("runs", "list")
    AUTO_FOCUS = "#run-table"
    BINDINGS: ClassVar[list[BindingType]] = bindings("runs")

    def __init__(self) -> None:
        super().__init__()
        self._rows: list[RunRow] = []
        self._marked: list[str] = []
        self._order = run_rows.NEWEST
        self._seen: tuple[int, ...] | None = None
        """What `_stamp` said of the list that is shown; None while it is being read."""

    def compose_body(self) -> ComposeResult:
        """Filter, table, one line about the run under the cursor."""
        placeholder = "/ search: preset, status, engine, length, tag …"
        yield Search(placeholder, id="run-filter", leads_to="#run-table")
        yield ListTable(run_rows.list_columns(), id="run-table", explains=run_rows.explained_columns())
        yield Static("", id="run-why", markup=False)
        yield Line("reading the runs …", id="run-count")

    def on_mount(self) -> None:
        """Go to the list, and look now and then whether it still holds."""
        self.query_one(ListTable).focus()
        self.set_interval(LOOK_PERIOD_S, self._look)

    def on_screen_resume(self) -> None:
        """Read the folder again: runs start and end meanwhile."""
        self._load()

    def _look(self) -> None:
        """Read the folder again if a run began or ended since: a few stats, whatever it holds."""
        if self.is_current and self._seen is not None and self._seen != self._stamp():
            self._load()

    def _stamp(self) -> tuple[int, ...]:
        """Changes when a run folder comes or goes, and when one of the runs that go on gets its result."""
        going = [row.run for row in self._rows if row.run.status == "running"][:MAX_WATCHED]
        paths = [self.tgs.runs_root, *(self._folder(run).path / "result.json" for run in going)]
        return tuple(_changed_ns(path) for path in paths)

    @work(thread=True, exclusive=True, group="runs", exit_on_error=False)
    def _load(self) -> None:
        self._seen = None
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
            self._rows = run_rows.ordered(rows, self._order)
            self._fill()
        self._seen = None if more else self._stamp()

    def _fill(self) -> None:
        shown = run_rows.matching(self._rows, self.query_one("#run-filter", Input).value)
        self.query_one(ListTable).fill(run_rows.table_rows(shown, self._marked))
        marked = f"{len(self._marked)} marked (v compares them), " if self._marked else ""
        text = f" {marked}{self._order}: {len(shown):,} of {len(self._rows):,} runs in {self.tgs.runs_root}"
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
    def _filter(self, event: Input.Changed) -> None:
        self._fill()
        if event.value:  # once the filter is cleared the cursor stays on what was found
            self.query_one(ListTable).action_scroll_top()  # the first hit

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
            self.notify("mark two runs or more with x first")
            return
        from tgsbench.tui.screens.compare import CompareScreen

        try:
            rows = [run_rows.comparison_row(run) for run in self._marked_runs()]
        except TgsError as error:
            self._refuse(error)
        else:
            self.app.push_screen(CompareScreen(rows))

    def _refuse(self, error: TgsError) -> None:
        self.notify(f"{error.msg}\n{error.hint}".strip(), severity="error", markup=False)

    def _marked_runs(self) -> Iterable[RunDir]:
        by_name = {row.run.run_id: row.run for row in self._rows}
        return [self._folder(by_name[name]) for name in self._marked if name in by_name]

    def action_sort(self) -> None:
        """Sort by the next of the orders; the cursor goes to the top."""
        orders = list(run_rows.ORDERS)
        self._order = orders[(orders.index(self._order) + 1) % len(orders)]
        self._rows = run_rows.ordered(self._rows, self._order)
        self._fill()
        self.query_one(ListTable).action_scroll_top()

    def action_details(self) -> None:
        """Everything about the run under the cursor on one page."""
        if (run := self.selected) is not None:
            self.app.push_screen(Reading("Details", run_rows.details(run, self._folder(run))))

    def action_tag(self) -> None:
        """Ask for the tags of the run under the cursor, and write them."""
        if (run := self.selected) is None:
            return

        def write(line: str | None) -> None:
            if line is not None:
                self._tag(run, line.replace(",", " ").split())

        text = "Words with spaces between them; tagged runs are spared by `tgsbench runs prune`."
        self.app.push_screen(
            Ask(f"Tags of {run.run_id}", text, "".join(f"{tag} " for tag in run.tags)), write
        )

    def _tag(self, run: Summary, tags: list[str]) -> None:
        removed = [f"^{tag}" for tag in run.tags if tag not in tags]
        try:
            written = change_tags(self._folder(run), [*tags, *removed])
        except TgsError as error:
            self._refuse(error)
        else:
            self.notify(f"{run.run_id}: {', '.join(written) or 'no tags'}")
            self._load()

    def action_delete(self) -> None:
        """Delete the run under the cursor, once that was confirmed."""
        if (run := self.selected) is None:
            return

        def delete(choice: str | None) -> None:
            if choice == "delete":
                self._delete(run)

        tagged = f" It is tagged: {', '.join(run.tags)}." if run.tags else ""
        text = (
            f"{run.preset or 'unknown preset'}, {run.status}.{tagged} A deleted run cannot be brought back."
        )
        self.app.push_screen(Choice(f"Delete {run.run_id}?", text, DELETE_CHOICES), delete)

    def _delete(self, run: Summary) -> None:
        from tgsbench.launch import detached

        folder = self._folder(run)
        try:
            detached.discard(folder)
        except TgsError as error:
            self._refuse(error)
            return
        self._marked = [name for name in self._marked if name != run.run_id]
        self.tgs.forget_run(folder)
        self.notify(f"{run.run_id} was deleted")
        self._load()

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


def _changed_ns(path: Path) -> int:
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return 0
