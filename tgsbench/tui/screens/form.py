"""The form of a preset: values edited, checked on every key by what the command line checks with."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import ClassVar, get_args

import msgspec
from textual import work
from textual.app import ComposeResult
from textual.binding import BindingType
from textual.containers import Horizontal
from textual.widgets import Input, Label, Static

from tgsbench import presets, units
from tgsbench.errors import TgsError
from tgsbench.launch import preflight
from tgsbench.presets import catalog, data_names
from tgsbench.presets.recipes import load_recipe
from tgsbench.presets.save import save_user_preset
from tgsbench.presets.validate import valid_ep, valid_sp
from tgsbench.schema.preset import Checkpointing, Preset, Routing
from tgsbench.systems import registry, support
from tgsbench.tui.actions import Scope, app_bindings, bindings
from tgsbench.tui.preset_rows import command_line
from tgsbench.tui.screens.field_form import FieldForm, FormField, Told
from tgsbench.tui.shell import shell


def entries(preset: Preset) -> list[FormField]:
    """The form's lines for a preset."""
    sps = ", ".join(map(str, valid_sp(preset)))
    recipes = ("", *sorted(catalog.files("profiles")))
    w = preset.workload
    return [
        FormField("model", "model", model_of(preset), models(preset), hint="its shape, from presets/models"),
        FormField(CONFIG, "or config.json", "", hint="its path, folder or hub name: that model instead"),
        FormField("engine.name", "engine", preset.engine.name, tuple(registry.names())),
        FormField("hardware.num_gpus", "GPUs", str(preset.hardware.num_gpus), hint="ranks, one per GPU"),
        FormField("parallel.sp", "sp", str(preset.parallel.sp), hint=f"one of {sps}"),
        *_experts(preset),
        FormField("workload.seq_len", "length", units.length(preset.workload.seq_len), hint="8192, 8k, 1M"),
        FormField(
            "workload.corpus",
            "data",
            w.corpus,
            tuple(dict.fromkeys([*data_names.CORPORA, w.corpus])),
            hint="what is trained on",
        ),
        FormField("workload.file", "data file", w.file, hint="any data, for data: file"),
        FormField(
            "workload.tokenizer",
            "tokenizer",
            w.tokenizer,
            hint="folder, file, hub name",
        ),
        FormField("measure.steps", "steps", str(preset.measure.steps), hint="measured optimizer steps"),
        FormField("measure.warmup", "warm-up", str(preset.measure.warmup), hint="steps dropped before"),
        FormField(
            "training.checkpointing", "checkpointing", preset.training.checkpointing, get_args(Checkpointing)
        ),
        FormField("profile", "capture", preset.profile, recipes, hint="steps profiled at the end"),
    ]


CONFIG = "config_json"
"""The line for a model that no file of ours holds; what is typed there goes before the list above it."""


def _experts(preset: Preset) -> list[FormField]:
    """Over how many ranks a mixture's experts are shared out, and who deals tokens to them."""
    if preset.model.experts is None:
        return []
    eps, training = ", ".join(map(str, valid_ep(preset))), preset.training
    return [
        FormField("parallel.ep", "expert ranks", str(preset.parallel.ep), hint=f"one of {eps}"),
        FormField("training.routing", "routing", training.routing, get_args(Routing)),
    ]


def model_of(preset: Preset) -> str:
    """Name of the file that holds the preset's shape; its model's own name where none does."""
    for name in catalog.files("presets", "models"):
        with contextlib.suppress(TgsError):  # a damaged file is some other model's
            if catalog.load_model(name) == preset.model:
                return name
    return preset.model.name


def models(preset: Preset) -> tuple[str, ...]:
    """Names that a preset's model may be chosen from, its own first."""
    return tuple(dict.fromkeys([model_of(preset), *sorted(catalog.files("presets", "models"))]))


