"""`tgsbench compare`: rows of any origin side by side."""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

import click
import msgspec
from msgspec import Struct

from tgsbench import api
from tgsbench.cli import complete, diagnostics, output
from tgsbench.cli.effect import refuse_idle, refuse_together
from tgsbench.cli.report import write_page
from tgsbench.cli.virtual_compare import compare_virtually
from tgsbench.errors import ExitCode, TgsError
from tgsbench.launch import interleaved
from tgsbench.launch.interleaved import EngineRuns
from tgsbench.report import collect, page
from tgsbench.report import comparison as text
from tgsbench.results import row_specs
from tgsbench.results.compare import Comparison, Row
from tgsbench.results.rows import priced
from tgsbench.store import run_dir
from tgsbench.systems import registry

_OF_ENGINES = ("sets", "rehearse", "within", "budget", "repeats", "html_file")
_OF_TIMED_RUNS = ("rehearse", "within", "budget", "repeats", "html_file", "price", "fail_on", "baseline")
"""What says nothing of runs on a virtual GPU, which have no TGS."""
_FAIL_ON = re.compile(r"^worse(?::(\d+(?:\.\d+)?)\s*%?)?$")


class Wanted(Struct, frozen=True, kw_only=True):
    """What to compare with, how to show it, and when to fail."""

    margin: float | None
    """Share that a row may be worse before the exit code says so; None: none does."""
    baseline: str | None
    force: bool
    price: float | None
    as_json: bool


@click.command()
@click.argument("words", shell_complete=complete.rows, nargs=-1, metavar="[A B ...]")
@click.option(
    "--baseline",
    shell_complete=complete.rows,
    metavar="ROW",
    help="Compare with this row instead of the first.",
)
@click.option("--force", is_flag=True, help="Print ratios of rows that are not comparable, marked.")
@click.option("--fail-on", metavar="worse[:5%]", help="Exit code 15 when a row is worse (by more than that).")
@click.option("--engines", metavar="A,B,…", help="Run these engines in turns on the preset that is named.")
@click.option("--set", "sets", multiple=True, metavar="KEY=VALUE", help="With --engines: override a value.")
@click.option("--rehearse", is_flag=True, help="With --engines: shrink the preset to this machine.")
@click.option("--within", default=2.0, show_default=True, help="With --engines: interval wanted, ± percent.")
@click.option("--budget", default=900.0, show_default=True, help="With --engines: seconds to spend at most.")
@click.option(
    "--repeats", type=click.IntRange(min=2), help="With --engines: so many runs of each, whatever --within."
)
@click.option(
    "--html", "html_file", type=click.Path(path_type=Path), help="With --engines: write one page of it."
)
@click.option(
    "--virtual-gpu",
    "virtual_gpu",
    metavar="GPU",
    help="With --engines: rank 0 of each on a GPU that is not there: memory, launches, host time, bytes.",
)
@click.option("--price", type=click.FloatRange(min=0), help="USD for an hour of one GPU.")
@click.option("--output", "folder", type=click.Path(path_type=Path, file_okay=False), help="Folder of runs.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def compare(
    words: tuple[str, ...],
    baseline: str | None,
    force: bool,
    fail_on: str | None,
    engines: str | None,
    sets: tuple[str, ...],
    rehearse: bool,
    within: float,
    budget: float,
    repeats: int | None,
    html_file: Path | None,
    virtual_gpu: str | None,
    price: float | None,
    folder: Path | None,
    as_json: bool,
) -> None:
    """Compare runs, forecasts, published and imported rows with the first of them (or --baseline).

    A row is a run (name, part of it, folder, latest), xtuner:PRESET, published:PRESET, predicted:PRESET or
    foreign:NAME. What differs comes first; where rows are not comparable, no ratio is given. With --engines
    the first word is the preset that they run in turns.
    """
    wanted = Wanted(margin=_margin(fail_on), baseline=baseline, force=force, price=price, as_json=as_json)
    root = run_dir.runs_root(folder)
    refuse_idle(dict.fromkeys((*_OF_ENGINES, "virtual_gpu"), "engines"))
    refuse_together(("within", "repeats"), *(("virtual_gpu", name) for name in _OF_TIMED_RUNS))
    if engines is None:
        _finish(api.compare(*words, baseline=baseline, force=force, root=root), wanted)
    names = _engine_names(words, engines)
    if virtual_gpu is not None:
        sys.exit(compare_virtually(words[0], names, sets, virtual_gpu, root, as_json))
    found = interleaved.contenders(words[0], sets, names, rehearse)
    limits = interleaved.Limits(within=within / 100, budget_s=budget, rounds=repeats)
    source = row_specs.RowFinder(root)
    others = [row for word in words[1:] for row in source.resolve(word)]
    comparisons = _side_by_side(found, others, root, limits, wanted)
    rows = [interleaved.as_row(contender) for contender in found]
    if html_file is not None:
        _write_page(html_file, rows, comparisons, found)
    _finish(comparisons, wanted, text.unequal_lines(rows))


