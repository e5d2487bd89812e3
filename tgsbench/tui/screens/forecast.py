"""What the planner says of a preset before it runs, and the settings that it finds faster."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import ClassVar

from textual import on, work
from textual.app import ComposeResult
from textual.binding import BindingType
from textual.containers import Vertical
from textual.screen import ModalScreen
from textual.widgets import DataTable, Footer, Static

from tgsbench import api
from tgsbench.errors import TgsError
from tgsbench.planner.search import Candidate, Found, search
from tgsbench.presets.save import save_user_preset
from tgsbench.report.plan import manner
from tgsbench.schema.forecast import Forecast
from tgsbench.schema.preset import Preset
from tgsbench.tui import forecast_rows
from tgsbench.tui.actions import Scope, app_bindings, bindings
from tgsbench.tui.preset_rows import command_line
from tgsbench.tui.screens.dialogs import Page
from tgsbench.tui.shell import shell
from tgsbench.tui.widgets.line import Line
from tgsbench.tui.widgets.table import ListTable


class ForecastScreen(ModalScreen[None]):
    """Plans one preset, searches faster settings, saves the chosen one."""

    BINDINGS: ClassVar[list[BindingType]] = [
        *bindings("forecast"),
        *app_bindings("app.help", "app.command_palette"),
    ]
    scopes: ClassVar[tuple[Scope, ...]] = ("forecast", "list")

    def __init__(self, preset: Preset, base: str, assignments: Sequence[str]) -> None:
        """`preset` is `base` with `assignments` over it."""
        super().__init__()
        self._preset, self._base, self._assignments = preset, base, list(assignments)
        self._found = Found(num_tried=0, candidates=[])

    def compose(self) -> ComposeResult:
        """The plan, the settings that a search finds, the command of the chosen one."""
        with Vertical(classes="dialog forecast"):
            edited = " as edited" if self._assignments else ""
            yield Static(f"Forecast of {self._base}{edited}", classes="dialog-title", markup=False)
            with Page(id="forecast-page"):
                yield Static("planning …", id="forecast-text", markup=False)
            yield Line("", id="forecast-line")
            yield ListTable(forecast_rows.COLUMNS, id="forecast-table")
            yield Static("", id="forecast-command", markup=False)
        yield Footer(show_command_palette=False, compact=True)

    def on_mount(self) -> None:
        """Plan in a thread: a search takes a second or two."""
        self.query_one(ListTable).focus()
        self._plan()

    @work(thread=True, exclusive=True, group="forecast", exit_on_error=False)
    def _plan(self) -> None:
        try:
            plan = api.forecast(self._preset)
        except TgsError as error:
            self._tell(self._say, "", f"✗ {error.msg}", error.hint)
            return
        self._tell(self._show_plan, plan)
        try:
            found = search(self._preset, api.planned_machine(self._preset))
        except TgsError as error:
            self._tell(self._say, None, f"no search: {error.msg}", error.hint)
        else:
            self._tell(self._show_found, plan, found)

    def _tell(self, show: Callable[..., None], *values: object) -> None:
        if self.is_attached:  # it may have been left meanwhile
            self.app.call_from_thread(show, *values)

    def _say(self, text: str | None, line: str, hint: str) -> None:
        if text is not None:
            self.query_one("#forecast-text", Static).update(text)
        self.query_one("#forecast-line", Line).show(line)
        self.query_one("#forecast-command", Static).update(f"try: {hint}" if hint else "")
        self.query_one("#forecast-table").display = False

    def _show_plan(self, plan: Forecast) -> None:
        self.query_one("#forecast-text", Static).update(forecast_rows.summary(plan))
        self.query_one("#forecast-line", Line).show("searching every mesh, mode and engine …")

    def _show_found(self, plan: Forecast, found: Found) -> None:
        self._found = found
        num = len(found.candidates)
        fitting = f"{num:,} fit, fastest first; ctrl+s saves one as a preset"
        text = f"{found.num_tried:,} settings: {fitting if num else 'none fits'}"
        self.query_one("#forecast-line", Line).show(text)
        self.query_one(ListTable).fill(forecast_rows.rows(found, plan))
        self._show_command()

    @property
    def selected(self) -> Candidate | None:
        """The setting under the cursor."""
        key = self.query_one(ListTable).selected_key
        return self._found.candidates[int(key)] if key else None

    def _sets(self) -> list[str]:
        one = self.selected
        return forecast_rows.merged(self._assignments, one.change if one else [])

    @on(DataTable.RowHighlighted)
    def _show_command(self) -> None:
        one = self.selected
        if one is not None:
            command = command_line(self._preset, self._sets(), base=self._base)
            # How it runs stands in the table's last column, too, which 80 columns cut.
            self.query_one("#forecast-command", Static).update(f"{manner(one)}\n{command}")

    def action_save(self) -> None:
        """Save the chosen setting as a preset of the user's own, under a name that is free."""
        one = self.selected
        if one is None:
            self.notify("no setting is chosen")
            return
        name = forecast_rows.preset_name(self._base, one)
        try:
            path = save_user_preset(name, self._base, self._sets())
        except TgsError as error:
            self.notify(f"{error.msg}\n{error.hint}".strip(), severity="error", timeout=8)
        else:
            self.notify(f"saved {name}: it stands among the presets now\n{path}")

    def action_copy(self) -> None:
        """Copy the command that runs the chosen setting."""
        shell(self.app).put_on_clipboard(
            command_line(self._preset, self._sets(), base=self._base), "the command"
        )

    def action_cancel(self) -> None:
        """Back to where it was opened."""
        self.dismiss(None)