class PresetForm(FieldForm):
    """Edits one preset; runs it or saves it."""

    BINDINGS: ClassVar[list[BindingType]] = [
        *bindings("form"),
        *app_bindings("app.help", "app.command_palette"),
    ]
    scopes: ClassVar[tuple[Scope, ...]] = ("form",)

    def __init__(self, base: str) -> None:
        """Raises TgsError when the preset called `base` is unknown or broken."""
        super().__init__(base, f"Edit {base}", entries(presets.resolve(base).preset))
        self._of_data: dict[bytes, str] = {}
        self._suggested = catalog.free_name(f"my_{base.removeprefix('my_')}")

    def _lines_below(self) -> ComposeResult:
        with Horizontal(classes="entry"):
            yield Label("others")
            yield Input(placeholder="key=value key=value", id="others", compact=True)
            yield Static("any key of the preset", classes="entry-hint", markup=False)
        with Horizontal(classes="entry"):
            yield Label("save as")
            yield Input(placeholder=self._suggested, id="save-as", compact=True)
            yield Static("name of a preset of your own", classes="entry-hint", markup=False)

    @property
    def assignments(self) -> list[str]:
        """What differs from the preset, as `--set` takes it."""
        values = self._values()
        changed = {f.key: values[f.key] for f in self._fields if values[f.key] != f.value}
        if config := changed.pop(CONFIG, ""):
            path = Path(config).expanduser()
            # A preset that is saved lies elsewhere, and looks for its files from there.
            changed["model"] = str(path.resolve()) if path.exists() else config
        others = self.query_one("#others", Input).value.split()
        return [f"{key}={value}" for key, value in changed.items()] + others

    def _told(self) -> Told:
        preset = self._resolved()
        command = command_line(preset, self.assignments, base=self.base)
        lines = filter(None, (self._data_line(preset), self._fit_line(preset)))
        fit = "\n".join(sorted(lines, key=lambda line: not line.startswith("✗")))
        return Told(fit, f"{mesh_line(preset)}\n{command}")

    def _mark(self, wrong: set[str]) -> None:
        """A key without a line of its own is in `others`."""
        super()._mark(wrong)
        elsewhere = wrong - {field.key for field in self._fields}
        typed = {text.partition("=")[0] for text in self.query_one("#others", Input).value.split()}
        self.query_one("#others").set_class(bool(elsewhere & typed), "-wrong")

    def _resolved(self) -> Preset:
        """The preset as edited, after all checks of the command line that need no look at the machine."""
        preset = presets.resolve(self.base, self.assignments).preset
        if preset.profile:
            load_recipe(preset.profile)
        support.check(preset)
        return preset

    def _fit_line(self, preset: Preset) -> str:
        if self._machine is None:
            return ""
        problem = preflight.machine_problem(preset, self._machine, preset.world_size)
        return f"✗ does not fit this machine: {problem}" if problem else "✓ fits this machine"

    def _data_line(self, preset: Preset) -> str:
        """What is known of data of the user's own; looked at beside the screen, once for each state of it."""
        if not data_names.is_here(preset.workload):
            return ""
        key = msgspec.json.encode(preset)
        if key not in self._of_data:
            self._of_data[key] = ""
            self._look_at_data(preset, key)
        return self._of_data[key]

    @work(thread=True, exclusive=True, group="data", exit_on_error=False)
    def _look_at_data(self, preset: Preset, key: bytes) -> None:
        try:
            words = preflight.data_words(preset)
            found = words and f"✓ data: {words}"
        except TgsError as error:
            found = f"✗ data: {error.msg}"
        self._of_data[key] = found
        self.app.call_from_thread(self._check)

    def action_launch(self) -> None:
        """Run the preset as edited; the form stays when it cannot be started."""
        if self._is_sound():
            shell(self.app).launch(self._resolved())

    def action_forecast(self) -> None:
        """Show what the planner says of the preset as edited."""
        if self._is_sound():
            shell(self.app).show_forecast(self._resolved(), self.base, self.assignments)

    def action_tune(self) -> None:
        """Ask for a tune of what is edited: what was changed here is held fast."""
        if self._is_sound():
            shell(self.app).ask_tune(self.base, self.assignments)

    def action_save(self) -> None:
        """Save as a preset of the user's own, under the suggested name where none is given."""
        name = self.query_one("#save-as", Input).value.strip() or self._suggested
        try:
            path = save_user_preset(name, self.base, self.assignments)
        except TgsError as error:
            self.notify(f"{error.msg}\n{error.hint}".strip(), severity="error", timeout=8)
        else:
            self.notify(f"saved {path}")


def mesh_line(preset: Preset) -> str:
    """Its mesh equation and the tokens of a step."""
    dp, sp = preset.dp, preset.parallel.sp
    return f"✓ dp {dp} · sp {sp} = {preset.world_size} ranks, {preset.tokens_per_step:,} tokens per step"
