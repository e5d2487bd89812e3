"""Ranks under torch's elastic agent: those of several machines.

The agent's API instead of the torchrun command, because it returns each rank's exit code and signal as
values.
"""

from __future__ import annotations

import uuid

from torch.distributed.elastic.multiprocessing import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.elastic.rendezvous.api import RendezvousError
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from tgsbench.errors import ExitCode
from tgsbench.schema.run import LauncherReport
from tgsbench.training.local_ranks import SHUTDOWN_S, failed_code, rank_exit


def launch(config: LaunchConfig, report: LauncherReport, program: str, *args: str) -> int:
    """Run ranks of a program to their end; how each of them ended goes into the report."""
    try:
        elastic_launch(config, program)(*args)
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


def launch_config(nproc_per_node: int, nnodes: int) -> LaunchConfig:
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
        start_method="spawn",
    )
    if hasattr(config, "shutdown_timeout"):
        config.shutdown_timeout = SHUTDOWN_S
    return config
