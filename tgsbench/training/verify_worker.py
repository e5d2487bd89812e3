"""Runs several run folders one after another: `python -m tgsbench.training.verify_worker RUN_DIR…`.

For `tgsbench verify`, whose runs are so short that imports would take nine tenths of the time: torch and the
engine are imported once, nothing is computed, and each rank of each run is a fork of this process.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import itertools
import signal
import sys
import time
from pathlib import Path

from tgsbench.schema.run import LauncherReport
from tgsbench.store.run_dir import RunDir
from tgsbench.training import agent
from tgsbench.training.__main__ import main as rank_main
from tgsbench.training.local_ranks import HEARD, forked, run_ranks
from tgsbench.training.preload import preload

_BY_SIGNAL = 128
"""Exit codes beyond it are of runs that were asked to leave."""


def main(argv: list[str] | None = None) -> int:
    """Run the folders' ranks in turn; where one fails, the next engine's follow."""
    parser = argparse.ArgumentParser(prog="python -m tgsbench.training.verify_worker")
    parser.add_argument("run_dirs", nargs="+", type=Path)
    parser.add_argument("--parent-pid", type=int, default=0)
    args = parser.parse_args(argv)
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
    with contextlib.suppress(ImportError):  # one that cannot be imported is the ranks' to tell
        preload(RunDir(run_dirs[0]).preset())
        _multiply_exactly()
    return next((code for run_dir in run_dirs if (code := _run(run_dir))), 0)


def _multiply_exactly() -> None:
    """Products of these runs are taken in fp64; imported late, since torch comes with it."""
    from tgsbench.training.model.cpu_bf16 import multiply_exactly

    multiply_exactly()


def _run(run_dir: Path) -> int:
    report, world_size = LauncherReport(), RunDir(run_dir).manifest().world_size
    copies = forked(functools.partial(rank_main, run_dir))
    code = run_ranks(lambda: copies, world_size, report)
    for sig in HEARD:
        signal.signal(sig, signal.SIG_DFL)  # between runs there is nobody to be told of it
    report.ended_unix = time.time()
    agent.write_report(run_dir / "launcher.json", report)
    return code


if __name__ == "__main__":
    sys.exit(main())
