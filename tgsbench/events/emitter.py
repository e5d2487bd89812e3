"""An event file's writer: one write per event, never waits, never raises into the training."""

from __future__ import annotations

import contextlib
import itertools
import os
import sys
import time
from pathlib import Path

import msgspec

from tgsbench.schema.events import EVENTS_LOST, Event, Warn

_ENCODER = msgspec.json.Encoder()


class Emitter:
    """Appends events of one rank; O_APPEND and one os.write each, so threads share it without a lock."""

    def __init__(self, path: Path, rank: int) -> None:
        self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
        self._rank = rank
        self._seq = itertools.count()
        self._num_lost = 0
        self._torn = False

    def emit(self, event: Event) -> bool:
        """Stamp and append one event; on a full disk it is lost and counted, and training goes on.

        Returns whether it was written whole.
        """
        if self._num_lost and self._write(self._confession()):
            self._num_lost = 0
        written = self._write(event)
        self._num_lost += not written
        return written

    def _write(self, event: Event) -> bool:
        event.t = time.monotonic()
        event.rank = self._rank
        event.seq = next(self._seq)
        # The line break closes the half line that a full disk left; readers pass over empty lines.
        line = b"\n" * self._torn + _ENCODER.encode(event) + b"\n"
        try:
            whole = os.write(self._fd, line) == len(line)
        except OSError as error:
            self._complain(str(error))
            return False
        self._torn = not whole
        return whole

    def _complain(self, why: str) -> None:
        if not self._num_lost:
            with contextlib.suppress(OSError):
                print(f"rank {self._rank}: events are lost from here on: {why}", file=sys.stderr, flush=True)

    def _confession(self) -> Warn:
        return Warn(
            code=EVENTS_LOST,
            msg=f"rank {self._rank} could not write {self._num_lost} events: the disk was full or read-only",
            hint="choose a folder with room: --output DIR or TGSBENCH_RUNS=DIR",
        )
