"""Starts the ranks of one node and watches them: `python -m tgsbench.training.agent RUN_DIR …`.

How each rank ended, by which exit code or signal, goes to RUN_DIR/launcher.json for the launcher to read.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import os
import signal
import sys
import threading
import time
from pathlib import Path

import msgspec

from tgsbench.schema.run import LauncherReport
from tgsbench.store.run_dir import RunDir
from tgsbench.system.child import module_argv
from tgsbench.system.lifetime import die_with_parent
from tgsbench.training.__main__ import main as rank_main
from tgsbench.training.local_ranks import Start, forked, program, run_ranks
from tgsbench.training.preload import preload


def main(argv: list[str] | None = None) -> int:
    """Run this node's ranks to their end and write launcher.json."""
    args = _parse(argv)
    take_charge(args.parent_pid)
    report = LauncherReport(node_rank=args.node_rank)
    code = _run(args, report)
    report.ended_unix = time.time()
    write_report(args.run_dir / f"launcher{args.node_rank or ''}.json", report)
    return code


def _run(args: argparse.Namespace, report: LauncherReport) -> int:
    if args.nnodes == 1 and not args.rendezvous:
        return run_ranks(functools.partial(_start_of, args), args.nproc_per_node, report)
    python, *words = _rank_argv(args)
    from tgsbench.training import elastic  # with torch, which ranks of one machine need not wait for

    config = elastic.launch_config(args.nproc_per_node, args.nnodes)
    config.run_id = args.rendezvous_id or config.run_id
    config.rdzv_endpoint = args.rendezvous
    config.rdzv_configs["is_host"] = args.node_rank == 0
    config.local_addr = args.local_addr or None
    return elastic.launch(config, report, python, "-u", *words)


def _start_of(args: argparse.Namespace) -> Start:
    """Ranks on CPUs are copies of this process once it has imported what they need; others run a command.

    A GPU's driver bears no copy of a process that has called it, and on import some packages do.
    """
    if args.lone_rank is None and _is_preloaded(args.run_dir):
        return forked(functools.partial(rank_main, args.run_dir))
    python, *words = _rank_argv(args)
    return program([python, "-u", *words])


def _is_preloaded(run_dir: Path) -> bool:
    """Has this process what ranks on CPUs need, and may it be copied?

    What cannot be imported is told by fresh ranks: a second import, after one that failed half-way, fails for
    another reason. Threads that a package starts would be missing in copies, while their locks stay shut.
    """
    try:
        preset = RunDir(run_dir).preset()
        if preset.hardware.device != "cpu":
            return False
        preload(preset)
    except (Exception, SystemExit):  # noqa: BLE001 - whatever it is, a rank meets it again
        return False
    return threading.active_count() == 1


def _rank_argv(args: argparse.Namespace) -> list[str]:
    if args.lone_rank is None:
        return module_argv("tgsbench.training", str(args.run_dir))
    place = str(args.lone_rank), str(args.world_size)
    return module_argv("tgsbench.training.lone_rank", str(args.run_dir), *place)


def take_charge(parent_pid: int) -> None:
    """Make this process the one that its ranks end with, and that ends with `parent_pid`."""
    die_with_parent(signal.SIGTERM, parent_pid)
    os.environ["TGSBENCH_AGENT_PID"] = str(os.getpid())
    # Ranks inherit this until they listen: asked for its stack while it imports torch, one would die.
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)


def _parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tgsbench.training.agent")
    parser.add_argument("run_dir", type=Path)
    parser.add_argument("--nproc-per-node", type=int, required=True)
    parser.add_argument("--nnodes", type=int, default=1)
    parser.add_argument("--node-rank", type=int, default=0)
    parser.add_argument("--rendezvous", default="", help="HOST:PORT of the first node; empty: one machine")
    parser.add_argument("--rendezvous-id", default="")
    parser.add_argument("--local-addr", default="", help="this node's address on the way to the first node")
    parser.add_argument("--parent-pid", type=int, default=0)
    parser.add_argument("--lone-rank", type=int, help="the one rank of the world that runs, on a virtual GPU")
    parser.add_argument("--world-size", type=int, default=1, help="ranks of the world that --lone-rank is of")
    return parser.parse_args(argv)


def write_report(path: Path, report: LauncherReport) -> None:
    """Write launcher.json by rename; a disk that takes nothing is told of on stderr."""
    temporary = path.with_suffix(".tmp")
    try:
        temporary.write_bytes(msgspec.json.encode(report))
        temporary.replace(path)
    except OSError as error:
        print(f"cannot write {path}: {error}", file=sys.stderr)
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


if __name__ == "__main__":
    sys.exit(main())
