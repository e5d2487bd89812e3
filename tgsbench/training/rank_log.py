"""A rank's own log: all that it and the libraries in it print, C++ ones included, in bounded room."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

MAX_BYTES = 32 << 20
"""Of the log; as much again is kept of what came before."""


class RankLog:
    """Stands in for stdout and stderr of this process: no pipe can fill, and no disk by it."""

    def __init__(self, run_dir: Path, rank: int) -> None:
        self.path = run_dir / "log" / f"rank{rank:05d}.log"

    @property
    def before(self) -> Path:
        """What the log held before it began anew."""
        return self.path.with_name(f"{self.path.name}.1")

    def take_output(self) -> None:
        """From now on all output goes here; raises OSError where the file cannot be opened."""
        fd = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        os.dup2(fd, 1)
        os.dup2(fd, 2)
        os.close(fd)

    def turn_if_full(self) -> None:
        """Begin the file anew where it has grown too long; between two calls it may grow longer."""
        with contextlib.suppress(OSError):  # on a full disk it stays as it is
            if self.path.stat().st_size > MAX_BYTES:
                self.path.replace(self.before)
                self.take_output()
