"""`tgsbench runs`: the stored runs."""

from __future__ import annotations

import sys
from pathlib import Path

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from tgsbench import units
from tgsbench.cli import output
from tgsbench.confined import printable
from tgsbench.schema.run import Failure, Result
from tgsbench.store import results, run_dir


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print a JSON array.")
@click.option("--output", "folder", type=click.Path(path_type=Path, file_okay=False), help="Folder of runs.")
def runs(as_json: bool, folder: Path | None) -> None:
    """List stored runs, newest first."""
    root = run_dir.runs_root(folder)
    found = [(run.run_id, results.load_or_describe(run)) for run in run_dir.list_runs(root)]
    if as_json:
        output.json([_row(run_id, item) for run_id, item in found])
    elif not found:
        output.line(f"no runs in {root} yet; start one: tgsbench run --preset tiny_cpu --headless")
    else:
        Console(soft_wrap=not sys.stdout.isatty()).print(_table(found))


def _row(run_id: str, item: Result | Failure) -> dict[str, object]:
    if isinstance(item, Failure):
        return {"run_id": run_id, "status": "damaged", "reason": item.reason}
    return {
        "run_id": run_id,
        "status": item.status,
        "preset": item.preset,
        "engine": item.engine,
        "tgs": item.tgs.median,
        "seq_len": item.seq_len,
        "world_size": item.world_size,
        "sp": item.sp,
        "created_unix": item.created_unix,
        "rehearsal_of": item.rehearsal_of,
        "reason": item.failure.reason if item.failure else "",
        "run_dir": item.run_dir,
    }


def _table(found: list[tuple[str, Result | Failure]]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("run", no_wrap=True)
    table.add_column("status", no_wrap=True)
    table.add_column("engine", no_wrap=True)
    table.add_column("TGS", justify="right", no_wrap=True)
    table.add_column("n", justify="right", no_wrap=True)
    table.add_column("why", overflow="fold")
    for run_id, item in found:
        table.add_row(*(Text(printable(cell)) for cell in _cells(run_id, item)))
    return table


def _cells(run_id: str, item: Result | Failure) -> list[str]:
    if isinstance(item, Failure):
        return [run_id, "damaged", "", "", "", item.reason]
    tgs = units.rate(item.tgs.median) if item.tgs.median is not None else "-"
    why = item.failure.reason if item.failure else "; ".join(item.integrity.problems)
    if item.rehearsal_of:
        why = f"rehearsal; {why}" if why else "rehearsal: compare with nothing"
    return [run_id, item.status, item.engine, tgs, str(item.tgs.n), why]
