"""`tgsbench gate`: hold presets against baselines of this machine, for CI."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import click

from tgsbench import api
from tgsbench.cli import complete, diagnostics, output
from tgsbench.cli.effect import refuse_together
from tgsbench.errors import TgsError
from tgsbench.launch import gate as gating
from tgsbench.metrics.gate import LEAST_RUNS, Wish
from tgsbench.report import gate as text
from tgsbench.results import baselines
from tgsbench.results.gated import Gated, exit_code
from tgsbench.store import run_dir

_FOR_A_BASELINE = 5
"""Runs of a baseline: with fewer the interval of their mean is more than twice as wide as with many."""


@click.command()
@click.argument("baseline", type=click.Path(path_type=Path, dir_okay=False))
@click.argument("names", nargs=-1, required=True, shell_complete=complete.presets, metavar="PRESET…")
@click.option("--margin", default=5.0, show_default=True, help="Percent of TGS that must not be lost.")
@click.option("--power", default=90.0, show_default=True, help="Percent of such losses that are found.")
@click.option(
    "--repeats",
    type=click.IntRange(min=LEAST_RUNS),
    help="Runs of a preset at most (20); with --update: exactly (5).",
)
@click.option("--budget", default=3600.0, show_default=True, help="Seconds to spend at most.")
@click.option("--update", is_flag=True, help="Measure and keep the baselines; nothing is judged.")
@click.option("--set", "sets", multiple=True, metavar="KEY=VALUE", help="Override a value of each preset.")
@click.option("--rehearse", is_flag=True, help="Shrink the presets to what this machine can run.")
@click.option("--junit", type=click.Path(path_type=Path, dir_okay=False), help="Write a JUnit file.")
@click.option(
    "--summary", type=click.Path(path_type=Path, dir_okay=False), help="Append a Markdown table here."
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
@click.option("--output", "folder", type=click.Path(path_type=Path, file_okay=False), help="Folder of runs.")
def gate(
    baseline: Path,
    names: tuple[str, ...],
    margin: float,
    power: float,
    repeats: int | None,
    budget: float,
    update: bool,
    sets: tuple[str, ...],
    rehearse: bool,
    junit: Path | None,
    summary: Path | None,
    as_json: bool,
    folder: Path | None,
) -> None:
    """Run each PRESET until it is known to be as fast as in BASELINE, or slower.

    The spread between runs decides how many are needed. Exit codes: 15 slower, 19 nothing can be said (a
    disturbed or drifting machine, too wide a spread), 14 another machine or other work, else a run's own.
    """
    refuse_together(("update", "margin"), ("update", "power"), ("update", "junit"), ("update", "summary"))
    wish = _wish(margin, power, repeats or (_FOR_A_BASELINE if update else Wish().most_runs))
    known = baselines.Baselines() if update and not baseline.exists() else baselines.load(baseline)
    found = _found(names, sets, rehearse, None if update else known, baseline)
    began = datetime.now(tz=UTC)
    gating.run_all(found, run_dir.runs_root(folder), wish, budget, diagnostics.note)
    if update:
        sys.exit(_keep(found, known, baseline))
    _tell(found, wish, as_json)
    _write(junit, text.junit(found, wish, began, os.uname().nodename), "w")
    _write(summary, text.markdown(found, wish), "a")
    sys.exit(exit_code(found))


def _wish(margin: float, power: float, most_runs: int) -> Wish:
    if not 0.1 <= margin <= 50:
        raise TgsError(f"--margin {margin:g}: percent, from 0.1 to 50")
    if not 50 <= power <= 99.9:
        raise TgsError(f"--power {power:g}: percent, from 50 to 99.9")
    return Wish(margin=margin / 100, power=power / 100, most_runs=most_runs)


def _found(
    names: Sequence[str],
    sets: Sequence[str],
    rehearse: bool,
    known: baselines.Baselines | None,
    path: Path,
) -> list[Gated]:
    """Presets with their baselines; all are checked before anything is started."""
    found = []
    for name in dict.fromkeys(names):
        preset = api.load_preset(name, list(sets), rehearse=rehearse)
        api.check_machine(preset)
        row = baselines.baseline_of(known, preset.name, path) if known is not None else None
        found.append(Gated(preset=preset, baseline=row))
    return found


def _keep(found: Sequence[Gated], known: baselines.Baselines, path: Path) -> int:
    """Keep the baselines that were measured without trouble; the exit code."""
    for each in found:
        if each.exit_code:
            diagnostics.error(f"{each.preset.name}: {each.why}", "the file keeps what it had")
            continue
        known.rows[each.preset.name] = baselines.as_baseline(each.row)
        output.line(f"{each.preset.name}: {text.measured(each)}")
    if any(not each.exit_code for each in found):
        baselines.store(known, path)
    return exit_code(found)


def _tell(found: Sequence[Gated], wish: Wish, as_json: bool) -> None:
    if as_json:
        output.json(
            [{"preset": e.preset.name, "verdict": text.word(e), "row": e.row, "baseline": e.baseline,
              "decision": e.decision, "why": e.why} for e in found]
        )  # fmt: skip
        return
    for each in found:
        output.line(text.line(each, wish))


def _write(path: Path | None, document: str, mode: str) -> None:
    """Write where CI looks; a table is appended, as $GITHUB_STEP_SUMMARY wants it."""
    if path is None:
        return
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open(mode, encoding="utf-8") as file:
            file.write(document)
    except OSError as error:
        raise run_dir.unwritable(path, error) from error
