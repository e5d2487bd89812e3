"""`tgsbench profile RUN|TRACE…`: where the step's time goes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from tgsbench.cli import diagnostics, output
from tgsbench.errors import ExitCode, TgsError
from tgsbench.report.profile import profile_lines
from tgsbench.report.profile_diff import diff_lines
from tgsbench.store import run_dir

if TYPE_CHECKING:
    from tgsbench.schema.hotspots import Profile, ProfileDiff


@click.command()
@click.argument("sources", nargs=-1, required=False)
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
@click.option("--processes", type=click.IntRange(1, 64), help="How many traces are read at once.")
@click.option("--output", "folder", type=click.Path(path_type=Path, file_okay=False), help="Folder of runs.")
def profile(
    sources: tuple[str, ...],
    as_json: bool,
    against: str | None,
    perfetto: Path | None,
    processes: int | None,
    folder: Path | None,
) -> None:
    """Analyse captured traces: parts of the step, communication, kernels, findings.

    SOURCES are runs, or traces (.json, .json.gz) and folders of them, from any program; without one, the
    newest run.
    """
    sources = sources or ("latest",)
    if perfetto is not None:
        _merge(sources, folder, perfetto)
        return
    found = analysed(sources, folder, processes)
    if against is None:
        _print(found, profile_lines(found), as_json)
        return
    from tgsbench.profiling.diff import diff

    changes = diff(found, analysed((against,), folder, processes))
    _print(changes, diff_lines(changes), as_json)


def _print(document: Profile | ProfileDiff, lines: list[str], as_json: bool) -> None:
    if as_json:
        output.json(document)
        return
    for line in lines:
        output.line(line)


def _merge(sources: tuple[str, ...], folder: Path | None, out: Path) -> None:
    from tgsbench.profiling import perfetto

    paths = trace_paths(sources, folder)
    count = perfetto.merge(paths, out)
    diagnostics.note(f"{out}: {count:,} events of {len(paths)} traces; open it in https://ui.perfetto.dev")


def analysed(sources: tuple[str, ...], folder: Path | None, processes: int | None = None) -> Profile:
    """The profile of runs' or loose traces; TgsError when there is none or a package is missing."""
    try:
        from tgsbench.profiling import analyse
    except ModuleNotFoundError as error:
        raise TgsError(
            f"{error.name} is not installed",
            hint="pip install 'tgsbench[profile]'",
            exit_code=ExitCode.MISSING_DEPENDENCY,
        ) from error
    return analyse.analyse(trace_paths(sources, folder), ", ".join(sources), processes)


def trace_paths(sources: tuple[str, ...], folder: Path | None) -> list[Path]:
    """The traces of runs, folders and files; TgsError when one has none."""
    return [path for source in sources for path in _traces(source, folder)]


def _traces(source: str, folder: Path | None) -> list[Path]:
    from tgsbench.profiling import analyse

    path = Path(source)
    if path.is_file():
        return [path]
    if path.is_dir() and not (path / "run.json").exists():
        return analyse.trace_files(path)
    if path.suffix in (".json", ".gz"):
        raise TgsError(f"{source}: there is no such file", exit_code=ExitCode.BAD_INPUT)
    return analyse.trace_files(run_dir.find(run_dir.runs_root(folder), source).path / "profile")
