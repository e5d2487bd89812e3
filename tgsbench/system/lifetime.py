"""Ties a process's life to its parent's, and tells a process from a later one with its number."""

from __future__ import annotations

import ctypes
import os
import re
import signal
import sys
from pathlib import Path

_PR_SET_PDEATHSIG, _PR_SET_NAME = 1, 15
_RANK_NAME = re.compile(r"rank (\d{1,9})")
_START_FIELD = 19
"""Index of starttime in /proc/PID/stat, counted after the command's closing bracket (proc(5), field 22)."""


def die_with_parent(sig: signal.Signals, expected_parent: int = 0) -> None:
    """Ask Linux to send `sig` to this process when its parent dies; elsewhere nothing happens.

    `expected_parent` (0: unknown) closes the race in which the parent died before the call.
    """
    if not sys.platform.startswith("linux"):
        return
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, int(sig), 0, 0, 0)
    if expected_parent and os.getppid() != expected_parent:
        os.kill(os.getpid(), sig)


def name_rank(rank: int) -> None:
    """Let this process be called "rank 3" by `ps` and its like: copies of one process share its command."""
    if sys.platform.startswith("linux"):
        ctypes.CDLL(None).prctl(_PR_SET_NAME, f"rank {rank}".encode(), 0, 0, 0)


def rank_named(name: str) -> int | None:
    """The rank that a process of this name is; None for any other."""
    match = _RANK_NAME.fullmatch(name)
    return int(match[1]) if match else None


def process_identity(pid: int) -> str:
    """What no other process shares, before or after a reboot: boot, number, and start in clock ticks.

    Empty when there is no such process. No wall clock is in it: one that jumps changes nothing.
    """
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return ""
    fields = stat.rpartition(")")[2].split()
    if fields[0] in ("Z", "X"):
        return ""
    return f"{boot}/{pid}/{fields[_START_FIELD]}"


def die_with_parent_argv(argv: list[str]) -> list[str]:
    """The command that runs `argv` and lets it end (SIGTERM) when this process does, even by SIGKILL."""
    return [sys.executable, "-I", str(Path(__file__).resolve()), str(os.getpid()), *argv]


if __name__ == "__main__":
    # The request outlives execve (prctl(2)), so a program that knows nothing of it is tied all the same.
    die_with_parent(signal.SIGTERM, int(sys.argv[1]))
    os.execvp(sys.argv[2], sys.argv[2:])


def signal_name(number: int) -> str:
    """SIGKILL for 9; "signal 40" where the number has no name, as real-time signals have none."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
