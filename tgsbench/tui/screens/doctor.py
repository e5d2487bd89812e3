"""Is this machine fit to measure on: one line a check, with its remedy."""

from __future__ import annotations

from typing import ClassVar

from rich.text import Text
from textual import work
from textual.app import ComposeResult
from textual.binding import BindingType
from textual.widgets import Static
from textual.worker import get_current_worker

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
        self._checks: dict[str, DoctorCheck] = {}
        """By key of its row, from the top."""

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
        worker = get_current_worker()
        groups: dict[int, list[DoctorCheck]] = {}
        engines = registry.engine_distributions()
        for place, checks in doctor.iter_checks(self.tgs.runs_root, engine_distributions=engines):
            groups[place] = checks
            if worker.is_cancelled:
                return
            self.app.call_from_thread(self._show, _by_key(groups))
        self.app.call_from_thread(self._sum_up)

    def _show(self, checks: dict[str, DoctorCheck]) -> None:
        self._checks = checks
        self.query_one(ListTable).fill(_rows(checks))
        self._show_remedy()

    def _sum_up(self) -> None:
        bad = sum(check.level != "ok" for check in self._checks.values())
        text = "all is well" if not bad else f"{bad} of {len(self._checks)} checks want attention"
        self.query_one("#doctor-line", Line).show(f" {text}")

    def on_data_table_row_highlighted(self) -> None:
        """Spell out the check under the cursor."""
        self._show_remedy()

    def _show_remedy(self) -> None:
        key = self.query_one(ListTable).selected_key
        if key:
            check = self._checks[key]
            remedy = f"   try: {check.remedy}" if check.remedy else ""
            self.query_one("#doctor-remedy", Static).update(f"{check.what}: {check.found}{remedy}")

    def action_copy(self) -> None:
        """Copy the report."""
        lines = [f"{c.marked:<8} {c.what}: {c.found}" + (f" (try: {c.remedy})" if c.remedy else "")
                 for c in self._checks.values()]  # fmt: skip
        self.tgs.put_on_clipboard("\n".join(lines) + "\n", "the report")


def _by_key(groups: dict[int, list[DoctorCheck]]) -> dict[str, DoctorCheck]:
    """Checks in the order of their groups; a check keeps its key when a group comes in above it."""
    return {
        f"{place}.{index}": check for place in sorted(groups) for index, check in enumerate(groups[place])
    }


def _rows(checks: dict[str, DoctorCheck]) -> list[Row]:
    return [(key, (c.marked, Text(c.what), Text(c.found), Text(c.remedy))) for key, c in checks.items()]
