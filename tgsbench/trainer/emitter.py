"""A rank's event file: one write per event, never waits, never raises into the training."""

from __future__ import annotations

import itertools
import os
import sys
import time
from pathlib import Path

import msgspec

from tgsbench.schema.events import Event

_ENCODER = msgspec.json.Encoder()


class Emitter:
    """Appends events of one rank; O_APPEND and one os.write each, so threads may share it."""

    def __init__(self, path: Path, rank: int) -> None:
        self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
        self._rank = rank
        self._seq = itertools.count()
        self._failed = False

    def emit(self, event: Event) -> None:
        """Stamp and append one event; a full disk is reported once on stderr and training goes on."""
        event.t = time.monotonic()
        event.rank = self._rank
        event.seq = next(self._seq)
        try:
            os.write(self._fd, _ENCODER.encode(event) + b"\n")
        except OSError as error:
            if not self._failed:
                self._failed = True
                print(f"events of rank {self._rank} are lost from here on: {error}", file=sys.stderr)
