"""`tgsbench export`: stored runs in the formats of other tools."""

from __future__ import annotations

from pathlib import Path

import click

from tgsbench.cli import output
from tgsbench.cli.effect import refuse_together
from tgsbench.errors import TgsError
from tgsbench.results.export import files
from tgsbench.results.export.series import series_of
from tgsbench.store import run_dir


@click.command()
@click.argument("words", nargs=-1, metavar="RUN…")
@click.option("--format", "form", required=True, type=click.Choice(list(files.FORMS)), help="What to write.")
@click.option(
    "--to", "target", required=True, type=click.Path(path_type=Path), help="File or folder to make."
)
@click.option("--all", "everything", is_flag=True, help="Every stored run.")
@click.option("--output", "folder", type=click.Path(path_type=Path, file_okay=False), help="Folder of runs.")
def export(words: tuple[str, ...], form: str, target: Path, everything: bool, folder: Path | None) -> None:
    """Write runs as JSON lines or Parquet (a row a step), for MLflow, W&B offline, or TensorBoard."""
    refuse_together(("words", "everything"))
    root = run_dir.runs_root(folder)
    store = run_dir.Store(root)
    runs = store.runs if everything else [store.find(word) for word in words]
    if not runs:
        raise TgsError("no run to export", hint=f"tgsbench export latest --format {form} --to {target}")
    series = [series_of(run) for run in runs]
    files.export(series, form, target)
    num_steps = sum(len(one.steps) for one in series)
    output.line(f"{target}: {len(series)} runs, {num_steps} steps")
