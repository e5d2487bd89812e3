"""A tune as it goes on and how it ended: the best so far, settings, trials, knobs, the front."""

from __future__ import annotations

import shlex
import time
from typing import ClassVar

from textual import on
from textual.app import ComposeResult
from textual.binding import BindingType
from textual.containers import Vertical
from textual.widgets import DataTable, Static

from tgsbench.errors import TgsError
from tgsbench.presets import catalog
from tgsbench.store.run_dir import RunDir
from tgsbench.tui import tune_rows
from tgsbench.tui.actions import bindings
from tgsbench.tui.screens.base import ModeScreen, tab_bar
from tgsbench.tui.screens.dialogs import Ask, Choice, Page
from tgsbench.tui.tuning import TuneProcess
from tgsbench.tui.widgets.line import Line
from tgsbench.tui.widgets.table import ListTable
from tgsbench.tune import state as states
from tgsbench.tune.saving import save_tuned
from tgsbench.tune.state import TuneState
from tgsbench.tune.text import figure_text
from tgsbench.tune.verdict import SettingRow

LOOK_S = 0.5
"""Seconds between two looks at a tune's state, which changes with each trial."""
STOP = (
    ("stop", "Stop: what was measured is kept, and the same name goes on later"),
    ("", "Let it go on"),
)
_TABLES = {"settings": "tune-settings", "trials": "tune-trials"}


