"""`tgsbench compare`: rows of any origin side by side."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import click

from tgsbench.cli import diagnostics, output
from tgsbench.errors import ExitCode, TgsError
from tgsbench.report import comparison as text
from tgsbench.store import operands, run_dir
from tgsbench.store.compare import Comparison, Row
from tgsbench.store.compare import compare as compare_rows

_FAIL_ON = re.compile(r"^worse(?::(\d+(?:\.\d+)?)\s*%?)?$")


@click.command()
@click.argument("words", nargs=-1, metavar="[A B ...]")
@click.option("--baseline", metavar="ROW", help="Compare with this row instead of the first.")
@click.option("--force", is_flag=True, help="Print ratios of rows that are not comparable, marked.")
@click.option("--fail-on", metavar="worse[:5%]", help="Exit code 15 when a row is worse (by more than that).")
@click.option("--output", "folder", type=click.Path(path_type=Path, file_okay=False), help="Folder of runs.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def compare(
    words: tuple[str, ...],
    baseline: str | None,
    force: bool,
    fail_on: str | None,
    folder: Path | None,
    as_json: bool,
) -> None:
    """Compare runs, forecasts, published and imported rows with the first of them (or --baseline).

    A row is a run (name, part of it, folder, latest), xtuner:PRESET, published:PRESET, predicted:PRESET,
    predicted:RUN (the forecast that the run keeps) or foreign:NAME. What differs comes first; where rows are
    not comparable, no ratio is given.
    """
    margin = _margin(fail_on)
    root = run_dir.runs_root(folder)
    rows = [row for word in words for row in operands.resolve(root, word)]
    base = operands.resolve(root, baseline)[0] if baseline else None
    finish(rows, base, force, margin, as_json)


def finish(rows: list[Row], base: Row | None, force: bool, margin: float | None, as_json: bool) -> None:
    """Compare every row with the base, print, and leave with the exit code that this calls for."""
    if base is None and rows:
        base, rows = rows[0], rows[1:]
    if base is None or not rows:
        raise TgsError("compare needs two rows", hint="tgsbench compare RUN xtuner:llama2_7b_32k")
    comparisons = [compare_rows(row, base, force=force) for row in rows]
    if as_json:
        output.json({"rows": [base, *rows], "comparisons": comparisons})
    else:
        _print([base, *rows], comparisons)
    sys.exit(_exit_code(comparisons, margin))


def _print(rows: list[Row], comparisons: list[Comparison]) -> None:
    for line in text.table(rows):
        output.line(line.rstrip())
    for line in text.forecast_lines(rows):
        output.line(line)
    for found in comparisons:
        output.line()
        for line in text.lines(found):
            output.line(line)


def _exit_code(comparisons: list[Comparison], margin: float | None) -> ExitCode:
    """15 beats 14: a proven regression is the stronger finding."""
    if margin is not None and any(_is_worse(found, margin) for found in comparisons):
        return ExitCode.WORSE
    refused = [found for found in comparisons if found.ratio is None]
    if len(refused) == len(comparisons) or (refused and margin is not None):
        diagnostics.note("not comparable: no ratio is given (--force prints it, marked)")
        return ExitCode.NOT_COMPARABLE
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
