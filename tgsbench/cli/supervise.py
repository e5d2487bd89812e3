"""`tgsbench supervise RUN_DIR`: run a prepared folder to its end in a process of its own."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from tgsbench.launch import local
from tgsbench.store.run_dir import RunDir


@click.command(hidden=True)
@click.argument("path", type=click.Path(path_type=Path, exists=True, file_okay=False))
def supervise(path: Path) -> None:
    """Start a prepared run's ranks, watch them, store the result (what the UI starts)."""
    result = local.supervise(RunDir(path), lambda events: None)
    sys.exit(local.EXIT_CODES[result.status])
