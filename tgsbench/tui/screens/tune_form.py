"""The form of a tune: what is tuned, on what, for how long; checked on every key as the command line does."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import ClassVar, cast

from textual import on, work
from textual.app import ComposeResult
from textual.binding import BindingType
from textual.containers import Horizontal, VerticalScroll
from textual.css.query import NoMatches
from textual.screen import ModalScreen
from textual.widgets import Footer, Input, Label, Select, Static

from tgsbench import presets, units
from tgsbench.errors import TgsError
from tgsbench.launch import preflight
from tgsbench.launch.preflight import LocalMachine
from tgsbench.presets import catalog
from tgsbench.schema.preset import Preset
from tgsbench.systems import registry
from tgsbench.tui.actions import Scope, app_bindings, bindings
from tgsbench.tui.screens.form import FormField, model_of, models, problems_of, widget_id
from tgsbench.tui.shell import shell
from tgsbench.tune.asking import OBJECTIVES, TuneWords, budget_seconds
from tgsbench.tune.journal import Journal, Objective
from tgsbench.tune.trials import STAGES

CPU = "cpu"


def fields(preset: Preset, base: str, held: Sequence[str] = ()) -> list[FormField]:
    """The form's lines for a preset; `held`: assignments that are held fast from the start."""
    return [
        FormField("model", "model", model_of(preset), models(preset), hint="its shape, from presets/models"),
        FormField("workload.seq_len", "length", units.length(preset.workload.seq_len), hint="8192, 8k, 1M"),
        FormField("gpu", "GPU", _gpu_of(preset), _gpus(preset), hint="cpu: ranks on own cores"),
        FormField("hardware.num_gpus", "GPUs", str(preset.hardware.num_gpus), hint="ranks, one per GPU"),
        FormField("budget", "budget", "30m", hint="30m, 2h or 4gpu-hours"),
        FormField("engines", "engines", "", hint=f"{','.join(registry.names()[:2])}; empty: all"),
        FormField("objective", "objective", "tgs", OBJECTIVES, hint="what is best"),
        FormField("price", "price", "", hint="USD an hour of one GPU: 2.5"),
        FormField("stages", "stages", "", hint=", ".join(STAGES)),
        FormField("set", "held fast", " ".join(held), hint="key=value key=value"),
        FormField("try", "tried too", "", hint="engine.kernel=sdpa,flash2"),
        FormField("name", "name", base, hint="this name goes on where it was"),
    ]


def _gpu_of(preset: Preset) -> str:
    return CPU if preset.hardware.device == "cpu" else preset.hardware.gpu


def _gpus(preset: Preset) -> tuple[str, ...]:
    return tuple(dict.fromkeys([_gpu_of(preset), CPU, *sorted(catalog.files("presets", "hardware"))]))


def words_of(base: str, values: dict[str, str], before: dict[str, str]) -> TuneWords:
    """What the form asks, as the command line would be typed; `before`: its values when it opened.

    Raises TgsError for a number of GPUs that is none.
    """
    changed = {key: value for key, value in values.items() if value != before[key]}
    num_gpus = changed.get("hardware.num_gpus", "")
    if num_gpus and not (num_gpus.isascii() and num_gpus.isdigit()):
        raise TgsError(f"hardware.num_gpus: {num_gpus} is no number")
    model = [f"model={changed['model']}"] if "model" in changed else []
    return TuneWords(
        preset_name=base,
        seq_len=changed.get("workload.seq_len", ""),
        gpu=changed.get("gpu", ""),
        num_gpus=int(num_gpus) if num_gpus else None,
        sets=(*model, *values["set"].split()),
        tries=tuple(values["try"].split()),
        engines=values["engines"],
        objective=cast("Objective", values["objective"]),
        stages=values["stages"],
        budget=values["budget"],
        prices=tuple(values["price"].split()),
        name=values["name"],
    )


def check(words: TuneWords) -> Preset:
    """The preset that is tuned, after every check that needs no plan. Raises TgsError as the command does."""
    asked = words.asked()
    preset = presets.resolve(asked.base, asked.assignments).preset
    budget_seconds(words.budget, preset.world_size)
    words.wanted_stages()
    words.usd_per_hour()
    for key, tried in asked.tried.items():
        for value in tried:
            presets.resolve(asked.base, [*asked.assignments, f"{key}={value}"])
    return preset


def going_on_text(words: TuneWords, journal: Journal) -> str:
    """How many trials a tune of this name has already; empty without any. Raises TgsError for another's."""
    if words.objective == "longest":  # its journal names the length that was found
        return ""
    try:
        known = journal.known(words.asked())
    except TgsError as error:
        if "another tune" in error.msg:
            raise TgsError(f"name: {words.tune_name()} is another tune's; choose another") from error
        raise
    return f"✓ goes on after {units.counted(len(known), 'trial')} of this name" if known else ""


