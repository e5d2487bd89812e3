"""`tgsbench sweep`: run a grid of presets."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from tgsbench import units
from tgsbench.cli import diagnostics, output
from tgsbench.cli.convention import read_length
from tgsbench.cli.effect import refuse_idle
from tgsbench.errors import ExitCode, TgsError
from tgsbench.launch import max_seq_len
from tgsbench.launch import sweep as grid
from tgsbench.launch.max_seq_len import LongestRun
from tgsbench.launch.sweep import Point, Spec
from tgsbench.report.grid import GridRow, grid_lines
from tgsbench.store import run_dir


@click.command()
@click.argument("spec", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.option("--dry-run", is_flag=True, help="Show what would run, in which order, and what is skipped.")
@click.option("--max-seq-len", is_flag=True, help="Search the longest sequence of each point on real runs.")
@click.option("--limit", default="4M", show_default=True, help="With --max-seq-len: not beyond this length.")
@click.option("--output", "folder", type=click.Path(path_type=Path, file_okay=False), help="Folder of runs.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def sweep(
    spec: Path, dry_run: bool, max_seq_len: bool, limit: str, folder: Path | None, as_json: bool
) -> None:
    """Run every point of the grid that SPEC.toml describes; started again, it goes on where it was.

    \b
    preset = "llama2_7b_32k"
    set = { "measure.steps" = 5 }
    grid = { sp = [1, 2, 4, 8], checkpointing = ["full", "selective"] }
    """
    refuse_idle({"limit": "max_seq_len"})
    plan = grid.read_spec(spec)
    if max_seq_len:
        plan = _without_length(plan)
    found = grid.points(plan)
    _say_plan(found)
    if dry_run:
        _show(found, as_json)
        return
    root = run_dir.runs_root(folder)
    if max_seq_len:
        _search(plan, found, root, read_length(limit), as_json)
        return
    done = grid.run_points(plan, found, root, diagnostics.note)
    _show(found, as_json)
    if not done:
        diagnostics.note(f"interrupted; to go on: tgsbench sweep {spec}")
        sys.exit(ExitCode.CANCELLED)
    if not any(point.result is not None for point in found):
        raise TgsError("no point of the grid can run here", exit_code=ExitCode.DOES_NOT_FIT)


def _without_length(plan: Spec) -> Spec:
    if "workload.seq_len" in plan.grid:
        raise TgsError("--max-seq-len searches the length: leave seq_len out of grid")
    return plan


def _say_plan(found: list[Point]) -> None:
    skipped = [point for point in found if point.skipped]
    diagnostics.note(f"{units.counted(len(found), 'point')}, {len(found) - len(skipped)} to run")
    for point in skipped:
        diagnostics.note(f"  skipped  {point.label}: {point.skipped}")


def _search(plan: Spec, found: list[Point], root: Path, limit: int, as_json: bool) -> None:
    rows: list[tuple[Point, LongestRun]] = []
    for point in (p for p in found if not p.skipped):
        assert point.preset is not None
        diagnostics.note(point.label)
        rows.append((point, max_seq_len.find_longest(point.preset, root, plan.name, limit, diagnostics.note)))
    if as_json:
        output.json([{"values": point.values, **_longest_row(best)} for point, best in rows])
        return
    for point, best in rows:
        reached = units.length(best.seq_len) if best.seq_len else "none"
        over = f"; {units.length(best.too_long)} does not" if best.too_long else " (the limit)"
        output.line(f"{point.label}: {reached} trains{over}, {best.num_runs} runs")


def _longest_row(found: LongestRun) -> dict[str, Any]:
    tgs = found.best.tgs.median if found.best else None
    return {
        "seq_len": found.seq_len,
        "too_long": found.too_long,
        "tgs": tgs,
        "mem_peak_gib": found.best.mem.peak_gib if found.best else None,
        "num_runs": found.num_runs,
        "tried": {str(length): status for length, status in found.tried.items()},
    }


def _show(found: list[Point], as_json: bool) -> None:
    if as_json:
        output.json([_row(point) for point in found])
        return
    for line in grid_lines([_grid_row(point) for point in found]):
        output.line(line)


def _grid_row(point: Point) -> GridRow:
    note = f"skipped: {point.skipped}" if point.skipped else "to run"
    return GridRow(label=point.label, result=point.result, note=note, forecast_tgs=point.forecast_tgs)


def _row(point: Point) -> dict[str, Any]:
    result = point.result
    return {
        "values": point.values,
        "status": "skipped" if point.skipped else (result.status if result else "to run"),
        "reason": point.skipped or (result.failure.reason if result and result.failure else ""),
        "predicted_tgs": point.forecast_tgs,
        "tgs": result.tgs.median if result else None,
        "mem_peak_gib": result.mem.peak_gib if result else None,
        "run_id": result.run_id if result else "",
    }
