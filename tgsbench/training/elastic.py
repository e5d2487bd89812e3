"""Ranks under torch's elastic agent: those of several machines, and those that are forked for a check.

The agent's API instead of the torchrun command, because it returns each rank's exit code and signal as
values.
"""

from __future__ import annotations

import contextlib
import datetime
import os
import shutil
import socket
import tempfile
import uuid
from collections.abc import Callable, Iterator

from torch._C._distributed_c10d import TCPStore
from torch.distributed.elastic.multiprocessing import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.elastic.rendezvous.api import RendezvousError
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from tgsbench.errors import ExitCode
from tgsbench.schema.run import LauncherReport
from tgsbench.training.local_ranks import LOOPBACK, SHUTDOWN_S, failed_code, rank_exit


def launch(
    config: LaunchConfig, report: LauncherReport, entrypoint: str | Callable[..., object], *args: object
) -> int:
    """Run ranks of a program or a function to their end; how each of them ended goes into the report."""
    try:
        elastic_launch(config, entrypoint)(*args)
    except ChildFailedError as error:
        failures = error.failures.items()
        report.exits = [rank_exit(rank, end.exitcode, end.timestamp) for rank, end in failures]
        return failed_code(report.exits)
    except SignalException as error:
        report.signal = error.sigval.name
        return 128 + int(error.sigval)
    except RendezvousError as error:
        cause = error.__cause__ or error
        report.problem = f"the nodes did not come together at {config.rdzv_endpoint}: {cause}".split("\n")[0]
        return int(ExitCode.CRASHED)
    return int(ExitCode.OK)


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
        config.shutdown_timeout = SHUTDOWN_S
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
