"""`tgsbench tune`: from a model, a length and GPUs to the fastest settings that hold."""

from __future__ import annotations

import re
import shlex
import sys
from pathlib import Path

import click
import msgspec
from msgspec import Struct

from tgsbench import api
from tgsbench.cli import complete, diagnostics, output
from tgsbench.errors import ExitCode, TgsError
from tgsbench.presets import catalog
from tgsbench.presets.save import save_user_preset
from tgsbench.schema.preset import Preset
from tgsbench.store import run_dir
from tgsbench.systems import registry
from tgsbench.tune import text
from tgsbench.tune.candidates import Space, space_of
from tgsbench.tune.halving import Tuner
from tgsbench.tune.journal import Asked, Journal
from tgsbench.tune.trials import Interrupted, make_trials, runnable
from tgsbench.tune.verdict import Verdict, verdict_of

_BUDGET = re.compile(r"^(\d+(?:\.\d+)?)\s*(s|m|min|h|gpu-?h(?:ours?)?)$")
_SECONDS = {"s": 1, "m": 60, "min": 60, "h": 3600}


class TuneOptions(Struct, frozen=True, kw_only=True):
    """The options of one call, as typed."""

    preset_name: str | None
    model: str | None
    seq_len: str | None
    gpu: str
    num_gpus: int | None
    sets: tuple[str, ...]
    engines: str
    budget: str
    price: float | None
    name: str
    save: str
    dry_run: bool
    folder: Path | None
    as_json: bool

    @property
    def base(self) -> str:
        """The preset that settings are laid over."""
        return self.preset_name or "_reference"

    @property
    def fixed(self) -> list[str]:
        """Keys that --set holds fast."""
        return [text.partition("=")[0].strip() for text in self.sets]

    @property
    def assignments(self) -> list[str]:
        """What is laid over it before anything is tuned."""
        asked = {"model": self.model, "workload.seq_len": self.seq_len, "hardware.num_gpus": self.num_gpus}
        asked |= {"hardware.gpu": self.gpu if self.gpu != "cpu" else None}
        if self.gpu == "cpu":
            asked |= {"hardware.device": "cpu"}
        return [f"{key}={value}" for key, value in asked.items() if value] + list(self.sets)


