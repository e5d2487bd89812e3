"""Starts the ranks of a run on one machine and watches them: what torch's elastic agent does over several.

Without torch: importing it would take longer than all else between the command and the ranks.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import time
from collections.abc import Mapping, Sequence
from types import FrameType

from tgsbench.errors import ExitCode
from tgsbench.schema.run import LauncherReport, RankExit
from tgsbench.system.lifetime import signal_name

LOOPBACK = "127.0.0.1"
SHUTDOWN_S = 5
"""How long ranks get to leave once they are asked to, before SIGKILL."""
_LOOK_S = 0.1
_HEARD = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT)

Ranks = Sequence["subprocess.Popen[bytes]"]


class _Stop:
    """Remembers the first signal that asks to end: no rank that is just being started is lost by it."""

    def __init__(self) -> None:
        self.caught: signal.Signals | None = None
        for sig in _HEARD:
            signal.signal(sig, self._catch)

    def _catch(self, signum: int, _frame: FrameType | None) -> None:
        self.caught = self.caught or signal.Signals(signum)


def run_ranks(argv: Sequence[str], num_ranks: int, report: LauncherReport) -> int:
    """Run the command once a rank to their end; how each of them failed goes into the report.

    Acts on the first exit code other than 0, or signal: the others are asked to leave. Returns an exit code.
    """
    stop, ranks = _Stop(), list[subprocess.Popen[bytes]]()
    try:
        # Ranks meet at a port that is bound here: no other run can snatch it between choice and use.
        with socket.create_server((LOOPBACK, 0)) as listener:
            for rank in range(num_ranks):
                ranks.append(_start(argv, rank, num_ranks, listener))
        return _watch(ranks, stop, report)
    finally:
        _end(ranks, stop.caught or signal.SIGTERM)


def _start(
    argv: Sequence[str], rank: int, num_ranks: int, listener: socket.socket
) -> subprocess.Popen[bytes]:
    keeps = [listener.fileno()] if rank == 0 else []
    env = {**os.environ, **_place(rank, num_ranks, listener.getsockname()[1])}
    if keeps:
        env["TGSBENCH_STORE_FD"] = str(keeps[0])
    return subprocess.Popen(argv, env=env, pass_fds=keeps, start_new_session=True)


def _place(rank: int, num_ranks: int, port: int) -> Mapping[str, str]:
    """The variables by which torch, and libraries beside it, know a rank's place."""
    return {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "GROUP_RANK": "0",
        "WORLD_SIZE": str(num_ranks),
        "LOCAL_WORLD_SIZE": str(num_ranks),
        "MASTER_ADDR": LOOPBACK,
        "MASTER_PORT": str(port),
        "TGSBENCH_STORE_PORT": str(port),
    }


def _watch(ranks: Ranks, stop: _Stop, report: LauncherReport) -> int:
    while stop.caught is None:
        codes = [process.poll() for process in ranks]
        if any(codes):
            now = int(time.time())
            report.exits = [rank_exit(rank, code, now) for rank, code in enumerate(codes) if code]
            return failed_code(report.exits)
        if None not in codes:
            return ExitCode.OK
        time.sleep(_LOOK_S)
    report.signal = stop.caught.name
    return 128 + stop.caught


def rank_exit(rank: int, code: int, unix_s: int) -> RankExit:
    """How a rank's process ended, of a negative code by which signal."""
    name = signal_name(-code) if code < 0 else ""
    return RankExit(rank=rank, exit_code=code, signal=name, t=unix_s)


def failed_code(exits: Sequence[RankExit]) -> int:
    """What the agent of ranks that failed ends with: a full disk is told from all else."""
    return int(ExitCode.STORE if any(end.exit_code == ExitCode.STORE for end in exits) else ExitCode.CRASHED)


def _end(ranks: Ranks, sig: signal.Signals) -> None:
    """Ask the ranks that are left, and what they started, to leave; after a while insist."""
    _signal(ranks, sig)
    deadline_s = time.monotonic() + SHUTDOWN_S
    while any(process.poll() is None for process in ranks) and time.monotonic() < deadline_s:
        time.sleep(_LOOK_S)
    _signal(ranks, signal.SIGKILL)


def _signal(ranks: Ranks, sig: signal.Signals) -> None:
    for process in ranks:
        if process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, sig)
