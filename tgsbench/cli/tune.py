"""`tgsbench tune`: from a model, a length and GPUs to the fastest settings that hold."""

from __future__ import annotations

import shlex
import sys
import time
from pathlib import Path

import click
import msgspec
from msgspec import Struct
from msgspec.structs import replace

from tgsbench import api, units
from tgsbench.cli import complete, diagnostics, output
from tgsbench.errors import ExitCode, TgsError
from tgsbench.store import run_dir
from tgsbench.tune import text
from tgsbench.tune.asking import OBJECTIVES, TuneWords, budget_seconds
from tgsbench.tune.campaign import measure
from tgsbench.tune.halving import Tuner
from tgsbench.tune.journal import Asked, Journal
from tgsbench.tune.longest import at_length, begun, longest_measured
from tgsbench.tune.saving import check_save, save_tuned
from tgsbench.tune.state import StateFile
from tgsbench.tune.trials import Interrupted, startable, why_none
from tgsbench.tune.verdict import Verdict, verdict_of


class TuneOptions(Struct, frozen=True, kw_only=True):
    """What is done with the answer."""

    save: str
    dry_run: bool
    folder: Path | None
    as_json: bool


@click.command()
@click.option(
    "--preset",
    "preset_name",
    default="",
    shell_complete=complete.presets,
    help="Preset, or .toml file, to begin from.",
)
@click.option(
    "--model",
    default="",
    shell_complete=complete.models,
    help="Model of `tgsbench models`, or a config.json.",
)
@click.option("--seq-len", default="", help="Packed sequence length, such as 128k.")
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
@click.option(
    "--engines",
    default="",
    metavar="A,B,…",
    shell_complete=complete.engines,
    help="Engines to try (those that can run here).",
)
@click.option(
    "--objective",
    type=click.Choice(OBJECTIVES),
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
def tune(save: str, dry_run: bool, folder: Path | None, as_json: bool, **words: object) -> None:
    """Find the fastest settings: every way is planned, the promising ones are measured, the best in turns.

    Every trial is a stored run. A tune that was ended goes on under its name, and measures nothing twice.
    """
    typed = TuneWords(**words)  # type: ignore[arg-type]
    options = TuneOptions(save=save, dry_run=dry_run, folder=folder, as_json=as_json)
    asked, found, interrupted = _answered(typed, options)
    if interrupted:  # the same command goes on, and saves at its end
        options = replace(options, save="")
    _show(options, asked, found)
    if interrupted:
        sys.exit(ExitCode.CANCELLED)
    if not found.num_candidates:
        raise TgsError(
            "no way to train it fits", hint="--num-gpus with more", exit_code=ExitCode.DOES_NOT_FIT
        )


def _answered(typed: TuneWords, options: TuneOptions) -> tuple[Asked, Verdict, bool]:
    """The question as it was tuned, the verdict, and whether somebody interrupted it."""
    asked, ended, began_s = typed.asked(), "", time.monotonic()
    prices, stages, name = typed.usd_per_hour(), typed.wanted_stages(), typed.tune_name()
    root = run_dir.runs_root(options.folder)
    budget_seconds(typed.budget, 1)
    if options.save:
        check_save(options.save, Journal(root, name))
    if asked.objective == "longest":
        asked, ended = _at_longest(typed, asked, root, options.dry_run)
    space = api.tune_space(asked, prices)
    here, rungs = (space, ()) if options.dry_run or ended else startable(space, stages)
    if rungs:
        budget_s = budget_seconds(typed.budget, here.candidates[0].preset.world_size)
        left_s = max(1.0, budget_s - (time.monotonic() - began_s))
        tuner = Tuner(candidates=here.candidates, stages=rungs)
        return asked, *measure(here, tuner, asked, root, name, left_s, diagnostics.note)
    why = "--dry-run" if options.dry_run else why_none(space, here)
    tuner, ended = Tuner(candidates=space.candidates), ended or f"nothing was run: {why}"
    if not options.dry_run:
        StateFile(root, name, asked, 0.0, space).write(tuner, None, ended)
    return asked, verdict_of(space, tuner, ended), ended.startswith("interrupted")


def _at_longest(typed: TuneWords, asked: Asked, root: Path, dry_run: bool) -> tuple[Asked, str]:
    """The same question at the longest sequence: as planned, or by runs where they can be made here.

    The second is why nothing further should be tried, or empty.
    """
    if not dry_run and (before := begun(root, typed.tune_name(), asked)) is not None:
        return before, ""
    length, *way = api.longest_planned(asked)
    ended = ""
    if not dry_run:
        # Memory bounds a GPU's runs, so they begin where it is planned to end; a CPU's are bounded by time.
        start = [] if api.load_preset(asked.base, asked.assignments).hardware.device == "cpu" else [length]
        preset = api.load_preset(asked.base, [*asked.assignments, *way, *start])
        budget_s = budget_seconds(typed.budget, preset.world_size)
        try:
            measured = longest_measured(preset, root, typed.tune_name(), budget_s, diagnostics.note)
        except Interrupted:
            measured, ended = None, f"interrupted; the same command goes on ({root})"
        length = f"workload.seq_len={measured}" if measured else length
    diagnostics.note(f"longest sequence: {units.length(int(length.partition('=')[2]))}")
    return at_length(asked, length), ended


def _show(options: TuneOptions, asked: Asked, found: Verdict) -> None:
    chosen = found.best or next((row for row in found.rows if not row.failed), None)
    change = [*asked.assignments, *(chosen.change if chosen else [])]
    path = save_tuned(options.save, asked, chosen) if options.save and chosen else None
    sets = " ".join(f"--set {shlex.quote(text)}" for text in change)
    command = (
        f"tgsbench run --preset {options.save}" if path else f"tgsbench run --preset {asked.base} {sets}"
    )
    if options.as_json:
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
