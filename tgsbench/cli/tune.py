"""`tgsbench tune`: from a model, a length and GPUs to the fastest settings that hold."""

from __future__ import annotations

import re
import shlex
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import get_args

import click
import msgspec
from msgspec import Struct
from msgspec.structs import replace

from tgsbench import api, units
from tgsbench.cli import complete, diagnostics, output
from tgsbench.errors import ExitCode, TgsError, nearest
from tgsbench.presets import catalog
from tgsbench.presets.save import save_user_preset
from tgsbench.store import run_dir
from tgsbench.systems import registry
from tgsbench.tune import text
from tgsbench.tune.halving import Tuner
from tgsbench.tune.journal import Asked, Journal, Objective
from tgsbench.tune.longest import longest_measured
from tgsbench.tune.trials import STAGES, Interrupted, Stage, make_trials, startable
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
    tries: tuple[str, ...]
    engines: str
    objective: Objective
    stages: str
    budget: str
    prices: tuple[str, ...]
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
@click.option(
    "--try",
    "tries",
    multiple=True,
    metavar="KEY=A,B,…",
    help="Try these values too: engine.kernel=sdpa,flash2, training.reduce_dtype=float32,bfloat16 …",
)
@click.option("--engines", default="", metavar="A,B,…", help="Engines to try (those that can run here).")
@click.option(
    "--objective",
    type=click.Choice(get_args(Objective)),
    default="tgs",
    show_default=True,
    help="What is best: TGS, tokens for the price, or the longest sequence (then TGS at that length).",
)
@click.option(
    "--stages",
    default="",
    metavar="A,B,…",
    help="Of virtual, emulated, runs; without it the surest that this machine can do.",
)
@click.option("--budget", default="30m", show_default=True, help="Time for trials: 30m, 2h, or 4gpu-hours.")
@click.option("--price", "prices", multiple=True, metavar="[GPU=]USD", help="USD for an hour of one GPU.")
@click.option("--name", default="", help="Name of the tune: the same name goes on where it was.")
@click.option("--save", default="", metavar="NAME", help="Save the best setting as a preset of this name.")
@click.option("--dry-run", is_flag=True, help="Plan and rank; run nothing.")
@click.option("--output", "folder", type=click.Path(path_type=Path, file_okay=False), help="Folder of runs.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def tune(**options: object) -> None:
    """Find the fastest settings: every way is planned, the promising ones are measured, the best in turns.

    Every trial is a stored run. A tune that was ended goes on under its name, and measures nothing twice.
    """
    typed = TuneOptions(**options)  # type: ignore[arg-type]
    asked, ended, began_s = _asked(typed), "", time.monotonic()
    prices, stages, name = _prices(typed.prices), _stages(typed.stages), _name(typed)
    if asked.objective == "longest":
        asked, ended = _at_longest(typed, asked, name)
    space = api.tune_space(asked, prices)
    here, rungs = (space, ()) if typed.dry_run or ended else startable(space, stages)
    interrupted = False
    if rungs:
        space, tuner = here, Tuner(candidates=here.candidates, stages=rungs)
        world = space.candidates[0].preset.world_size
        budget_s = budget_seconds(typed.budget, world) - (time.monotonic() - began_s)
        ended, interrupted = _measure(typed, asked, name, tuner, max(1.0, budget_s))
    else:
        budget_seconds(typed.budget, 1)
        why = "--dry-run" if typed.dry_run else next(reversed(here.dropped), "no way fits")
        tuner, ended = Tuner(candidates=space.candidates), ended or f"nothing was run: {why}"
    found = verdict_of(space, tuner, ended)
    _show(typed, asked, found)
    if interrupted:
        sys.exit(ExitCode.CANCELLED)
    if not space.candidates:
        raise TgsError(
            "no way to train it fits", hint="--num-gpus with more", exit_code=ExitCode.DOES_NOT_FIT
        )


def _asked(typed: TuneOptions) -> Asked:
    if (typed.preset_name is None) == (typed.model is None):
        raise TgsError("name what to tune: either --preset NAME or --model NAME", hint="tgsbench presets")
    needs_length = typed.objective != "longest"
    if typed.model is not None and not ((typed.seq_len or not needs_length) and typed.gpu and typed.num_gpus):
        raise TgsError("--model also needs --seq-len, --gpu and --num-gpus", hint="or name a --preset")
    engines = _words(typed.engines)
    for name in engines:
        registry.find_engine(name)
    return Asked(
        base=typed.base,
        assignments=typed.assignments,
        engines=engines,
        tried=dict(map(_values, typed.tries)),
        objective=typed.objective,
    )


def _values(text: str) -> tuple[str, list[str]]:
    key, equals, values = text.partition("=")
    if not equals or not _words(values):
        raise TgsError(f"--try {text}: write KEY=A,B", hint="--try engine.kernel=sdpa,flash2")
    return key.strip(), _words(values)


def _words(text: str) -> list[str]:
    return [word.strip() for word in text.split(",") if word.strip()]


def _name(typed: TuneOptions) -> str:
    about = Path(typed.preset_name or typed.model or "").name
    name = typed.name or about.removesuffix(".toml").removesuffix(".json")
    if not catalog.is_name(name):
        raise TgsError(f"--name {name!r} may hold letters, digits, '_', '.', '-' only")
    return name


def _stages(text: str) -> list[Stage]:
    for word in _words(text):
        if word not in STAGES:
            raise TgsError(f"--stages {word}: {nearest(word, list(STAGES))}")
    return [stage for stage in STAGES if stage in _words(text)]


def _prices(words: Sequence[str]) -> dict[str, float]:
    """USD for an hour by GPU; "" for any."""
    found = {}
    for word in words:
        gpu, _, usd = word.rpartition("=")
        try:
            found[gpu] = float(usd)
        except ValueError:
            found[gpu] = 0.0
        if not 0 < found[gpu] < 1e6:
            raise TgsError(f"--price {word}: write USD for an hour of one GPU, 2.5 or H100-SXM5-80GB=2.5")
    return found


def _at_longest(typed: TuneOptions, asked: Asked, name: str) -> tuple[Asked, str]:
    """The same question at the longest sequence: as planned, or by runs where they can be made here.

    The second is why nothing further should be tried, or empty.
    """
    planned = api.longest_planned(asked)
    length, ended = planned[0], ""
    if not typed.dry_run:
        preset, root = (
            api.load_preset(asked.base, [*asked.assignments, *planned]),
            run_dir.runs_root(typed.folder),
        )
        try:
            measured = longest_measured(preset, root, name, diagnostics.note)
        except Interrupted:
            measured, ended = None, f"interrupted; the same command goes on ({root})"
        length = f"workload.seq_len={measured}" if measured else length
    diagnostics.note(f"longest sequence: {units.length(int(length.partition('=')[2]))}")
    kept = [text for text in asked.assignments if not text.startswith("workload.seq_len=")]
    return replace(asked, assignments=[*kept, length]), ended


def budget_seconds(text: str, num_gpus: int) -> float:
    """Seconds of a budget such as 30m or 4gpu-hours on this many GPUs; raises TgsError for other words."""
    match = _BUDGET.match(text.strip().lower().replace(" ", ""))
    if match is None or float(match[1]) == 0:
        raise TgsError(f"--budget {text}: write 30m, 2h or 4gpu-hours")
    return float(match[1]) * (_SECONDS[match[2]] if match[2] in _SECONDS else 3600 / num_gpus)


def _measure(typed: TuneOptions, asked: Asked, name: str, tuner: Tuner, budget_s: float) -> tuple[str, bool]:
    """Make the trials; why they ended, and whether somebody ended them."""
    root = run_dir.runs_root(typed.folder)
    journal = Journal(root, name)
    known = {candidate.key for candidate in tuner.candidates}
    for outcome in journal.open(asked):
        if outcome.key in known:
            tuner.tell(outcome)
    if tuner.outcomes:
        diagnostics.note(f"goes on after {len(tuner.outcomes)} trials of {journal.path}")
    try:
        return make_trials(tuner, journal, root, name, budget_s, diagnostics.note), False
    except (Interrupted, KeyboardInterrupt):
        return f"interrupted; the same command goes on ({journal.path})", True


def _show(typed: TuneOptions, asked: Asked, found: Verdict) -> None:
    chosen = found.best or next((row for row in found.rows if not row.failed), None)
    change = [*asked.assignments, *(chosen.change if chosen else [])]
    path = save_user_preset(typed.save, asked.base, change) if typed.save and chosen else None
    sets = " ".join(f"--set {shlex.quote(text)}" for text in change)
    command = f"tgsbench run --preset {typed.save}" if path else f"tgsbench run --preset {asked.base} {sets}"
    if typed.as_json:
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
