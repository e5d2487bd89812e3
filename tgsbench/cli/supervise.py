"""`tgsbench supervise RUN_DIR`: run a prepared folder to its end in a process of its own."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from tgsbench.launch import local, nodes
from tgsbench.launch.command import ONE_NODE
from tgsbench.store.run_dir import RunDir


@click.command(hidden=True)
@click.argument("path", type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.option("--nnodes", type=int, default=1, help="Machines of the run.")
@click.option("--node-rank", type=int, default=0, help="This machine's place among them.")
@click.option("--rendezvous", default="", metavar="HOST:PORT", help="Where they meet.")
def supervise(path: Path, nnodes: int, node_rank: int, rendezvous: str) -> None:
    """Start a prepared run's ranks, watch them, store the result (what the UI and Slurm start)."""
    run = RunDir(path)
    node = nodes.node_at(nnodes, node_rank, rendezvous, run.run_id) if nnodes > 1 else ONE_NODE
    result = local.supervise(run, lambda events: None, node)
    sys.exit(local.exit_code(result))