class TuneForm(ModalScreen[None]):
    """Asks for a tune and starts it."""

    BINDINGS: ClassVar[list[BindingType]] = [
        *bindings("tuneform"),
        *app_bindings("app.help", "app.command_palette"),
    ]
    scopes: ClassVar[tuple[Scope, ...]] = ("tuneform",)

    def __init__(self, base: str, held: Sequence[str] = ()) -> None:
        """Raises TgsError when the preset called `base` is unknown or broken."""
        super().__init__()
        self.base = base
        preset = presets.resolve(base).preset
        self._fields = fields(preset, base, held)
        self._before = {field.key: field.value for field in self._fields}
        self._problem = ""
        self._machine: LocalMachine | None = None

    def compose(self) -> ComposeResult:
        """One line per value, then problems and the command."""
        with VerticalScroll(classes="dialog form", can_focus=False):
            yield Static(f"Tune {self.base}", classes="dialog-title", markup=False)
            for field in self._fields:
                with Horizontal(classes="entry"):
                    yield Label(field.label, markup=False)
                    yield _editor(field)
                    yield Static(field.hint, classes="entry-hint", markup=False)
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

    def _words(self) -> TuneWords:
        return words_of(self.base, {f.key: self._value(f) for f in self._fields}, self._before)

    def _value(self, field: FormField) -> str:
        widget = self.query_one(f"#{widget_id(field.key)}")
        assert isinstance(widget, Input | Select)
        return str(widget.value).strip()

    @on(Input.Changed)
    @on(Select.Changed)
    def _check(self) -> None:
        try:
            words = self._words()
            preset = check(words)
            journal = Journal(shell(self.app).runs_root, words.tune_name())
            fit = going_on_text(words, journal) or self._fit(preset)
        except TgsError as error:
            self._show_problems(_in_words(error))
            return
        except NoMatches:  # a change that arrives while the app closes: the fields are gone already
            return
        self._show("", fit, f"tgsbench tune {' '.join(words.options())}")
        self._mark(set())

    def _show_problems(self, error: TgsError) -> None:
        problems = problems_of(error, self._fields)
        remedy = f"\n  try: {error.hint}" if error.hint and "\n" not in error.msg else ""
        self._show("\n".join(f"✗ {text}" for _, text in problems) + remedy, "", "")
        self._mark({key for key, _ in problems})

    def _mark(self, wrong: set[str]) -> None:
        for field in self._fields:
            self.query_one(f"#{widget_id(field.key)}").set_class(field.key in wrong, "-wrong")

    def _fit(self, preset: Preset) -> str:
        """Can its trials be real runs here?"""
        if self._machine is None:
            return ""
        problem = preflight.machine_problem(preset, self._machine, preset.world_size)
        return f"no real runs here: {problem}" if problem else "✓ trials are real runs on this machine"

    def _show(self, problem: str, fit: str, command: str) -> None:
        self._problem = problem
        fits = self.query_one("#form-fit", Static)
        fits.update(fit)
        fits.display = bool(fit)
        problems = self.query_one("#form-problem", Static)
        problems.update(problem.replace(str(catalog.preset_path(self.base)), self.base))
        problems.display = bool(problem)
        self.query_one("#form-command", Static).update(command)

    @on(Input.Submitted)
    def _submitted(self) -> None:
        self.focus_next()

    def action_launch(self) -> None:
        """Start the tune and show it; the form stays when it cannot be started."""
        if self._problem:
            self.notify("mend the problem first", severity="warning")
            return
        shell(self.app).start_tune(self._words())

    def action_cancel(self) -> None:
        """Leave the form; nothing is started."""
        self.dismiss(None)


def _editor(field: FormField) -> Input | Select[str]:
    name = widget_id(field.key)
    if field.choices:
        options = [(choice or "none", choice) for choice in field.choices]
        return Select(options, value=field.value, allow_blank=False, id=name, compact=True)
    return Input(field.value, id=name, compact=True)


_OPTION = re.compile(r"^--(?P<name>[a-z-]+) ")


def _in_words(error: TgsError) -> TgsError:
    """An error about an option, in the form's own words."""
    found = _OPTION.match(error.msg)
    msg = f"{found['name']}: {error.msg[found.end() :]}" if found else error.msg
    return TgsError(msg, hint=error.hint.replace("--name", "name").replace("--try ", "").replace("--", ""))
