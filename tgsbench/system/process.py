"""A child in a session of its own, and how it is stopped: SIGINT, SIGTERM, SIGKILL to its group only."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import BinaryIO

import psutil

from tgsbench.system.session import start_in_session

_PATIENCE_S = {signal.SIGINT: 3.0, signal.SIGTERM: 8.0, signal.SIGKILL: 5.0}


class ProcessGroup:
    """A process group that this object started."""

    def __init__(
        self, argv: Sequence[str], env: Mapping[str, str], log: Path, cwd: Path | None = None
    ) -> None:
        with _sink(log) as sink:
            self._process = start_in_session(argv, env, sink, cwd)
        self.pid = self._process.pid

    def poll(self) -> int | None:
        """Exit code, or None while it runs."""
        return self._process.poll()

    def stop(self) -> int:
        """Escalate until the group and its descendants are gone; returns the exit code."""
        family = self.family()
        for sig, patience_s in _PATIENCE_S.items():
            self._signal(sig)
            if self._wait(patience_s):
                break
        _kill_all(family)
        code = self._process.poll()
        return -signal.SIGKILL if code is None else code  # None: not even SIGKILL ends it (dead disk)

    def family(self) -> list[psutil.Process]:
        """Descendants now: ranks are session leaders of their own and outlive a killed group."""
        with contextlib.suppress(psutil.Error):
            family: list[psutil.Process] = psutil.Process(self.pid).children(recursive=True)
            return family
        return []

    def _signal(self, sig: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, sig)

    def _wait(self, patience_s: float) -> bool:
        deadline_s = time.monotonic() + patience_s
        while time.monotonic() < deadline_s:
            if self._process.poll() is not None:
                return True
            time.sleep(0.05)
        return False


def _sink(log: Path) -> BinaryIO:
    """The log, or nothing where it cannot be opened: a full disk must not keep a run from ending."""
    try:
        return log.open("ab")
    except OSError:
        return Path(os.devnull).open("ab")


def _kill_all(family: list[psutil.Process]) -> None:
    for process in family:
        with contextlib.suppress(psutil.Error):
            process.kill()
