"""`tgsbench tensorboard [RUN…]`: runs in TensorBoard, offline, on loopback."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import click

from tgsbench import units
from tgsbench.cli import complete, diagnostics, output
from tgsbench.errors import ExitCode, TgsError
from tgsbench.store import profiles, run_dir
from tgsbench.system.scratch import disk_full_error, scratch_folder
from tgsbench.traces.sources import find_run, trace_paths

if TYPE_CHECKING:
    from tgsbench.traces.tensorboard.logdir import LogdirRun

_MUCH_MEMORY = 2 << 30


@click.command()
@click.argument("sources", shell_complete=complete.runs, nargs=-1, metavar="[RUN|TRACE ...]")
@click.option(
    "--port", type=click.IntRange(1, 65535), help="Port on 127.0.0.1; without it the first free from 6006 on."
)
@click.option("--output", "folder", type=click.Path(path_type=Path, file_okay=False), help="Folder of runs.")
def tensorboard(sources: tuple[str, ...], port: int | None, folder: Path | None) -> None:
    """Show captured traces and the run's scalars in TensorBoard; needs no network.

    RUN is a run (name, part of it, folder, latest: the default), or a trace or folder of traces from any
    program. Ctrl-C ends it, with exit code 0.
    """
    from tgsbench.traces.tensorboard import logdir, server

    server.require_packages()
    shown = [_shown(source, folder) for source in sources or ("latest",)]
    traces = [trace for one in shown for trace in one.traces]
    if not traces:
        raise TgsError(
            "no traces: " + ", ".join(one.name for one in shown),
            hint="capture some: tgsbench run --preset NAME --profile timeline",
            exit_code=ExitCode.BAD_INPUT,
        )
    for one in shown:
        if not one.traces:
            diagnostics.note(f"{one.name}: no traces were captured, its scalars are shown")
    if (wanted := logdir.memory_bytes(traces)) > _MUCH_MEMORY:
        diagnostics.warn(f"TensorBoard takes {units.size(wanted)} of memory to read the largest trace")
    with scratch_folder("tgsbench-tensorboard-") as temporary:
        _lay_out(shown, temporary)
        stop = server.interruption()
        with server.serving(temporary, port) as address:
            _say(address)
            stop.wait()


def _shown(source: str, folder: Path | None) -> LogdirRun:
    from tgsbench.traces.tensorboard.logdir import LogdirRun

    root = run_dir.runs_root(folder)
    run = find_run(source, root)
    name = Path(source).resolve().name if run is None else run.run_id
    if run is not None and not profiles.has_traces(run):
        return LogdirRun(name, (), run)
    # A FIFO among them would be waited for without end.
    return LogdirRun(
        name, [path for path in trace_paths((source,), root) if path.is_file() or not path.exists()], run
    )


def _lay_out(shown: list[LogdirRun], target: Path) -> None:
    from tgsbench.traces.tensorboard import logdir

    try:
        logdir.lay_out(shown, target)
    except OSError as error:
        raise disk_full_error(target, error) from error


def _say(address: str) -> None:
    output.line(f"{address}#pytorch_profiler")
    if os.environ.get("SSH_CONNECTION"):
        port = urlsplit(address).port
        diagnostics.note(f"from another machine: ssh -L {port}:127.0.0.1:{port} THIS_HOST")
    diagnostics.note("it works in the first browser that opens it; ctrl-c ends it")
