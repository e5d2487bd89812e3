"""`tgsbench replay RUN`: play a stored run again in the live view."""

from __future__ import annotations

from pathlib import Path

import click

from tgsbench.cli import complete
from tgsbench.cli.terminal import print_running, require_terminal
from tgsbench.errors import TgsError
from tgsbench.store import run_dir
from tgsbench.store.run_dir import RunDir

RECORDED = "recorded"
"""Name of the recording that ships with tgsbench."""


@click.command()
@click.argument("run", shell_complete=complete.runs, default=RECORDED)
@click.option("--speed", type=float, help="Times the pace it had; default 10, and 60 for the recording.")
@click.option("--ascii", "ascii_only", is_flag=True, help="Draw with ASCII characters only.")
@click.option("--output", type=click.Path(path_type=Path, file_okay=False), help="Folder of runs (./runs).")
def replay(run: str, speed: float | None, ascii_only: bool, output: Path | None) -> None:
    """Play a run again; without RUN, the recording that ships with tgsbench (simulated data)."""
    if speed is not None and not 0.125 <= speed <= 3600:
        raise TgsError(f"--speed {speed:g}: choose between 0.125 and 3600")
    root = run_dir.runs_root(output)
    found = None if run == RECORDED else run_dir.find(root, run)
    require_terminal(f"tgsbench show {run}")
    from tgsbench.live import session
    from tgsbench.tui import recorded
    from tgsbench.tui.app import open_app

    source = found or RunDir(recorded.recording())
    pace = speed or (recorded.SPEED if found is None else recorded.RUN_SPEED)
    print_running(open_app(runs_root=root, ascii_only=ascii_only, opens=session.replay(source, pace)))
