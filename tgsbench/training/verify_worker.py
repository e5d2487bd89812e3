"""Runs several run folders one after another: `python -m tgsbench.training.verify_worker RUN_DIR…`.

For `tgsbench verify`, whose runs are so short that imports would take nine tenths of the time: torch and the
engine are imported once, nothing is computed, and each rank of each run is a fork of this process.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import itertools
import sys
import time
from pathlib import Path

from tgsbench.schema.preset import Preset
from tgsbench.schema.run import LauncherReport
from tgsbench.store.run_dir import RunDir
from tgsbench.training import agent
from tgsbench.training.__main__ import main as rank_main
from tgsbench.training.imports import many_imports

with many_imports():  # torch comes with each of them
    from tgsbench.training import elastic
    from tgsbench.training.engines.build import preload_engine
    from tgsbench.training.model.builder import find_builder


def main(argv: list[str] | None = None) -> int:
    """Run the folders' ranks in turn; where one fails, the next engine's follow."""
    parser = argparse.ArgumentParser(prog="python -m tgsbench.training.verify_worker")
    parser.add_argument("run_dirs", nargs="+", type=Path)
    parser.add_argument("--parent-pid", type=int, default=0)
    args = parser.parse_args(argv)
    agent.take_charge(args.parent_pid)
    codes = [_run_all(list(runs)) for _, runs in itertools.groupby(args.run_dirs, _engine_of)]
    return next(filter(None, codes), 0)


def _engine_of(run_dir: Path) -> str:
    return RunDir(run_dir).preset().engine.name


def _run_all(run_dirs: list[Path]) -> int:
    """Runs of one engine; ends at the first that fails."""
    _import_engine(RunDir(run_dirs[0]).preset())
    return next((code for run_dir in run_dirs if (code := _run(run_dir))), 0)


def _import_engine(preset: Preset) -> None:
    """Import what the ranks will; one that cannot be imported is theirs to tell."""
    with contextlib.suppress(ImportError), many_imports():
        preload_engine(preset.engine.name)
        find_builder(preset.model.family)
        importlib.import_module("tgsbench.training.rank")


def _run(run_dir: Path) -> int:
    world_size = RunDir(run_dir).manifest().world_size
    config = elastic.launch_config(world_size, start_method="fork")
    report = LauncherReport()
    with elastic.loopback_only(config):
        code = elastic.launch(config, report, rank_main, run_dir)
    report.ended_unix = time.time()
    agent.write_report(run_dir / "launcher.json", report)
    return code


if __name__ == "__main__":
    sys.exit(main())
