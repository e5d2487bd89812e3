"""`tgsbench profile RUN|TRACE…`: where the step's time goes."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from tgsbench import api, units
from tgsbench.cli import complete, diagnostics, output
from tgsbench.cli.effect import refuse_together
from tgsbench.errors import TgsError
from tgsbench.report.profile import profile_lines
from tgsbench.report.profile_diff import diff_lines
from tgsbench.schema.hotspots import TITLES
from tgsbench.traces import sources as traces

if TYPE_CHECKING:
    from tgsbench.schema.hotspots import Profile, ProfileDiff
    from tgsbench.traces.first_look import FirstLook


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

    SOURCES are runs, or traces (.json, packed or not, archives of ranks) and folders of them, from any
    program; without one, the newest run.
    """
    refuse_together(("perfetto", "against"), ("perfetto", "as_json"))
    sources = sources or ("latest",)
    if perfetto is not None:
        _merge(sources, folder, perfetto)
        return
    with _watched(sources, folder) as on_read:
        found = api.profile(*sources, root=folder, again=again, processes=processes, on_read=on_read)
    if against is None:
        _print(found, profile_lines(found), as_json)
        return
    from tgsbench.traces.diff import diff

    changes = diff(found, api.profile(against, root=folder, processes=processes))
    _print(changes, diff_lines(changes), as_json)


@contextlib.contextmanager
def _watched(sources: tuple[str, ...], folder: Path | None) -> Iterator[Callable[[int], None]]:
    """For traces that take long to read: first figures at once, then how far it is; elsewhere nothing."""
    root, size, seen = api.runs_root(folder), 0, None
    with contextlib.suppress(TgsError):  # whoever reads them says it
        if not any(traces.find_run(source, root) for source in sources):
            traces.require_packages()
            size, seen = _first_look(traces.trace_paths(sources, root))
    if seen is None or not sys.stderr.isatty():
        yield lambda num_bytes: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn
    from rich.table import Column

    one_line = Column(no_wrap=True, overflow="ellipsis")
    size_read = DownloadColumn(table_column=Column(no_wrap=True))
    columns = (
        BarColumn(20),
        size_read,
        TimeRemainingColumn(),
        TextColumn("{task.description}", table_column=one_line),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task, first = bar.add_task(_shares(seen, 3), total=size), seen.num_pieces

        def on_read(num_bytes: int) -> None:
            bar.advance(task, num_bytes)
            if bar.tasks[task].completed > (seen.num_pieces - first + 1) * _LOOK_EVERY:
                seen.look_on(1)
                bar.update(task, description=_shares(seen, 3))

        yield on_read


_LOOK_EVERY = 64 << 20
"""Bytes read after which the first figures are refined by another piece, of one MB."""


def _first_look(paths: Sequence[Path]) -> tuple[int, FirstLook | None]:
    """Print the first figures of large traces; their size, and what was seen: None where that was nothing.

    What is read in no time needs none; what is packed has no middle to look into.
    """
    from tgsbench.traces.first_look import LARGE, first_look, plain_bytes

    size = plain_bytes(paths)
    if size < LARGE:
        return 0, None
    found = first_look(paths)
    seen, shares = f"{units.size(found.num_bytes)} of {units.size(size)}", _shares(found, 6)
    diagnostics.note(f"first look ({seen}): of the kernels' time {shares}" if shares else f"reading {seen}")
    return size, found


def _shares(found: FirstLook, count: int) -> str:
    return ", ".join(f"{TITLES[part]} {units.percent(share)}" for part, share in found.shares()[:count])


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
