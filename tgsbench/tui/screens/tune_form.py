"""The form of a tune: what is tuned, on what, for how long; checked on every key as the command line does."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import ClassVar, cast

from textual.binding import BindingType

from tgsbench import presets, units
from tgsbench.errors import TgsError
from tgsbench.launch import preflight
from tgsbench.presets import catalog
from tgsbench.schema.preset import Preset
from tgsbench.systems import registry
from tgsbench.tui.actions import Scope, app_bindings, bindings
from tgsbench.tui.screens.field_form import FieldForm, FormField, Told
from tgsbench.tui.screens.form import model_of, models
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
    if words.objective == "longest":  # its journal may name the length that was planned
        return ""
    asked = words.asked()
    if journal.begun() not in (None, asked):
        raise TgsError(f"name: {words.tune_name()} is another tune's; choose another")
    known = journal.known(asked)
    return f"✓ goes on after {units.counted(len(known), 'trial')} of this name" if known else ""


class TuneForm(FieldForm):
    """Asks for a tune and starts it."""

    BINDINGS: ClassVar[list[BindingType]] = [
        *bindings("tuneform"),
        *app_bindings("app.help", "app.command_palette"),
    ]
    scopes: ClassVar[tuple[Scope, ...]] = ("tuneform",)

    def __init__(self, base: str, held: Sequence[str] = ()) -> None:
        """Raises TgsError when the preset called `base` is unknown or broken."""
        super().__init__(base, f"Tune {base}", fields(presets.resolve(base).preset, base, held))

    def _words(self) -> TuneWords:
        return words_of(self.base, self._values(), {field.key: field.value for field in self._fields})

    def _told(self) -> Told:
        try:
            words = self._words()
            preset = check(words)
            going_on = going_on_text(words, Journal(shell(self.app).runs_root, words.tune_name()))
        except TgsError as error:
            raise _in_words(error) from error
        return Told(going_on or self._fit(preset), f"tgsbench tune {' '.join(words.options())}")

    def _fit(self, preset: Preset) -> str:
        """Can its trials be real runs here?"""
        if self._machine is None:
            return ""
        problem = preflight.machine_problem(preset, self._machine, preset.world_size)
        return f"no real runs here: {problem}" if problem else "✓ trials are real runs on this machine"

    def action_launch(self) -> None:
        """Start the tune and show it; the form stays when it cannot be started."""
        if self._is_sound():
            shell(self.app).start_tune(self._words())


_OPTION = re.compile(r"^--(?P<name>[a-z-]+) ")


def _in_words(error: TgsError) -> TgsError:
    """An error about an option, in the form's own words."""
    found = _OPTION.match(error.msg)
    msg = f"{found['name']}: {error.msg[found.end() :]}" if found else error.msg
    return TgsError(msg, hint=error.hint.replace("--name", "name").replace("--try ", "").replace("--", ""))
