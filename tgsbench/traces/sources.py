"""What a user names as traces - runs, files, folders - and the profile made of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from tgsbench.errors import ExitCode, TgsError
from tgsbench.install import pip_install
from tgsbench.schema.hotspots import Profile
from tgsbench.store import run_dir
from tgsbench.store.profiles import profile_dir


def load_profile(
    sources: Sequence[str],
    root: Path,
    num_processes: int | None = None,
    again: bool = False,
    on_read: Callable[[int], None] = lambda got: None,
) -> Profile:
    """The profile of one run of `root` (a stored one unless `again`), or of loose traces together.

    Raises TgsError when there is no trace, one is damaged, or a package of the analysis is missing.
    """
    require_packages()
    from tgsbench.traces import analyse, run_profile

    if len(sources) == 1 and (run := find_run(sources[0], root)) is not None:
        return run_profile.run_profile(run, again, num_processes, on_read)
    return analyse.analyse(trace_paths(sources, root), ", ".join(sources), num_processes, on_read)


def require_packages() -> None:
    """Raise TgsError with the remedy when the analysis' packages are missing."""
    try:
        import numpy  # noqa: F401
    except ModuleNotFoundError as error:
        raise TgsError(
            f"{error.name} is not installed",
            hint=pip_install("profile"),
            exit_code=ExitCode.MISSING_DEPENDENCY,
        ) from error


def trace_paths(sources: Sequence[str], root: Path) -> list[Path]:
    """The traces of runs, folders and files. Raises TgsError when one of them has none."""
    from tgsbench.traces.files import expanded, trace_files

    paths: list[Path] = []
    for source in sources:
        run = find_run(source, root)
        if run is not None:
            paths += trace_files(profile_dir(run.path))
        else:
            paths += expanded(Path(source)) if Path(source).is_file() else trace_files(Path(source))
    return paths


def find_run(source: str, root: Path) -> run_dir.RunDir | None:
    """The run that is meant, or None for a file or folder of traces.

    Raises TgsError for a trace that is not there and for an unknown run.
    """
    from tgsbench.traces.files import looks_like_file

    path = Path(source)
    if path.is_file() or (path.is_dir() and not (path / "run.json").exists()):
        return None
    if looks_like_file(source) and not path.exists():
        raise TgsError(f"{source}: there is no such file", exit_code=ExitCode.BAD_INPUT)
    return run_dir.find(root, source)
