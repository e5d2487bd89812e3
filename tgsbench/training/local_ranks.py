"""Starts the ranks of a run on one machine and watches them: what torch's elastic agent does over several.

Without torch: importing it would take longer than all else between the command and the ranks.
"""

from __future__ import annotations

import contextlib
import io
import os
import signal
import socket
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from types import FrameType
from typing import NoReturn, Protocol

from tgsbench.errors import ExitCode
from tgsbench.schema.run import LauncherReport, RankExit
from tgsbench.system.lifetime import signal_name

LOOPBACK = "127.0.0.1"
SHUTDOWN_S = 5
"""How long ranks get to leave once they are asked to, before SIGKILL."""
_LOOK_S = 0.02
"""Half of it is lost at the end of each run, of which a verification makes six."""
HEARD = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT)
"""Signals that ask ranks and those who watch them to leave."""


class Rank(Protocol):
    """The process of a rank, which leads a session of its own."""

    @property
    def pid(self) -> int:
        """Of the process."""
        ...

    def poll(self) -> int | None:
        """Its exit code, -N where signal N ended it, or None while it runs."""
        ...


Ranks = Sequence[Rank]
Start = Callable[[Mapping[str, str], Sequence[int]], Rank]
"""Starts a rank with these variables besides this process's, which keeps these open files."""
Choose = Callable[[], Start]
"""Says how ranks start; may import for seconds what they are to find, and is given up at a signal."""


class _Stop:
    """Remembers the first signal that asks to end: no rank that is just being started is lost by it."""

    def __init__(self) -> None:
        self.caught: signal.Signals | None = None
        self._ends_work = False
        for sig in HEARD:
            signal.signal(sig, self._catch)

    def unless_asked(self, choose: Choose) -> Start | None:
        """What it chooses; None where a signal came first, for which nobody waits until all is imported."""
        self._ends_work = True
        try:
            return choose()
        except KeyboardInterrupt:
            return None
        finally:
            self._ends_work = False

    def _catch(self, signum: int, _frame: FrameType | None) -> None:
        self.caught = self.caught or signal.Signals(signum)
        if self._ends_work:
            self._ends_work = False
            raise KeyboardInterrupt


def program(argv: Sequence[str]) -> Start:
    """Ranks that run a command."""

    def start(place: Mapping[str, str], keeps: Sequence[int]) -> Rank:
        env = {**os.environ, **place}
        return subprocess.Popen(argv, env=env, pass_fds=keeps, start_new_session=True)

    return start


def forked(function: Callable[[], object]) -> Start:
    """Ranks that run a function of this process, which has imported what they need and has no threads."""
    return lambda place, _keeps: _Fork(function, place)


class _Fork:
    """A copy of this process that runs a function and leaves."""

    def __init__(self, function: Callable[[], object], place: Mapping[str, str]) -> None:
        sys.stdout.flush()
        sys.stderr.flush()
        self._code: int | None = None
        self.pid = os.fork()
        if self.pid == 0:
            _run_and_leave(function, place)

    def poll(self) -> int | None:
        """Its exit code, -N where signal N ended it, or None while it runs."""
        if self._code is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            self._code = os.waitstatus_to_exitcode(status) if pid else None
        return self._code


def _run_and_leave(function: Callable[[], object], place: Mapping[str, str]) -> NoReturn:
    """Never returns into code of the process that was copied, whatever the function does."""
    code = int(ExitCode.CRASHED)
    try:
        os.setsid()
        for sig in HEARD:
            signal.signal(sig, signal.SIG_DFL)
        os.environ.update(place)
        _print_by_line()
        function()
        code = int(ExitCode.OK)
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(ExitCode.CRASHED if end.code else ExitCode.OK)
    except BaseException:  # noqa: BLE001 - the border of the process
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _print_by_line() -> None:
    """What a rank printed must not be lost with it."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(line_buffering=True)


def run_ranks(choose: Choose, num_ranks: int, report: LauncherReport) -> int:
    """Run ranks to their end; how each of them failed goes into the report.

    Acts on the first exit code other than 0, or signal: the others are asked to leave. Returns an exit code.
    """
    stop, ranks = _Stop(), list[Rank]()
    try:
        if start := stop.unless_asked(choose):
            _start_all(start, num_ranks, ranks)
        return _watch(ranks, stop, report)
    finally:
        _end(ranks, stop.caught or signal.SIGTERM)


def _start_all(start: Start, num_ranks: int, ranks: list[Rank]) -> None:
    # Ranks meet at a port that is bound here: no other run can snatch it between choice and use.
    with socket.create_server((LOOPBACK, 0)) as listener:
        port, listens = listener.getsockname()[1], listener.fileno()
        first = _place(0, num_ranks, port) | {"TGSBENCH_STORE_FD": str(listens)}
        ranks.append(start(first, [listens]))
    # Closed by now: a copy of this process would keep it, and a store that is gone would take calls.
    ranks += (start(_place(rank, num_ranks, port), []) for rank in range(1, num_ranks))


def _place(rank: int, num_ranks: int, port: int) -> dict[str, str]:
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
        if any(codes) and stop.caught is None:  # else they left because all were asked to
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
