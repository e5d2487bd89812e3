"""Is this machine fit to measure on: one line a check, with its remedy."""

from __future__ import annotations

from typing import ClassVar

from rich.text import Text
from textual import work
from textual.app import ComposeResult
from textual.binding import BindingType
from textual.widgets import Static

from tgsbench.system import doctor
from tgsbench.system.doctor import DoctorCheck
from tgsbench.systems import registry
from tgsbench.tui.actions import bindings
from tgsbench.tui.screens.base import ModeScreen
from tgsbench.tui.widgets.line import Line
from tgsbench.tui.widgets.table import ListTable, Row

COLUMNS = (("mark", "", 8), ("what", "check", 20), ("found", "found", 60), ("remedy", "remedy", 60))


class DoctorScreen(ModeScreen):
    """Runs the checks in the background and lists them."""

    mode_name = "doctor"
    scopes = ("doctor", "list")
    AUTO_FOCUS = "#doctor-table"
    BINDINGS: ClassVar[list[BindingType]] = bindings("doctor")

    def __init__(self) -> None:
        super().__init__()
        self._checks: list[DoctorCheck] = []

    def compose_body(self) -> ComposeResult:
        """Table and one line about the check under the cursor."""
        yield ListTable(COLUMNS, id="doctor-table")
        yield Static("", id="doctor-remedy", markup=False)
        yield Line("", id="doctor-line")

    def on_mount(self) -> None:
        """Check at once."""
        self.query_one(ListTable).focus()
        self.action_again()

    def action_again(self) -> None:
        """Check again."""
        self.query_one("#doctor-line", Line).show(
            " checking: torch is imported and two ranks talk, some seconds …"
        )
        self._check()

    @work(thread=True, exclusive=True, group="doctor", exit_on_error=False)
    def _check(self) -> None:
        found = doctor.run_checks(self.tgs.runs_root, engine_distributions=registry.engine_distributions())
        self.app.call_from_thread(self._show, found)

    def _show(self, found: list[DoctorCheck]) -> None:
        self._checks = found
        self.query_one(ListTable).fill(_rows(found))
        bad = sum(c.level != "ok" for c in found)
        text = "all is well" if not bad else f"{bad} of {len(found)} checks want attention"
        self.query_one("#doctor-line", Line).show(f" {text}")
        self._show_remedy()

    def on_data_table_row_highlighted(self) -> None:
        """Spell out the check under the cursor."""
        self._show_remedy()

    def _show_remedy(self) -> None:
        key = self.query_one(ListTable).selected_key
        if key:
            check = self._checks[int(key)]
            remedy = f"   try: {check.remedy}" if check.remedy else ""
            self.query_one("#doctor-remedy", Static).update(f"{check.what}: {check.found}{remedy}")

    def action_copy(self) -> None:
        """Copy the report."""
        lines = [f"{c.marked:<8} {c.what}: {c.found}" + (f" (try: {c.remedy})" if c.remedy else "")
                 for c in self._checks]  # fmt: skip
        self.tgs.put_on_clipboard("\n".join(lines) + "\n", "the report")


def _rows(found: list[DoctorCheck]) -> list[Row]:
    return [(str(i), (c.marked, Text(c.what), Text(c.found), Text(c.remedy))) for i, c in enumerate(found)]
