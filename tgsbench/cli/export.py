"""`tgsbench export`: stored runs in the formats of other tools."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click

from tgsbench import units
from tgsbench.cli import complete, diagnostics, output
from tgsbench.cli.effect import refuse_together
from tgsbench.errors import ExitCode, TgsError
from tgsbench.results.export import files
from tgsbench.results.export.series import Series, series_of
from tgsbench.results.repeats import members
from tgsbench.store import run_dir
from tgsbench.store.run_dir import RunDir


@click.command()
@click.argument("words", shell_complete=complete.runs, nargs=-1, metavar="RUN…")
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
    runs = store.runs if everything else [run for word in words for run in _named(store, word)]
    if not runs:
        raise TgsError("no run to export", hint=f"tgsbench export latest --format {form} --to {target}")
    series = _readable(runs) if everything else [series_of(run) for run in runs]
    files.export(series, form, target)
    output.line(f"{target}: {_counted(series)}")
    diagnostics.note(f"read it with: {files.READERS[form].format(target=str(target))}")


def _named(store: run_dir.Store, word: str) -> list[RunDir]:
    """The runs of a group that `run --repeats` made, or one run."""
    return members(store, word) or [store.find(word)]


def _readable(runs: Sequence[RunDir]) -> list[Series]:
    """Every run but those that are damaged, which are named."""
    found = []
    for run in runs:
        try:
            found.append(series_of(run))
        except TgsError as error:
            diagnostics.warn(f"left out: {error.msg}")
    if not found:
        raise TgsError("no run that could be read", exit_code=ExitCode.STORE)
    return found


def _counted(series: Sequence[Series]) -> str:
    """Runs and steps that were written, and how many runs have no step."""
    steps = units.counted(sum(len(one.steps) for one in series), "step")
    bare = sum(not one.steps for one in series)
    without = f" ({bare:,} of them without a step)" if bare else ""
    return f"{units.counted(len(series), 'run')}{without}, {steps}"
