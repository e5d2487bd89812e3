"""Runs several run folders one after another: `python -m tgsbench.training.verify_worker RUN_DIR…`.

For `tgsbench verify`, whose runs are so short that imports would take nine tenths of the time: torch and the
engine are imported once, nothing is computed, and each rank of each run is a fork of this process.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
import time
from pathlib import Path

from tgsbench.schema.run import LauncherReport
from tgsbench.store.run_dir import RunDir
from tgsbench.training import agent
from tgsbench.training.__main__ import main as rank_main
from tgsbench.training.engines.build import preload_engine


def main(argv: list[str] | None = None) -> int:
    """Run the folders' ranks in turn; ends at the first that fails."""
    parser = argparse.ArgumentParser(prog="python -m tgsbench.training.verify_worker")
    parser.add_argument("run_dirs", nargs="+", type=Path)
    parser.add_argument("--parent-pid", type=int, default=0)
    args = parser.parse_args(argv)
    agent.take_charge(args.parent_pid)
    _import_engine(RunDir(args.run_dirs[0]).preset().engine.name)
    return next((code for run_dir in args.run_dirs if (code := _run(run_dir))), 0)


def _import_engine(name: str) -> None:
    """Import what the ranks will; one that cannot be imported is theirs to tell."""

    with contextlib.suppress(ImportError):
        preload_engine(name)


def _run(run_dir: Path) -> int:
    world_size = RunDir(run_dir).manifest().world_size
    config = agent.launch_config(world_size, start_method="fork")
    report = LauncherReport()
    with agent.loopback_only(config):
        code = agent.launch(config, report, rank_main, run_dir)
    report.ended_unix = time.time()
    agent.write_report(run_dir / "launcher.json", report)
    return code


if __name__ == "__main__":
    sys.exit(main())
