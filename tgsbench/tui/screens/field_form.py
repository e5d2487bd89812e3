"""Forms of one value a line: checked on every key, with what is wrong or what will be run beneath."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from textual import on, work
from textual.app import ComposeResult
from textual.containers import Horizontal, VerticalScroll
from textual.css.query import NoMatches
from textual.screen import ModalScreen
from textual.widgets import Footer, Input, Label, Select, Static

from tgsbench.errors import TgsError
from tgsbench.launch import preflight
from tgsbench.launch.preflight import LocalMachine
from tgsbench.presets import catalog
from tgsbench.presets.options import all_options


@dataclass(frozen=True)
class FormField:
    """One line of a form."""

    key: str
    label: str
    value: str
    choices: tuple[str, ...] = ()
    """Empty: free text."""
    hint: str = ""


class Told(NamedTuple):
    """What a form says beneath its lines while nothing is wrong."""

    fit: str
    """Can this machine do it? ✗ before what it cannot; empty: not known yet."""
    command: str


class FieldForm(ModalScreen[None]):
    """Lines of a form, what is wrong with them, and the command they make; a subclass says what they ask."""

    def __init__(self, base: str, title: str, fields: Sequence[FormField]) -> None:
        """`base`: the preset that the form begins with."""
        super().__init__()
        self.base = base
        self._title = title
        self._fields = fields
        self._problem = ""
        self._machine: LocalMachine | None = None

    def _told(self) -> Told:
        """What the lines come to. Raises TgsError for what is wrong with them."""
        raise NotImplementedError

    def _lines_below(self) -> ComposeResult:
        """Further lines, which are no value of a field."""
        return iter(())

    def compose(self) -> ComposeResult:
        """One line a value, then problems and the command."""
        with VerticalScroll(classes="dialog form", can_focus=False):
            yield Static(self._title, classes="dialog-title", markup=False)
            for field in self._fields:
                with Horizontal(classes="entry"):
                    yield Label(field.label, markup=False)
                    yield _editor(field)
                    yield Static(field.hint, classes="entry-hint", markup=False)
            yield from self._lines_below()
            yield Static("", id="form-problem", markup=False)
            yield Static("", id="form-fit", markup=False)
            yield Static("", id="form-command", markup=False)
        yield Footer(show_command_palette=False, compact=True)

    def on_mount(self) -> None:
        """Check what is there, then hold it against this machine."""
        self._check()
        self._look_at_machine()

    @work(thread=True, exit_on_error=False)
    def _look_at_machine(self) -> None:
        self._machine = preflight.this_machine()
        self.app.call_from_thread(self._check)

    def _values(self) -> dict[str, str]:
        return {field.key: self._value(field) for field in self._fields}

    def _value(self, field: FormField) -> str:
        widget = self.query_one(f"#{widget_id(field.key)}")
        assert isinstance(widget, Input | Select)
        return str(widget.value).strip()

    @on(Input.Changed)
    @on(Select.Changed)
    def _check(self) -> None:
        try:
            told = self._told()
        except TgsError as error:
            problems = problems_of(error, self._fields)
            remedy = f"\n  try: {error.hint}" if error.hint and "\n" not in error.msg else ""
            self._show("\n".join(f"✗ {text}" for _, text in problems) + remedy, Told("", ""))
            self._mark({key for key, _ in problems})
        except NoMatches:  # a change that arrives while the app closes: the fields are gone already
            return
        else:
            self._show("", told)
            self._mark(set())

    def _mark(self, wrong: set[str]) -> None:
        """Show in red which lines the problems are about."""
        for field in self._fields:
            self.query_one(f"#{widget_id(field.key)}").set_class(field.key in wrong, "-wrong")

    def _show(self, problem: str, told: Told) -> None:
        self._problem = problem
        fits = self.query_one("#form-fit", Static)
        fits.update(told.fit)
        fits.display = bool(told.fit)
        fits.set_class(told.fit.startswith("✗"), "-wrong")
        problems = self.query_one("#form-problem", Static)
        problems.update(problem.replace(str(catalog.preset_path(self.base)), self.base))
        problems.display = bool(problem)
        self.query_one("#form-command", Static).update(told.command)

    @on(Input.Submitted)
    def _submitted(self) -> None:
        self.focus_next()

    def _is_sound(self) -> bool:
        """Is nothing wrong? Where something is, the user is told to mend it first."""
        if self._problem:
            self.notify("mend the problem first", severity="warning")
        return not self._problem

    def action_cancel(self) -> None:
        """Leave the form; nothing is started."""
        self.dismiss(None)


def problems_of(error: TgsError, fields: Sequence[FormField]) -> list[tuple[str, str]]:
    """Key and text of each problem, in the form's own words; a key is "" where none is named."""
    lines = [line.strip() for line in error.msg.splitlines()]
    if len(lines) > 1:  # the first counts those below
        lines = lines[1:]
    labels = {field.key: field.label for field in fields}
    found = []
    for line in lines:
        line = line.removesuffix(" (--set)")
        named = _KEY.match(line)
        key = named["key"] if named else ""
        label = labels.get(key, key)
        found.append((key, f"{label}: {line[named.end() :]}" if named else line))
    return found


_KEY = re.compile(r"(?P<key>[a-z_]+(?:\.[a-z_0-9]+)*)(?:=[^:\s]*)?: ")
"""`parallel.sp=6: ` or `measure.steps: ` before what is wrong with it."""


def widget_id(key: str) -> str:
    """Id of the widget that edits a key."""
    return "set-" + key.replace(".", "-").replace("_", "-")


def _editor(field: FormField) -> Input | Select[str]:
    widget = _widget(field)
    if option := all_options().get(field.key):
        widget.tooltip = option.what or None
    return widget


def _widget(field: FormField) -> Input | Select[str]:
    name = widget_id(field.key)
    if field.choices:
        options = [(choice or "none", choice) for choice in field.choices]
        return Select(options, value=field.value, allow_blank=False, id=name, compact=True)
    return Input(field.value, id=name, compact=True)
