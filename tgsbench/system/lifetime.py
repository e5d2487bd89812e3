"""Ties a process's life to its parent's, so that no rank outlives its launcher."""

from __future__ import annotations

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1


def die_with_parent(sig: signal.Signals, expected_parent: int | None = None) -> None:
    """Ask Linux to send `sig` to this process when its parent dies; elsewhere nothing happens.

    `expected_parent` closes the race in which the parent died before the call.
    """
    if not sys.platform.startswith("linux"):
        return
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, int(sig), 0, 0, 0)
    if expected_parent is not None and os.getppid() != expected_parent:
        os.kill(os.getpid(), sig)
