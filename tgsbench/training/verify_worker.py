"""Runs several run folders one after another: `python -m tgsbench.training.verify_worker RUN_DIR…`.

For `tgsbench verify`, whose runs are so short that imports would take nine tenths of the time: torch and the
engine are imported once, nothing is computed, and each rank of each run is a fork of this process.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import importlib
import itertools
import signal
import sys
import time
from pathlib import Path

from tgsbench.schema.preset import Preset
from tgsbench.schema.run import LauncherReport
from tgsbench.store.run_dir import RunDir
from tgsbench.training import agent
from tgsbench.training.__main__ import main as rank_main
from tgsbench.training.imports import many_imports
from tgsbench.training.local_ranks import HEARD, forked, run_ranks

with many_imports():  # torch comes with each of them
    from tgsbench.training.engines.build import preload_engine
    from tgsbench.training.model.builder import find_builder
    from tgsbench.training.model.cpu_bf16 import multiply_exactly


_BY_SIGNAL = 128
"""Exit codes beyond it are of runs that were asked to leave."""


def main(argv: list[str] | None = None) -> int:
    """Run the folders' ranks in turn; where one fails, the next engine's follow."""
    parser = argparse.ArgumentParser(prog="python -m tgsbench.training.verify_worker")
    parser.add_argument("run_dirs", nargs="+", type=Path)
    parser.add_argument("--parent-pid", type=int, default=0)
    args = parser.parse_args(argv)
    multiply_exactly()
    agent.take_charge(args.parent_pid)
    codes = list[int]()
    for _, runs in itertools.groupby(args.run_dirs, _engine_of):
        codes.append(_run_all(list(runs)))
        if codes[-1] > _BY_SIGNAL:
            break
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
    report, world_size = LauncherReport(), RunDir(run_dir).manifest().world_size
    code = run_ranks(forked(functools.partial(rank_main, run_dir)), world_size, report)
    for sig in HEARD:
        signal.signal(sig, signal.SIG_DFL)  # between runs there is nobody to be told of it
    report.ended_unix = time.time()
    agent.write_report(run_dir / "launcher.json", report)
    return code


if __name__ == "__main__":
    sys.exit(main())