@click.command()
@click.option(
    "--preset", "preset_name", shell_complete=complete.presets, help="Preset, or .toml file, to begin from."
)
@click.option("--model", shell_complete=complete.models, help="Model of `tgsbench models`, or a config.json.")
@click.option("--seq-len", help="Packed sequence length, such as 128k.")
@click.option("--gpu", shell_complete=complete.gpus, default="", help="GPU instead of the preset's.")
@click.option("--num-gpus", type=click.IntRange(min=1), help="Number of GPUs instead of the preset's.")
@click.option("--set", "sets", multiple=True, metavar="KEY=VALUE", help="Hold a value fast.")
@click.option("--engines", default="", metavar="A,B,…", help="Engines to try (those that can run here).")
@click.option("--budget", default="30m", show_default=True, help="Time for runs: 30m, 2h, or 4gpu-hours.")
@click.option("--price", type=click.FloatRange(min=0), help="USD for an hour of one GPU.")
@click.option("--name", default="", help="Name of the tune: the same name goes on where it was.")
@click.option("--save", default="", metavar="NAME", help="Save the best setting as a preset of this name.")
@click.option("--dry-run", is_flag=True, help="Plan and rank; run nothing.")
@click.option("--output", "folder", type=click.Path(path_type=Path, file_okay=False), help="Folder of runs.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def tune(**options: object) -> None:
    """Find the fastest settings: every way is planned, the promising ones are measured, the best in turns.

    Every trial is a stored run. A tune that was ended goes on under its name, and measures nothing twice.
    """
    asked = TuneOptions(**options)  # type: ignore[arg-type]
    preset = _preset(asked)
    budget_s, engines = budget_seconds(asked.budget, preset.world_size), _engines(asked.engines)
    machine = api.planned_machine(preset, price=asked.price)
    space = space_of(preset, machine, engines, asked.fixed)
    here = space if asked.dry_run else runnable(space)
    if asked.dry_run or not here.candidates:
        why = "--dry-run" if asked.dry_run else next(reversed(here.dropped), "no way fits")
        tuner, ended, interrupted = Tuner(candidates=space.candidates), f"nothing was run: {why}", False
    else:
        space, tuner = here, Tuner(candidates=here.candidates)
        ended, interrupted = _measure(asked, preset, space, tuner, budget_s)
    found = verdict_of(space, tuner, ended, machine.gpu.price_usd_per_hour)
    _show(asked, found)
    if interrupted:
        sys.exit(ExitCode.CANCELLED)
    if not space.candidates:
        raise TgsError(
            f"{preset.model.name} fits no way on {preset.world_size} x {machine.gpu.name}",
            hint="--num-gpus with more of them",
            exit_code=ExitCode.DOES_NOT_FIT,
        )


def _preset(asked: TuneOptions) -> Preset:
    if (asked.preset_name is None) == (asked.model is None):
        raise TgsError("name what to tune: either --preset NAME or --model NAME", hint="tgsbench presets")
    if asked.model is not None and not (asked.seq_len and asked.gpu and asked.num_gpus):
        raise TgsError("--model also needs --seq-len, --gpu and --num-gpus", hint="or name a --preset")
    return api.load_preset(asked.base, asked.assignments)


def _engines(text: str) -> list[str]:
    names = [name.strip() for name in text.split(",") if name.strip()]
    for name in names:
        registry.find_engine(name)
    return names


def budget_seconds(text: str, num_gpus: int) -> float:
    """Seconds of a budget such as 30m or 4gpu-hours on this many GPUs; raises TgsError for other words."""
    match = _BUDGET.match(text.strip().lower().replace(" ", ""))
    if match is None or float(match[1]) == 0:
        raise TgsError(f"--budget {text}: write 30m, 2h or 4gpu-hours")
    return float(match[1]) * (_SECONDS[match[2]] if match[2] in _SECONDS else 3600 / num_gpus)


def _measure(
    asked: TuneOptions, preset: Preset, space: Space, tuner: Tuner, budget_s: float
) -> tuple[str, bool]:
    """Make the trials; why they ended, and whether somebody ended them."""
    root, name = run_dir.runs_root(asked.folder), asked.name or preset.name
    if not catalog.is_name(name):
        raise TgsError(f"--name {name!r} may hold letters, digits, '_', '.', '-' only")
    journal = Journal(root, name)
    words = Asked(base=asked.base, assignments=asked.assignments, engines=_engines(asked.engines))
    known = {candidate.key for candidate in space.candidates}
    for outcome in journal.open(words):
        if outcome.key in known:
            tuner.tell(outcome)
    if tuner.outcomes:
        diagnostics.note(f"goes on after {len(tuner.outcomes)} trials of {journal.path}")
    try:
        return make_trials(tuner, journal, root, name, budget_s, diagnostics.note), False
    except (Interrupted, KeyboardInterrupt):
        return f"interrupted; the same command goes on ({journal.path})", True


def _show(asked: TuneOptions, found: Verdict) -> None:
    chosen = found.best or next((row for row in found.rows if not row.failed), None)
    change = [*asked.assignments, *(chosen.change if chosen else [])]
    path = save_user_preset(asked.save, asked.base, change) if asked.save and chosen else None
    sets = " ".join(f"--set {shlex.quote(text)}" for text in change)
    command = f"tgsbench run --preset {asked.save}" if path else f"tgsbench run --preset {asked.base} {sets}"
    if asked.as_json:
        document = {"command": command, "preset": str(path) if path else None}
        output.json(msgspec.to_builtins(found) | document)
        return
    for line in text.verdict_lines(found):
        output.line(line)
    if chosen:
        output.line()
        output.line(f"{'saved as' if path else 'run it':<11} {path or command}")
        if path:
            output.line(f"{'run it':<11} {command}")
