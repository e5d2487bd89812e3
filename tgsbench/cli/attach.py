"""`tgsbench attach RUN`: come back to a run that is going on, or look at one that is over."""

from __future__ import annotations

from pathlib import Path

import click

from tgsbench.cli import complete
from tgsbench.cli.terminal import print_running, require_terminal
from tgsbench.store import run_dir


@click.command()
@click.argument("run", shell_complete=complete.runs, default="latest")
@click.option("--ascii", "ascii_only", is_flag=True, help="Draw with ASCII characters only.")
@click.option("--output", type=click.Path(path_type=Path, file_okay=False), help="Folder of runs (./runs).")
def attach(run: str, ascii_only: bool, output: Path | None) -> None:
    """Open the live view of a run."""
    root = run_dir.runs_root(output)
    found = run_dir.find(root, run)
    require_terminal(f"tgsbench show {run}")
    from tgsbench.live import session

    opens = session.follow(found)  # a long run is read while the UI is imported
    from tgsbench.tui.app import open_app

    print_running(open_app(runs_root=root, ascii_only=ascii_only, opens=opens))
