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
    sources = sources or ("latest",)
    if perfetto is not None:
        _merge(sources, folder, perfetto)
        return
    found = load_profile(sources, folder, processes, again)
    if against is None:
        _print(found, profile_lines(found), as_json)
        return
    from tgsbench.traces.diff import diff

    changes = diff(found, load_profile((against,), folder, processes))
    _print(changes, diff_lines(changes), as_json)


def _print(document: Profile | ProfileDiff, lines: list[str], as_json: bool) -> None:
    if as_json:
        output.json(document)
        return
    for line in lines:
        output.line(line)


def _merge(sources: tuple[str, ...], folder: Path | None, out: Path) -> None:
    require_analysis()
    from tgsbench.traces import perfetto

    paths = trace_paths(sources, folder)
    count = perfetto.merge(paths, out)
    diagnostics.note(f"{out}: {count:,} events of {len(paths)} traces; open it in https://ui.perfetto.dev")


def load_profile(
    sources: tuple[str, ...], folder: Path | None, processes: int | None = None, again: bool = False
) -> Profile:
    """The profile of a run or of loose traces; TgsError when there is none or a package is missing."""
    require_analysis()
    from tgsbench.traces import analyse, run_profile

    if len(sources) == 1 and (run := find_run(sources[0], folder)) is not None:
        return run_profile.run_profile(run, again, processes)
    return analyse.analyse(trace_paths(sources, folder), ", ".join(sources), processes)


def require_analysis() -> None:
    """Raise TgsError with the remedy when the analysis' packages are missing."""
    try:
        import numpy  # noqa: F401
    except ModuleNotFoundError as error:
        raise TgsError(
            f"{error.name} is not installed",
            hint="pip install 'tgsbench[profile]'",
            exit_code=ExitCode.MISSING_DEPENDENCY,
        ) from error


def trace_paths(sources: tuple[str, ...], folder: Path | None) -> list[Path]:
    """The traces of runs, folders and files; TgsError when one has none."""
    from tgsbench.store.profiles import profile_dir
    from tgsbench.traces.analyse import trace_files

    paths: list[Path] = []
    for source in sources:
        run = find_run(source, folder)
        if run is not None:
            paths += trace_files(profile_dir(run.path))
        else:
            paths += [Path(source)] if Path(source).is_file() else trace_files(Path(source))
    return paths


def find_run(source: str, folder: Path | None) -> run_dir.RunDir | None:
    """The run that is meant; None: a file or folder of traces."""
    path = Path(source)
    if path.is_file() or (path.is_dir() and not (path / "run.json").exists()):
        return None
    if path.suffix in (".json", ".gz"):
        raise TgsError(f"{source}: there is no such file", exit_code=ExitCode.BAD_INPUT)
    return run_dir.find(run_dir.runs_root(folder), source)
