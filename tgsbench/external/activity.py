"""Tells whether another system makes progress: its log grows, or its processes use processor time."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from pathlib import Path

import psutil

_BUSY_SHARE = 0.2
"""Of what a busy process gets of a core, over a beat: more than ranks need that only wait for each other."""


class Activity:
    """Counts the beats in which something happened.

    Processor time of ranks counts on CPUs alone: one that waits for its GPU, or a collective there, spins.
    What a rank starts, such as a compiler, counts everywhere.
    """

    def __init__(self, log: Path, ranks_compute: bool) -> None:
        self._log = log
        self._ranks_compute = ranks_compute
        self._log_bytes = 0
        self._cpu_s: dict[int, float] = {}
        self._at_s = 0.0
        self.ticks = 0

    def look(self, family: Iterable[psutil.Process], now_s: float) -> None:
        """Look at the log and at the processes below torchrun, at time `now_s` of a monotonic clock."""
        log_bytes = self._log.stat().st_size if self._log.exists() else 0
        before, self._cpu_s = self._cpu_s, self._processor_times(family)
        used_s = sum(max(0.0, used - before.get(pid, used)) for pid, used in self._cpu_s.items())
        grown = log_bytes != self._log_bytes
        self.ticks += grown or used_s > _BUSY_SHARE * _fair_share() * (now_s - self._at_s)
        self._log_bytes, self._at_s = log_bytes, now_s

    def _processor_times(self, family: Iterable[psutil.Process]) -> dict[int, float]:
        times: dict[int, float] = {}
        for process in family:
            with contextlib.suppress(psutil.Error):
                if self._ranks_compute or not _is_rank(process):
                    used = process.cpu_times()
                    times[process.pid] = used.user + used.system
        return times


def _fair_share() -> float:
    """What one busy process gets of a core: under a load of 40 on two, ranks at work had a twentieth."""
    load: float = psutil.getloadavg()[0]
    return min(1.0, (psutil.cpu_count() or 1) / max(load, 1e-9))


def _is_rank(process: psutil.Process) -> bool:
    """A Python below torchrun that has a rank; compilers inherit the variable but are other programs."""
    return "RANK" in process.environ() and "python" in process.name()
