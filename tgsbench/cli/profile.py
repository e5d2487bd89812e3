"""`tgsbench profile RUN|TRACE…`: where the step's time goes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from tgsbench import api
from tgsbench.cli import complete, diagnostics, output
from tgsbench.cli.effect import refuse_together
from tgsbench.report.profile import profile_lines
from tgsbench.report.profile_diff import diff_lines
from tgsbench.traces import sources as traces

if TYPE_CHECKING:
    from tgsbench.schema.hotspots import Profile, ProfileDiff


@click.command()
@click.argument("sources", shell_complete=complete.runs, nargs=-1, required=False)
@click.option("--json", "as_json", is_flag=True, help="Print the whole analysis as JSON.")
@click.option(
    "--against", metavar="RUN|TRACE", help="Compare with this one: what changed from SOURCES to it."
)
@click.option(
    "--perfetto",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="OUT.json",
    help="Write all ranks on one time line, for Perfetto or chrome://tracing.",
)
@click.option("--again", is_flag=True, help="Analyse a run's traces anew, though it was done before.")
@click.option("--processes", type=click.IntRange(1, 64), help="How many traces are read at once.")
@click.option("--output", "folder", type=click.Path(path_type=Path, file_okay=False), help="Folder of runs.")
def profile(
    sources: tuple[str, ...],
    as_json: bool,
    against: str | None,
    perfetto: Path | None,
    again: bool,
    processes: int | None,
    folder: Path | None,
) -> None:
    """Analyse captured traces: parts of the step, communication, kernels, findings.

    SOURCES are runs, or traces (.json, .json.gz) and folders of them, from any program; without one, the
    newest run.
    """
    refuse_together(("perfetto", "against"), ("perfetto", "as_json"))
    sources = sources or ("latest",)
    if perfetto is not None:
        _merge(sources, folder, perfetto)
        return
    found = api.profile(*sources, root=folder, again=again, processes=processes)
    if against is None:
        _print(found, profile_lines(found), as_json)
        return
    from tgsbench.traces.diff import diff

    changes = diff(found, api.profile(against, root=folder, processes=processes))
    _print(changes, diff_lines(changes), as_json)


def _print(document: Profile | ProfileDiff, lines: list[str], as_json: bool) -> None:
    if as_json:
        output.json(document)
        return
    for line in lines:
        output.line(line)


def _merge(sources: tuple[str, ...], folder: Path | None, out: Path) -> None:
    traces.require_packages()
    from tgsbench.traces import perfetto

    paths = traces.trace_paths(sources, api.runs_root(folder))
    count = perfetto.merge(paths, out)
    diagnostics.note(f"{out}: {count:,} events of {len(paths)} traces; open it in https://ui.perfetto.dev")
