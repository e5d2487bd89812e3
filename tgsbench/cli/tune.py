"""`tgsbench tune`: from a model, a length and GPUs to the fastest settings that hold."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

import click
import msgspec
from msgspec import Struct
from msgspec.structs import replace

from tgsbench import api
from tgsbench.cli import complete, diagnostics, output
from tgsbench.errors import ExitCode, TgsError
from tgsbench.schema.preset import Preset
from tgsbench.store import run_dir
from tgsbench.tune import text
from tgsbench.tune.asking import OBJECTIVES, TuneWords, budget_seconds
from tgsbench.tune.campaign import Campaign, Ending, Plan, measure, measure_longest
from tgsbench.tune.halving import Tuner
from tgsbench.tune.journal import Asked, Journal
from tgsbench.tune.longest import at_length
from tgsbench.tune.saving import check_save, save_tuned
from tgsbench.tune.state import StateFile
from tgsbench.tune.trials import can_run, startable, why_none
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
    answer = _answered(typed, options)
    if answer.is_interrupted:  # the same command goes on, and saves at its end
        options = replace(options, save="")
    _show(options, answer.asked, answer.verdict)
    if answer.is_interrupted:
        sys.exit(ExitCode.CANCELLED)
    if not answer.verdict.num_candidates:
        raise TgsError(
            "no way to train it fits", hint="--num-gpus with more", exit_code=ExitCode.DOES_NOT_FIT
        )
    if answer.verdict.chosen is None:
        _none_held(answer.verdict, typed.tune_name())


def _none_held(found: Verdict, name: str) -> None:
    """All that could be tried was tried. Raises TgsError with the exit code of such a run."""
    in_memory = all(row.status in ("oom", None) for row in found.rows)
    raise TgsError(
        "every setting failed",
        hint=f"why: tgsbench runs --tag tune:{name}",
        exit_code=ExitCode.OOM if in_memory else ExitCode.CRASHED,
    )


def _answered(typed: TuneWords, options: TuneOptions) -> Ending:
    """Plan, and measure what can be measured here. Raises TgsError for words that ask for nothing."""
    asked, prices, stages = typed.asked(), typed.usd_per_hour(), typed.wanted_stages()
    root, name = run_dir.runs_root(options.folder), typed.tune_name()
    budget_seconds(typed.budget, 1)
    if options.save:
        check_save(options.save, Journal(root, name))

    def made(preset: Preset) -> Campaign:
        budget_s = budget_seconds(typed.budget, preset.world_size)
        return Campaign(root=root, name=name, budget_s=budget_s, say=diagnostics.note)

    planned = api.longest_planned(asked) if asked.objective == "longest" else None
    if planned and not options.dry_run and can_run(planned.preset, stages):
        plan: Plan = lambda found: startable(api.tune_space(found, prices), stages)  # noqa: E731
        return measure_longest(made(planned.preset), planned, plan, asked)
    if planned:
        asked = at_length(asked, planned.preset.workload.seq_len)
    space = replace(api.tune_space(asked, prices), longest=planned.seen if planned else None)
    here, rungs = (space, ()) if options.dry_run else startable(space, stages)
    if rungs:
        return measure(made(here.candidates[0].preset), here, rungs, asked)
    tuner = Tuner(candidates=space.candidates)
    ended = f"nothing was run: {'--dry-run' if options.dry_run else why_none(space, here)}"
    if not options.dry_run:
        StateFile(root, name, asked, 0.0, space).write(tuner, None, ended)
    return Ending(asked=asked, verdict=verdict_of(space, tuner, ended))


def _show(options: TuneOptions, asked: Asked, found: Verdict) -> None:
    chosen = found.chosen
    change = asked.laid_over(chosen.change if chosen else [])
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
