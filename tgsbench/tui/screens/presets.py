"""Home: the presets grouped by model, searched as you type, with a detail pane."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from itertools import islice
from typing import ClassVar

from textual import on, work
from textual.app import ComposeResult
from textual.binding import BindingType
from textual.containers import Container
from textual.widgets import DataTable, Input, Static

from tgsbench.launch import preflight
from tgsbench.launch.preflight import LocalMachine
from tgsbench.presets import catalog
from tgsbench.results import index
from tgsbench.results.index import Summary
from tgsbench.tui import preset_rows
from tgsbench.tui.actions import bindings
from tgsbench.tui.preset_rows import PresetRow
from tgsbench.tui.screens.base import ModeScreen
from tgsbench.tui.screens.dialogs import Choice, Page
from tgsbench.tui.widgets.line import Line
from tgsbench.tui.widgets.search import Search
from tgsbench.tui.widgets.table import ListTable

COLUMNS = (
    ("name", "preset", 20),
    ("length", "length", 6),
    ("gpus", "GPUs", 4),
    ("sp", "sp", 3),
    ("published", "published", 9),
    ("fits", "fits", 5),
    ("best", "best here", 9),
)
EXPLAINS = {"published": "published", "best": "best", "fits": "fits"}
MAX_RESULTS = 2000
"""Newest runs that are looked through for the best result of each preset."""


class PresetsScreen(ModeScreen):
    """Pick a preset, see what it is, run it."""

    mode_name = "presets"
    scopes = ("presets", "list")
    AUTO_FOCUS = "#preset-table"
    BINDINGS: ClassVar[list[BindingType]] = bindings("presets")

    def __init__(self) -> None:
        super().__init__()
        self._rows: list[PresetRow] = []
        self._best: dict[str, Summary] = {}
        self._machine: LocalMachine | None = None
        self._said: set[str] = set()

    def compose_body(self) -> ComposeResult:
        """Search, table, detail."""
        placeholder = "/ search: model, length, GPU, engine, fits …"
        yield Search(placeholder, id="preset-search", leads_to="#preset-table")
        with Container(id="preset-body"):
            yield ListTable(COLUMNS, id="preset-table", explains=EXPLAINS)
            with Page(id="preset-detail"):
                yield Static("", id="preset-text", markup=False)
        yield Line("reading the presets …", id="preset-count")

    def on_mount(self) -> None:
        """Read the presets, then the runs."""
        self._load()
        self.query_one(ListTable).focus()

    def on_screen_resume(self) -> None:
        """Runs may have ended meanwhile, a preset may have been saved in the form."""
        if self._machine is not None:
            self._load()

    @work(thread=True, exclusive=True, group="presets", exit_on_error=False)
    def _load(self) -> None:
        machine = self._machine or preflight.this_machine()
        rows = preset_rows.read_rows(machine)
        self.app.call_from_thread(self._show_rows, machine, rows)
        self.app.call_from_thread(self._say_once, catalog.data_problems())

    def _say_once(self, problems: list[str]) -> None:
        """Name damaged tables beside the presets; the list is read again at every return to this screen."""
        for problem in problems:
            if problem not in self._said:
                self._said.add(problem)
                self.notify(problem, title="a file that cannot be read", severity="warning", timeout=10)

    def _show_rows(self, machine: LocalMachine, rows: list[PresetRow]) -> None:
        self._machine, self._rows = machine, rows
        self._fill()
        self._load_best()

    @work(thread=True, exclusive=True, group="best", exit_on_error=False)
    def _load_best(self) -> None:
        with contextlib.closing(index.iter_summaries(self.tgs.runs_root, index.if_finished)) as found:
            best = preset_rows.best_results(islice(found, MAX_RESULTS))
        self.app.call_from_thread(self._show_best, best)

    def _show_best(self, best: dict[str, Summary]) -> None:
        if best != self._best:
            self._best = best
            self._fill()

    def _fill(self) -> None:
        shown = preset_rows.matching(self._rows, self.query_one("#preset-search", Input).value)
        self.query_one(ListTable).fill(preset_rows.table_rows(shown, self._best))
        fits = sum(not row.problem for row in self._rows)
        self.query_one("#preset-count", Line).show(
            f" {len(shown)} of {len(self._rows)} presets, {fits} fit this machine{_own(self._rows)}"
        )
        self._show_detail()

    @property
    def selected(self) -> PresetRow | None:
        """The preset under the cursor."""
        key = self.query_one(ListTable).selected_key
        return next((row for row in self._rows if row.name == key), None)

    @on(DataTable.RowHighlighted)
    def _show_detail(self) -> None:
        row = self.selected
        shown = preset_rows.detail(row, self._best) if row is not None else _NO_MATCH if self._rows else ""
        self.query_one("#preset-text", Static).update(shown)

    @on(DataTable.RowSelected)
    def _selected(self) -> None:
        self.action_edit()

    @on(Input.Changed, "#preset-search")
    def _search(self, event: Input.Changed) -> None:
        self._fill()
        if event.value:  # once the search is cleared the cursor stays on what was found
            self.query_one(ListTable).action_scroll_top()  # the first hit

    def choose_fitting(self) -> None:
        """Show only what fits this machine, the first one chosen."""
        self.query_one("#preset-search", Input).value = "fits"
        self.query_one(ListTable).focus()

    def action_search(self) -> None:
        """Go to the search line."""
        self.query_one("#preset-search", Search).take_keys()

    def _sound_row(self) -> PresetRow | None:
        """The preset under the cursor; one that is broken is refused in words."""
        row = self.selected
        if row is not None and row.preset is None:
            self.notify(row.problem, title=f"{row.name} is broken", severity="error")
        return row

    def action_launch(self) -> None:
        """Run the chosen preset, or say what would work instead."""
        row = self._sound_row()
        if row is None or row.preset is None:
            return
        if not row.problem:
            self.tgs.launch(row.preset)
            return
        self.app.push_screen(
            Choice(f"{row.name} does not fit this machine", row.problem, NO_FIT_CHOICES), self._instead
        )

    def _instead(self, choice: str | None) -> None:
        if choice == "rehearse":
            self.action_rehearse()
        elif choice == "edit":
            self.action_edit()

    def action_rehearse(self) -> None:
        """Run the chosen preset shrunken."""
        row = self._sound_row()
        if row is not None and row.preset is not None:
            self.tgs.launch(row.preset, rehearse=True)

    def action_forecast(self) -> None:
        """Show what the planner says of the chosen preset, and faster settings."""
        row = self._sound_row()
        if row is not None and row.preset is not None:
            self.tgs.show_forecast(row.preset, row.name, [])

    def action_tune(self) -> None:
        """Ask for a tune of the chosen preset."""
        row = self._sound_row()
        if row is not None and row.preset is not None:
            self.tgs.ask_tune(row.name, [])

    def action_edit(self) -> None:
        """Open the chosen preset in the form."""
        if (row := self.selected) is not None:
            self.tgs.edit_preset(row.name)

    def action_copy_command(self) -> None:
        """Copy the command that would run the chosen preset."""
        row = self.selected
        if row is not None and row.preset is not None:
            self.tgs.put_on_clipboard(preset_rows.command_line(row.preset), "the command")


def _own(rows: Sequence[PresetRow]) -> str:
    """How many are the user's own, with their mark; empty without any."""
    num = sum(bool(row.own) for row in rows)
    return f", {preset_rows.OWN_MARK} {num} your own" if num else ""


_NO_MATCH = " no preset matches; / and esc clear the search"

NO_FIT_CHOICES = (
    ("rehearse", "Rehearse: the same shape, shrunken to this machine; compares with nothing"),
    ("edit", "Edit it"),
    ("", "Leave it"),
)
