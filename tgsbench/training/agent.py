"""Starts the ranks of one node under torch's elastic agent: `python -m tgsbench.training.agent RUN_DIR …`.

The agent's API instead of the torchrun command, because it returns each rank's exit code and signal as
values; they go to RUN_DIR/launcher.json for the launcher to read.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import os
import shutil
import signal
import socket
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
from torch._C._distributed_c10d import TCPStore
from torch.distributed.elastic.multiprocessing import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.elastic.rendezvous.api import RendezvousError
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from tgsbench.errors import ExitCode
from tgsbench.schema.run import LauncherReport, RankExit
from tgsbench.system.child import module_argv
from tgsbench.system.lifetime import die_with_parent, signal_name

_SHUTDOWN_S = 5
"""How long ranks get to leave after SIGTERM before SIGKILL (torch's default is 30 s)."""
LOOPBACK = "127.0.0.1"


def main(argv: list[str] | None = None) -> int:
    """Run this node's ranks to their end and write launcher.json."""
    args = _parse(argv)
    take_charge(args.parent_pid)
    report = LauncherReport(node_rank=args.node_rank)
    with _rendezvous_of(args) as config:
        python, *words = _rank_argv(args)
        code = launch(config, report, python, "-u", *words)
    report.ended_unix = time.time()
    write_report(args.run_dir / f"launcher{args.node_rank or ''}.json", report)
    return code


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


def launch(
    config: LaunchConfig, report: LauncherReport, entrypoint: str | Callable[..., object], *args: object
) -> int:
    """Run ranks of a program or a function to their end; how each of them ended goes into the report."""
    try:
        elastic_launch(config, entrypoint)(*args)
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
        full = any(exit.exit_code == ExitCode.STORE for exit in report.exits)
        return int(ExitCode.STORE if full else ExitCode.CRASHED)
    except SignalException as error:
        report.signal = error.sigval.name
        return 128 + int(error.sigval)
    except RendezvousError as error:
        cause = error.__cause__ or error
        report.problem = f"the nodes did not come together at {config.rdzv_endpoint}: {cause}".split("\n")[0]
        return int(ExitCode.CRASHED)
    return int(ExitCode.OK)


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


@contextlib.contextmanager
def _rendezvous_of(args: argparse.Namespace) -> Iterator[LaunchConfig]:
    config = launch_config(args.nproc_per_node, args.nnodes)
    config.run_id = args.rendezvous_id or config.run_id
    config.rdzv_endpoint = args.rendezvous
    config.rdzv_configs["is_host"] = args.node_rank == 0
    config.local_addr = args.local_addr or None
    if args.nnodes > 1 or args.rendezvous:
        yield config
        return
    with loopback_only(config):
        yield config


def launch_config(nproc_per_node: int, nnodes: int = 1, start_method: str = "spawn") -> LaunchConfig:
    """How the elastic agent starts and watches ranks, but for where they meet."""
    config = LaunchConfig(
        min_nodes=nnodes,
        max_nodes=nnodes,
        nproc_per_node=nproc_per_node,
        run_id=uuid.uuid4().hex,
        role="rank",
        rdzv_backend="c10d",
        rdzv_configs={"is_host": True},
        max_restarts=0,
        monitor_interval=0.1,
        start_method=start_method,
    )
    if hasattr(config, "shutdown_timeout"):
        config.shutdown_timeout = _SHUTDOWN_S
    return config


@contextlib.contextmanager
def loopback_only(config: LaunchConfig) -> Iterator[None]:
    """Meet through a private file and a store on the loopback address.

    torch's own TCPStore listens on every interface and takes commands from anyone; and a port that is
    bound here and kept cannot be snatched by another run between being chosen and being used.
    """
    folder = tempfile.mkdtemp(prefix="tgsbench-")
    config.rdzv_endpoint = f"{folder}/rendezvous"
    config.rdzv_configs["store_type"] = "file"
    config.local_addr = LOOPBACK
    os.environ["TORCH_DISABLE_SHARE_RDZV_TCP_STORE"] = "1"
    listener = socket.create_server((LOOPBACK, 0))
    port = listener.getsockname()[1]
    store = TCPStore(
        LOOPBACK,
        port,
        is_master=True,
        wait_for_workers=False,
        timeout=datetime.timedelta(minutes=5),
        master_listen_fd=listener.detach(),
    )
    os.environ["TGSBENCH_STORE_PORT"] = str(port)
    try:
        yield
    finally:
        del store
        shutil.rmtree(folder, ignore_errors=True)


def _signal_name(exit_code: int) -> str:
    return signal_name(-exit_code) if exit_code < 0 else ""


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