class TuneScreen(ModeScreen):
    """Reads RUNS/tune/NAME.json: a tune that was started here, on the command line, or long ago."""

    mode_name = "presets"
    scopes = ("tune", "list")
    BINDINGS: ClassVar[list[BindingType]] = bindings("tune")

    def __init__(self, name: str, process: TuneProcess | None) -> None:
        """`process`: the tune's, where it was started here."""
        super().__init__()
        self._tune, self._process = name, process
        self._state: TuneState | None = None
        self._written_ns = 0
        self._unreadable = ""
        """Why its state cannot be read; empty when it can."""
        self._pane = "settings"

    def compose_body(self) -> ComposeResult:
        """Lines, the pane that is chosen, the setting under the cursor."""
        yield Line("", id="tune-progress")
        yield Line("", id="tune-trial")
        yield Static("", id="tune-best", markup=False)
        yield Line("", id="tune-panes-line")
        yield Static("planning every way …", id="tune-said", markup=False)
        with Vertical(id="tune-body"):
            yield ListTable(tune_rows.SETTINGS, id="tune-settings", explains={"tgs": "tgs"})
            yield ListTable(tune_rows.TRIALS, id="tune-trials", explains={"tgs": "tgs"})
            with Page(id="tune-page"):
                yield Static("", id="tune-text", markup=False)
        with Page(id="tune-detail"):
            yield Static("", id="tune-setting", markup=False)

    def on_mount(self) -> None:
        """Look at once, then on and on."""
        self.query_one("#tune-progress", Line).show(f" tune {self._tune}")
        self._show_pane()
        self._look()
        self.set_interval(LOOK_S, self._look)

    def on_resize(self) -> None:
        """Charts are as wide as the screen."""
        self._show_text()

    def _look(self) -> None:
        """Read the state where it was written anew; lines with a clock in them go on by themselves."""
        path = states.path_of(self.tgs.runs_root, self._tune)
        try:
            written_ns = path.stat().st_mtime_ns if self._is_ours(path.stat().st_mtime) else 0
            if written_ns not in (0, self._written_ns):
                self._state, self._written_ns = states.read_state(self.tgs.runs_root, self._tune), written_ns
                self._unreadable = ""
                self._fill()
        except FileNotFoundError:
            pass
        except TgsError as error:
            self._unreadable = f"✗ {error.msg}"
        self._show_lines()

    def _is_ours(self, written_s: float) -> bool:
        """A state of an earlier tune of this name says nothing of the one that was started now."""
        return self._process is None or written_s >= self._process.began_s

    def _show_lines(self) -> None:
        if (found := self._state) is None:
            self._say(self._waiting())
            return
        now_s, lost = time.time(), self._lost(found)
        self._say(lost)
        progress = tune_rows.progress_line(found, now_s, is_alive=not lost)
        self.query_one("#tune-progress", Line).show(f" tune {self._tune}: {progress}")
        trial = tune_rows.trial_line(found, now_s, is_alive=not lost)
        self.query_one("#tune-trial", Line).show(f" {trial}".rstrip())

    def _waiting(self) -> str:
        if self._unreadable:
            return self._unreadable
        if self._process is None:
            return f"no tune called {self._tune} in {self.tgs.runs_root}"
        said = self._process.said()
        return (said or "planning every way …") if self._process.is_alive else f"✗ {said}"

    def _lost(self, found: TuneState) -> str:
        """What to say of a tune whose process is gone without a word, or whose state cannot be read now."""
        if self._unreadable:
            return self._unreadable
        if self._process is not None and not self._process.is_alive and not found.is_over:
            return f"✗ {self._process.said()}"
        lost = not found.is_over and not found.is_alive
        return "✗ its process was killed, or runs on another host; the same command goes on" if lost else ""

    def _say(self, text: str) -> None:
        said = self.query_one("#tune-said", Static)
        said.update(text)
        said.display = bool(text)
        said.set_class(text.startswith("✗"), "-wrong")

    def _fill(self) -> None:
        found = self._state
        if found is None:
            return
        best = tune_rows.best_line(found.verdict, is_over=found.is_over)
        self.query_one("#tune-best", Static).update(f" {best}")
        self.query_one("#tune-settings", ListTable).fill(tune_rows.setting_rows(found.verdict))
        self.query_one("#tune-trials", ListTable).fill(tune_rows.trial_rows(found.outcomes))
        self._show_text()
        self._show_detail()

    def _show_pane(self) -> None:
        bar = tab_bar(tune_rows.PANES, self._pane, "screen.pane")
        self.query_one("#tune-panes-line", Line).show(bar)
        shown = _TABLES.get(self._pane, "tune-page")
        for name in ("tune-settings", "tune-trials", "tune-page"):
            self.query_one(f"#{name}").display = name == shown
        self.query_one(f"#{shown}").focus()
        self._show_text()
        self._show_detail()

    def _show_text(self) -> None:
        if self._state is None or self._pane in _TABLES:
            return
        page, found = self.query_one("#tune-page"), self._state.verdict
        width, height = max(20, self.size.width - 4), max(4, page.size.height)
        if self._pane == "knobs":
            text = tune_rows.knob_text(found.effects, width)
        elif self._pane == "front":
            text = tune_rows.front_text(
                found, width, height, ascii_only=getattr(self.app, "ascii_only", False)
            )
        else:
            text = tune_rows.dropped_text(found)
        self.query_one("#tune-text", Static).update(text)

    @property
    def selected(self) -> SettingRow | None:
        """The setting under the cursor: of the trials, the one that was tried; else the best."""
        if self._state is None:
            return None
        rows = {" ".join(row.change): row for row in self._state.verdict.rows}
        if self._pane == "trials":
            key = self.query_one("#tune-trials", ListTable).selected_key
            outcome = self._state.outcomes[int(key) - 1] if key else None
            return rows.get(outcome.key) if outcome else None
        if self._pane == "settings":
            return rows.get(self.query_one("#tune-settings", ListTable).selected_key)
        return self._state.verdict.best

    @on(DataTable.RowHighlighted)
    def _show_detail(self) -> None:
        if self._state is not None:
            asked = self._state.asked.assignments
            text = tune_rows.detail(self.selected, self._state.verdict, asked)
            self.query_one("#tune-setting", Static).update(text)

    @on(DataTable.RowSelected, "#tune-trials")
    def _open_trial(self) -> None:
        key = self.query_one("#tune-trials", ListTable).selected_key
        if self._state is not None and key:
            run = RunDir(self.tgs.runs_root / self._state.outcomes[int(key) - 1].run_id)
            self.tgs.open_run(run)

    def action_pane(self, name: str) -> None:
        """Show one of the panes."""
        self._pane = name
        self._show_pane()

    def action_next_pane(self) -> None:
        """Go to the next pane."""
        self._step(1)

    def action_previous_pane(self) -> None:
        """Go to the pane before."""
        self._step(-1)

    def _step(self, by: int) -> None:
        names = [name for name, _ in tune_rows.PANES]
        self.action_pane(names[(names.index(self._pane) + by) % len(names)])

    def action_stop(self) -> None:
        """Ask, then interrupt the tune."""
        if self._state is None or not self._state.is_alive:
            self.notify("it is over" if self._state is not None else "it has not begun to measure")
            return
        self.app.push_screen(Choice(f"Stop the tune {self._tune}?", "", STOP), self._stop)

    def _stop(self, choice: str | None) -> None:
        if choice == "stop" and self._state is not None and states.stop(self._state):
            self.notify("stopping: the trial that goes on is ended and does not count")

    def action_save(self) -> None:
        """Save the chosen setting as a preset of the user's own, under a name that is asked for."""
        row = self.selected
        if row is None or row.failed:
            self.notify("no setting is chosen that held")
            return
        about = figure_text(row)
        free = catalog.free_name(f"tuned_{self._tune}")
        self.app.push_screen(
            Ask("Save as a preset of your own", about, free), lambda name: self._save(row, name)
        )

    def _save(self, row: SettingRow, name: str | None) -> None:
        if not name or self._state is None:
            return
        try:
            path = save_tuned(name.strip(), self._state.asked, row)
        except TgsError as error:
            self.notify(f"{error.msg}\n{error.hint}".strip(), severity="error", timeout=8)
        else:
            self.notify(f"saved {name.strip()}: it stands among the presets now\n{path}")

    def action_copy(self) -> None:
        """Copy the command that runs the chosen setting."""
        if self._state is None or (row := self.selected) is None:
            self.notify("no setting is chosen")
            return
        asked = self._state.asked
        sets = [word for text in asked.laid_over(row.change) for word in ("--set", text)]
        command = shlex.join(["tgsbench", "run", "--preset", asked.base, *sets])
        self.tgs.put_on_clipboard(command, "the command")

    def action_close(self) -> None:
        """Back to the presets; the tune goes on."""
        self.dismiss(None)
