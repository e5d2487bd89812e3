"""Starts the ranks of one node under torch's elastic agent: `python -m tgsbench.trainer.agent RUN_DIR …`.

The agent's API instead of the torchrun command, because it returns each rank's exit code and signal as
values; they go to RUN_DIR/launcher.json for the launcher to read.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import time
import uuid
from pathlib import Path

import msgspec
from torch.distributed.elastic.multiprocessing import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from tgsbench.errors import ExitCode
from tgsbench.schema.run import LauncherReport, RankExit
from tgsbench.system.lifetime import die_with_parent

_SHUTDOWN_S = 5
"""How long ranks get to leave after SIGTERM before SIGKILL (torch's default is 30 s)."""


def main(argv: list[str] | None = None) -> int:
    """Run this node's ranks to their end and write launcher.json."""
    args = _parse(argv)
    if args.parent_pid:
        die_with_parent(signal.SIGTERM, expected_parent=args.parent_pid)
    report = LauncherReport()
    code = int(ExitCode.OK)
    try:
        elastic_launch(_config(args), sys.executable)("-u", "-m", "tgsbench.trainer", str(args.run_dir))
    except ChildFailedError as error:
        report.exits = [
            RankExit(
                rank=rank,
                exit_code=failure.exitcode,
                signal=_signal_name(failure.exitcode),
                t=failure.timestamp,
            )
            for rank, failure in error.failures.items()
        ]
        code = int(ExitCode.CRASHED)
    except SignalException as error:
        report.signal = error.sigval.name
        code = 128 + int(error.sigval)
    report.ended_unix = time.time()
    _write(args.run_dir / f"launcher{args.node_rank or ''}.json", report)
    return code


def _parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tgsbench.trainer.agent")
    parser.add_argument("run_dir", type=Path)
    parser.add_argument("--nproc-per-node", type=int, required=True)
    parser.add_argument("--nnodes", type=int, default=1)
    parser.add_argument("--node-rank", type=int, default=0)
    parser.add_argument("--rendezvous", default="", help="HOST:PORT of the first node; empty: one machine")
    parser.add_argument("--rendezvous-id", default="")
    parser.add_argument("--parent-pid", type=int, default=0)
    return parser.parse_args(argv)


def _config(args: argparse.Namespace) -> LaunchConfig:
    alone = args.nnodes == 1 and not args.rendezvous
    config = LaunchConfig(
        min_nodes=args.nnodes,
        max_nodes=args.nnodes,
        nproc_per_node=args.nproc_per_node,
        run_id=args.rendezvous_id or uuid.uuid4().hex,
        role="rank",
        rdzv_backend="c10d",
        rdzv_endpoint="127.0.0.1:0" if alone else args.rendezvous,
        rdzv_configs={} if alone else {"rank": args.node_rank, "is_host": args.node_rank == 0},
        max_restarts=0,
        monitor_interval=0.1,
        start_method="spawn",
        local_addr="127.0.0.1" if alone else os.environ.get("TGSBENCH_LOCAL_ADDR"),
    )
    if hasattr(config, "shutdown_timeout"):
        config.shutdown_timeout = _SHUTDOWN_S
    return config


def _signal_name(exit_code: int) -> str:
    return signal.Signals(-exit_code).name if exit_code < 0 else ""


def _write(path: Path, report: LauncherReport) -> None:
    temporary = path.with_suffix(".tmp")
    temporary.write_bytes(msgspec.json.encode(report))
    temporary.replace(path)


if __name__ == "__main__":
    sys.exit(main())