def _finish(comparisons: list[Comparison], wanted: Wanted, unequal: Sequence[str] = ()) -> NoReturn:
    """Print the comparisons, and leave with the exit code that they call for.

    `unequal` is what engines that ran in turns did otherwise than each other.
    """
    if wanted.price is not None:
        comparisons = [_priced(found, wanted.price) for found in comparisons]
    rows = [comparisons[0].b, *(found.a for found in comparisons)]
    if wanted.as_json:
        document = {"rows": rows, "comparisons": comparisons}
        output.json(document | ({"unequal": list(unequal)} if unequal else {}))
    else:
        _print(rows, comparisons, unequal)
    sys.exit(_exit_code(comparisons, wanted.margin))


def _priced(found: Comparison, price: float) -> Comparison:
    return msgspec.structs.replace(found, a=priced(found.a, price), b=priced(found.b, price))


def _engine_names(words: tuple[str, ...], engines: str) -> list[str]:
    """The engines that --engines names; the first word is the preset."""
    names = list(dict.fromkeys(name.strip() for name in engines.split(",") if name.strip()))
    if not words or len(names) < 2:
        raise TgsError(
            "--engines needs a preset and two engines",
            hint=f"tgsbench compare tiny_cpu --engines {','.join(registry.native_names())}",
        )
    for name in names:
        registry.find_engine(name)
    return names


def _side_by_side(
    found: list[EngineRuns], others: list[Row], root: Path, limits: interleaved.Limits, wanted: Wanted
) -> list[Comparison]:
    """Run engines in turns, then compare each with the first (or --baseline), and the other words' rows."""
    baseline = wanted.baseline
    if baseline in [contender.engine for contender in found]:
        found.sort(key=lambda contender: contender.engine != baseline)
        baseline = None
    _say_absent(found)
    diagnostics.note(
        interleaved.run_interleaved(found, root, limits, diagnostics.note, f"compare:{int(time.time())}")
    )
    rows = [interleaved.as_row(contender) for contender in found]
    if baseline is not None:
        return api.compare(*rows, *others, baseline=baseline, force=wanted.force, root=root)
    first = found[0]
    comparisons = [interleaved.comparison(contender, first, wanted.force) for contender in found[1:]]
    return comparisons + (api.compare(*others, baseline=rows[0], force=wanted.force) if others else [])


def _write_page(path: Path, rows: list[Row], comparisons: list[Comparison], found: list[EngineRuns]) -> None:
    """One page: the table, a chart, what is not equal, and a section for each engine's last run."""
    preset = next(contender.preset for contender in found if contender.preset is not None)
    write_page(path, page.render(collect.side_by_side(rows, comparisons, preset, text.unequal_lines(rows))))


def _say_absent(found: list[EngineRuns]) -> None:
    """What cannot run is said before anything is started; with fewer than two left nothing is."""
    absent = [contender for contender in found if not contender.runs_on]
    for contender in absent:
        diagnostics.warn(f"{contender.engine} does not take part: {contender.reason}")
    if len(found) - len(absent) < 2:
        raise TgsError("fewer than two engines can run this preset here", exit_code=ExitCode.UNSUPPORTED)


def _print(rows: list[Row], comparisons: list[Comparison], unequal: Sequence[str]) -> None:
    for line in text.table(rows):
        output.line(line.rstrip())
    for line in text.forecast_lines(rows):
        output.line(line)
    if unequal:
        output.line()
        output.line("not equal")
    for line in unequal:
        output.line(f"  {line}")
    for found in comparisons:
        output.line()
        for line in text.lines(found):
            output.line(line)


def _exit_code(comparisons: list[Comparison], margin: float | None) -> ExitCode:
    """15 beats 14 beats 19: a proven regression is the strongest finding, a disturbed row proves nothing."""
    disturbed = [found for found in comparisons if found.a.disturbances or found.b.disturbances]
    sound = [found for found in comparisons if found not in disturbed]
    if margin is not None and any(_is_worse(found, margin) for found in sound):
        return ExitCode.WORSE
    refused = [found for found in comparisons if found.ratio is None]
    if len(refused) == len(comparisons) or (refused and margin is not None):
        diagnostics.note("not comparable: no ratio is given (--force prints it, marked)")
        return ExitCode.NOT_COMPARABLE
    if margin is not None and disturbed:
        labels = dict.fromkeys(
            row.label for found in disturbed for row in (found.a, found.b) if row.disturbances
        )
        diagnostics.note(f"nothing is decided: measured on a disturbed machine: {', '.join(labels)}")
        return ExitCode.DISTURBED
    return ExitCode.OK


def _is_worse(found: Comparison, margin: float) -> bool:
    ratio = found.ratio
    return found.verdict == "worse" and ratio is not None and ratio.value < 1 - margin


def _margin(fail_on: str | None) -> float | None:
    """The share a row may be worse; None when nothing fails."""
    if fail_on is None:
        return None
    match = _FAIL_ON.match(fail_on.strip())
    if match is None:
        raise TgsError(f"--fail-on {fail_on}: write worse or worse:5%")
    return float(match[1] or 0) / 100
