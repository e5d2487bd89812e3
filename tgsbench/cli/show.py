"""`tgsbench show RUN`: one run's result."""

from __future__ import annotations

from pathlib import Path

import click

from tgsbench import api
from tgsbench.cli import complete, output
from tgsbench.cli.repeats import print_repeats
from tgsbench.report.summary import summary_lines
from tgsbench.results import repeats
from tgsbench.results.results import load_result
from tgsbench.safe_files import one_line
from tgsbench.store.run_dir import Store


@click.command()
@click.argument("run", shell_complete=complete.runs, default="latest")
@click.option("--price", type=click.FloatRange(min=0), help="USD for an hour of one GPU.")
@click.option("--json", "as_json", is_flag=True, help="Print the whole result as JSON.")
@click.option("--output", "folder", type=click.Path(path_type=Path, file_okay=False), help="Folder of runs.")
def show(run: str, price: float | None, as_json: bool, folder: Path | None) -> None:
    """Print one run's result; the root cause first when it failed. A group of `run --repeats` by its name."""
    if runs := repeats.members(Store(api.runs_root(folder)), run):
        print_repeats(repeats.summed_up(run, [load_result(one) for one in runs]), as_json)
        return
    result = api.load_run(run, root=folder)
    if as_json:
        output.json(result)
        return
    if result.failure is not None:
        failure = result.failure
        who = (
            ""
            if failure.rank is None
            else f" on rank {failure.rank}" + (f" ({failure.host})" if failure.host else "")
        )
        output.line(f"{result.status}{who}: {failure.reason}")
        hint = failure.hint and f"  try: {failure.hint}"
        for text in (failure.forecast and f"  {failure.forecast}", hint, failure.traceback.rstrip()):
            if text:
                output.line(text)
        output.line()
    for line in summary_lines(result, price):
        output.line(line)
    output.line(f"{'folder':<11} {one_line(result.run_dir)}")
